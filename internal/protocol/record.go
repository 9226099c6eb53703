package protocol

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Record is what Redis holds for a key, or, without attempt and print, as a resource's fence; scripts/common.lua
// describes its form.
type Record struct {
	State        byte // p, r, c, f
	Owner        string
	Token        int64
	Mark         byte
	Attempt      int
	Bound        bool // to a fingerprint, be it none
	Fingerprint  []byte
	End          time.Duration // since 1970: the lease's end, or when it finished
	Length       time.Duration
	Maximum      time.Duration
	Data         []byte // the result, or the checkpoint
	Sequence     int64  // of the checkpoint
	Checkpointed bool
}

// The states of a record.
const (
	StateInProgress = 'p'
	StateReleased   = 'r'
	StateCompleted  = 'c'
	StateFailed     = 'f'
)

const (
	// MaxFingerprint is the most bytes that a fingerprint has.
	MaxFingerprint = 64
	// MaxToken is one more than the greatest token: beyond it, Lua's numbers are not exact.
	MaxToken = 1 << 53

	version      = '1'
	unboundPrint = 99 // as a fingerprint's length: bound to none yet
)

// Finished says whether the record holds an outcome.
func (r *Record) Finished() bool { return r.State == StateCompleted || r.State == StateFailed }

// Encode writes a record as the scripts do. They write all that there is; tests make records of any state with it.
func (r *Record) Encode() string { return string(r.bytes()) }

func (r *Record) bytes() []byte {
	size, mark := len(r.Fingerprint), r.Mark
	if !r.Bound {
		size = unboundPrint
	}
	if mark == 0 {
		mark = '0'
	}
	b := make([]byte, 0, 109+len(r.Fingerprint)+len(r.Data))
	b = append(b, version, r.State)
	b = append(b, r.Owner...)
	b = append(padded(b, r.Token, 16), mark)
	b = padded(b, int64(r.Attempt), 8)
	b = padded(b, int64(size), 2)
	b = padded(b, r.End.Milliseconds(), 13)
	if !r.Finished() {
		b = padded(b, r.Length.Milliseconds(), 12)
		b = padded(b, r.Maximum.Milliseconds(), 13)
	}
	b = append(b, r.Fingerprint...)
	if r.Checkpointed {
		b = padded(b, r.Sequence, 10)
	}
	return append(b, r.Data...)
}

// padded appends a number with zeros in front.
func padded(b []byte, n int64, width int) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], n, 10)
	for range width - len(text) {
		b = append(b, '0')
	}
	return append(b, text...)
}

// CorruptError says why something is no record, or no reply, of ours.
type CorruptError struct{ Why string }

func (e *CorruptError) Error() string { return e.Why }

func corrupt(format string, args ...any) error {
	return &CorruptError{Why: fmt.Sprintf(format, args...)}
}

// DecodeRecord reads a record, or its header alone where a reply carries no more; its error is a *CorruptError.
func DecodeRecord(s string, whole bool) (Record, error) {
	var r Record
	if s == "" {
		return r, corrupt("it is empty")
	}
	if s == "WRONGTYPE" {
		return r, corrupt("it is of another type, so another program wrote it; give this one a prefix of its own")
	}
	if s[0] != version {
		if '2' <= s[0] && s[0] <= '9' && len(s) >= 2 && strings.IndexByte("cfpr", s[1]) >= 0 {
			return r, corrupt("it is of version %c, this release reads version %c; upgrade this process", s[0], version)
		}
		return r, corrupt("it was not written by this module")
	}
	f := fields{rest: s[1:]}
	r.State = f.take(1)[0]
	r.Owner = f.take(32)
	r.Token = f.number(16)
	r.Mark = byte('0' + f.number(1))
	r.Attempt = int(f.number(8))
	size := f.number(2)
	r.End = f.millis(13)
	if r.State == StateInProgress || r.State == StateReleased {
		r.Length, r.Maximum = f.millis(12), f.millis(13)
	} else if !r.Finished() {
		f.bad = true
	}
	if r.Bound = size != unboundPrint; !r.Bound {
		size = 0
	}
	if f.bad || size > MaxFingerprint || !IsOwner(r.Owner) {
		return Record{}, corrupt("its header is damaged")
	}
	if !whole {
		return r, nil
	}
	if size > 0 {
		r.Fingerprint = []byte(f.take(int(size)))
	}
	if !r.Finished() && f.rest != "" {
		r.Sequence, r.Checkpointed = f.number(10), true
	}
	if f.bad {
		return Record{}, corrupt("it is cut off")
	}
	r.Data = []byte(f.rest)
	return r, nil
}

// fields takes fixed-width fields off a record's front; what is short or not a number makes it bad.
type fields struct {
	rest string
	bad  bool
}

func (f *fields) take(width int) string {
	if len(f.rest) < width {
		f.rest, f.bad = "", true
		return strings.Repeat("0", width)
	}
	field := f.rest[:width]
	f.rest = f.rest[width:]
	return field
}

func (f *fields) number(width int) int64 {
	var n int64
	for _, digit := range []byte(f.take(width)) {
		if digit < '0' || digit > '9' {
			f.bad = true
			return 0
		}
		n = n*10 + int64(digit-'0')
	}
	return n
}

func (f *fields) millis(width int) time.Duration {
	return time.Duration(f.number(width)) * time.Millisecond
}

// NewOwner draws the id of one claim from random: 128 bits in lower-case hex.
func NewOwner(random io.Reader) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(id[:]), nil
}

// IsOwner says whether id has the form of an owner.
func IsOwner(id string) bool {
	if len(id) != 32 {
		return false
	}
	for i := 0; i < len(id); i++ {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
