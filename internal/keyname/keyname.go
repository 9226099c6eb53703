// Package keyname turns the parts of a key into the names of Redis keys. It is the one place that does.
package keyname

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// Namer makes names under one prefix. With a secret every part is replaced by its HMAC-SHA-256; nil leaves names readable.
type Namer struct {
	Prefix string
	Secret []byte
}

// Names are the Redis keys of one key. All of them, and the wake-up channels that bear the same names, share the tag's slot.
type Names struct {
	Tag    string // what stands between the braces
	Record string
	Fence  string // empty without a resource
}

// Names of the key that these parts make; an empty resource is none.
func (n Namer) Names(scope, id, resource string) Names {
	if resource == "" {
		tag := n.part("scope", scope) + ":" + n.part("id", id)
		record := n.Prefix + ":{" + tag + "}:r"
		return Names{Tag: n.within(record, tag), Record: record}
	}
	tag := n.part("resource", resource)
	record := n.Prefix + ":{" + tag + "}:r:" + n.part("scope", scope) + ":" + n.part("id", id)
	return Names{Tag: n.within(record, tag), Record: record, Fence: n.Prefix + ":{" + tag + "}:f"}
}

// within is the tag as a part of a name that has it: who keeps the names for long keeps its bytes once.
func (n Namer) within(name, tag string) string {
	return name[len(n.Prefix)+len(":{"):][:len(tag)]
}

// Keys are KEYS of a script: the record and, with a resource, its fence.
func (n Names) Keys() []string {
	if n.Fence == "" {
		return []string{n.Record}
	}
	return []string{n.Record, n.Fence}
}

// Guard is what a fenced write is checked against: the resource's fence, or the record alone.
func (n Names) Guard() string {
	if n.Fence == "" {
		return n.Record
	}
	return n.Fence
}

// Own says whether a Redis key belongs to this module under this prefix.
func (n Namer) Own(redisKey string) bool {
	return strings.HasPrefix(redisKey, n.Prefix+":")
}

// Past this length a part's digest is shorter than the part.
const longestPart = 100

// part encodes one part of a name so that different parts differ and none holds a brace or a colon:
// plain bytes as they are, others as %XX, long ones as ~digest, hashed ones as =digest.
func (n Namer) part(label, s string) string {
	if n.Secret != nil {
		mac := hmac.New(sha256.New, n.Secret)
		mac.Write([]byte(label + "\x00" + s))
		return "=" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	special := 0
	for i := 0; i < len(s); i++ {
		if !Plain(s[i]) {
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
		if c := s[i]; Plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

// Plain says which bytes stand in a name as they are.
func Plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '_' || c == '.' || c == '/' || c == '@'
}
