package coordinator

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
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
	size := len(parts)
	for _, part := range parts {
		size += len(part)
	}
	joined := make([]byte, 0, size) // and what is escaped
	for i, part := range parts {
		if i > 0 {
			joined = append(joined, '/')
		}
		if part == "" {
			joined = append(joined, '@') // so that no parts and one empty part differ
		}
		for _, c := range []byte(part) { // "@" stays readable in Redis, "%" would not
			switch c {
			case '@':
				joined = append(joined, "@40"...)
			case '/':
				joined = append(joined, "@2F"...)
			default:
				joined = append(joined, c)
			}
		}
	}
	return string(joined)
}

// UUIDv7Time reads the time out of a UUIDv7 in its usual form of 36 characters; false for anything
// else. Give it to [IssuedAt] when clients make such keys.
func UUIDv7Time(id string) (time.Time, bool) {
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' {
		return time.Time{}, false
	}
	var raw [16]byte
	at := raw[:0]
	for _, part := range [5]string{id[:8], id[9:13], id[14:18], id[19:23], id[24:]} {
		var err error
		if at, err = hex.AppendDecode(at, []byte(part)); err != nil {
			return time.Time{}, false
		}
	}
	if raw[6]>>4 != 7 || raw[8]>>6 != 2 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(raw[:8]) >> 16)).UTC(), true
}

func (c *Coordinator) names(k Key) keyname.Names { return c.namer.Names(k.Scope, k.ID, k.Resource) }

// namesOf is names for a call: of a key that can be used, before Close.
func (c *Coordinator) namesOf(key Key) (keyname.Names, error) {
	if err := c.usable(key); err != nil {
		return keyname.Names{}, err
	}
	return c.names(key), nil
}

func (c *Coordinator) usable(key Key) error {
	if c.closed() {
		return ErrClosed
	}
	return key.Validate()
}
