package coordinator

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Key names one logical operation. Two keys are the same operation only when all three parts are equal.
type Key struct {
	// Scope is the tenant and the operation that ID belongs to; it may be empty. [JoinScope] builds it
	// from parts. A client's ID alone must never decide whose answer it gets.
	Scope string
	// ID is the idempotency key as the client sent it, 1 to 255 bytes, any bytes.
	ID string
	// Resource is optional: what the operation writes to, such as "account/42". One key of a resource
	// holds a lease at a time, their tokens rise together and they share a hash slot. It is part of the
	// key's identity, so derive it from what every retry carries.
	Resource string
}

const maxIDBytes = 255

// Validate reports whether the key can be used; its error is ErrInvalid.
func (k Key) Validate() error {
	if k.ID == "" {
		return fmt.Errorf("%w: Key.ID is empty; set it to the idempotency key of the request", ErrInvalid)
	}
	if len(k.ID) > maxIDBytes {
		return fmt.Errorf("%w: Key.ID has %d bytes, at most %d are allowed; send a shorter key or its digest", ErrInvalid, len(k.ID), maxIDBytes)
	}
	return nil
}

// JoinScope builds a scope from parts, such as tenant, method and route. It is injective: different
// lists of parts give different scopes, whatever bytes the parts hold.
func JoinScope(parts ...string) string {
	escape := strings.NewReplacer("@", "@40", "/", "@2F") // "@" stays readable in Redis, "%" would not
	joined := make([]string, len(parts))
	for i, part := range parts {
		if joined[i] = escape.Replace(part); part == "" {
			joined[i] = "@" // so that no parts and one empty part differ
		}
	}
	return strings.Join(joined, "/")
}

// UUIDv7Time reads the time out of a UUIDv7 in its usual form of 36 characters; false for anything
// else. Give it to [IssuedAt] when clients make such keys.
func UUIDv7Time(id string) (time.Time, bool) {
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' {
		return time.Time{}, false
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(raw) != 16 || raw[6]>>4 != 7 || raw[8]>>6 != 2 {
		return time.Time{}, false
	}
	var ms int64
	for _, b := range raw[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms).UTC(), true
}

// namer is the one place that turns keys into names of Redis keys.
type namer struct {
	prefix string
	secret []byte // nil: names stay readable
}

// names are the Redis keys of one Key. All of them, and the wake-up channels that bear the same names, share the tag's slot.
type names struct {
	tag    string // what stands between the braces
	record string
	fence  string // empty without a resource
}

func (n namer) names(k Key) names {
	if k.Resource == "" {
		tag := n.part("scope", k.Scope) + ":" + n.part("id", k.ID)
		return names{tag: tag, record: n.prefix + ":{" + tag + "}:r"}
	}
	tag := n.part("resource", k.Resource)
	return names{
		tag:    tag,
		record: n.prefix + ":{" + tag + "}:r:" + n.part("scope", k.Scope) + ":" + n.part("id", k.ID),
		fence:  n.prefix + ":{" + tag + "}:f",
	}
}

// keys are KEYS of a script: the record and, with a resource, its fence.
func (n names) keys() []string {
	if n.fence == "" {
		return []string{n.record}
	}
	return []string{n.record, n.fence}
}

// guard is what a fenced write is checked against: the resource's fence, or the record alone.
func (n names) guard() string {
	if n.fence == "" {
		return n.record
	}
	return n.fence
}

// own says whether a Redis key belongs to this module under this prefix.
func (n namer) own(redisKey string) bool {
	return strings.HasPrefix(redisKey, n.prefix+":")
}

// Past this length a part's digest is shorter than the part.
const longestPart = 100

// part encodes one part of a name so that different parts differ and none holds a brace or a colon:
// plain bytes as they are, others as %XX, long ones as ~digest, hashed ones as =digest.
func (n namer) part(label, s string) string {
	if n.secret != nil {
		mac := hmac.New(sha256.New, n.secret)
		mac.Write([]byte(label + "\x00" + s))
		return "=" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	special := 0
	for i := 0; i < len(s); i++ {
		if !plain(s[i]) {
			special++
		}
	}
	if len(s)+2*special > longestPart {
		sum := sha256.Sum256([]byte(s))
		return "~" + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if special == 0 {
		return s
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) + 2*special)
	for i := 0; i < len(s); i++ {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '_' || c == '.' || c == '/' || c == '@'
}

// slotOf is the hash slot of a Redis key: CRC16 (XMODEM) of its hash tag, or of all of it without one.
func slotOf(redisKey string) int {
	if open := strings.IndexByte(redisKey, '{'); open >= 0 {
		if size := strings.IndexByte(redisKey[open+1:], '}'); size > 0 {
			redisKey = redisKey[open+1 : open+1+size]
		}
	}
	var crc uint16
	for i := 0; i < len(redisKey); i++ {
		crc ^= uint16(redisKey[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % 16384)
}
