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
	record := string(n.appendRecord(make([]byte, 0, maxRecord), scope, id, resource))
	end := strings.IndexByte(record, '}') // the first one, since neither prefix nor tag has any
	names := Names{Tag: record[len(n.Prefix)+len(":{") : end], Record: record}
	if resource != "" {
		names.Fence = record[:end] + "}:f"
	}
	return names
}

// maxRecord is as long as a record's name becomes under a prefix of 64 bytes.
const maxRecord = 64 + len(":{") + longestPart + len("}:r:") + longestPart + len(":") + longestPart

// appendRecord appends the name of the record to b.
func (n Namer) appendRecord(b []byte, scope, id, resource string) []byte {
	b = append(append(b, n.Prefix...), ":{"...)
	if resource != "" {
		b = append(n.appendPart(b, "resource", resource), "}:r:"...)
	}
	b = append(n.appendPart(b, "scope", scope), ':')
	b = n.appendPart(b, "id", id)
	if resource == "" {
		b = append(b, "}:r"...)
	}
	return b
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

// appendPart encodes one part of a name so that different parts differ and none holds a brace or a colon:
// plain bytes as they are, others as %XX, long ones as ~digest, hashed ones as =digest.
func (n Namer) appendPart(b []byte, label, s string) []byte {
	if n.Secret != nil {
		mac := hmac.New(sha256.New, n.Secret)
		mac.Write([]byte(label + "\x00" + s))
		return base64.RawURLEncoding.AppendEncode(append(b, '='), mac.Sum(nil))
	}
	special := 0
	for i := range len(s) {
		if !plain[s[i]] {
			special++
		}
	}
	if len(s)+2*special > longestPart {
		sum := sha256.Sum256([]byte(s))
		return base64.RawURLEncoding.AppendEncode(append(b, '~'), sum[:])
	}
	if special == 0 {
		return append(b, s...)
	}
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		if c := s[i]; plain[c] {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return b
}

// Plain says which bytes stand in a name as they are.
func Plain(c byte) bool { return plain[c] }

// plain is a table, since names are made for every call.
var plain = func() (table [256]bool) {
	for i := range table {
		c := byte(i)
		table[i] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '_' || c == '.' || c == '/' || c == '@'
	}
	return table
}()
