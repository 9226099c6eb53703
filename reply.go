package coordinator

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/onceward/coordinator/scripts"
)

// What a script answers first; scripts/common.lua has the same numbers.
type code int64

const (
	codeOK code = iota
	codeOver
	codeMismatch
	codeInProgress
	codeFinished
	codeUncertain
	codeLost
	codeStale
	codeAbsent
	codeCorrupt
	codeMovedOn
	codeRestored
	codeKeyExpired
	codeAhead
	codeSpent
	codeBlocked
	codeFailed
	codeEnd // one past the last
)

// reply is a script's answer, decoded. Which fields are set depends on the code and the script's header.
type reply struct {
	code   code
	rec    record
	now    time.Duration // the server's clock, since 1970
	number int64         // attempt behind codeBlocked, 1 for a takeover behind codeOK of claim, index behind codeAhead, ms the key has left behind codeOK of inspect
	size   int64         // bytes of result or checkpoint, of inspect
	value  any           // what a fenced command answered
	sent   time.Time     // before the copy that was answered went out
}

// remaining is how long the record's lease goes on after the reply was made.
func (r *reply) remaining() time.Duration { return max(r.rec.end-r.now, 0) }

// decodeReply reads what a script returned. Everything that comes from Redis passes through here.
func decodeReply(raw any, k *call) (reply, error) {
	// A table costs the server about as much as a GET, so the two most frequent answers come without one.
	if granted, ok := raw.(string); ok && k.script == scripts.Claim {
		rec, err := decodeRecord(granted, true)
		return reply{code: codeOK, rec: rec, now: rec.end - rec.length}, err
	}
	if finished, ok := raw.(int64); ok && k.script == scripts.Complete {
		return reply{code: codeOK, now: time.Duration(finished) * time.Millisecond}, nil
	}
	list, _ := raw.([]any)
	if len(list) == 0 {
		return reply{}, fmt.Errorf("%w: a script answered %T; another program may have loaded it", ErrCorrupt, raw)
	}
	number, ok := list[0].(int64)
	if !ok || number < 0 || number >= int64(codeEnd) {
		return reply{}, fmt.Errorf("%w: a script answered the unknown code %v", ErrCorrupt, list[0])
	}
	r := reply{code: code(number)}
	if k.fenced && (r.code == codeOK || r.code == codeFailed) {
		if len(list) > 1 {
			r.value = list[1]
		}
		return r, nil
	}
	var whole bool
	switch r.code {
	case codeCorrupt, codeStale, codeInProgress, codeBlocked:
	case codeOK, codeFinished, codeRestored:
		whole = !k.brief
	case codeAhead:
		r.number, _ = list[len(list)-1].(int64)
		return r, nil
	default:
		return r, nil
	}
	if text := textAt(list, 1); text != "" || r.code == codeCorrupt {
		var err error
		if r.rec, err = decodeRecord(text, whole); err == nil && r.code == codeCorrupt {
			err = fmt.Errorf("%w: it is cut off", ErrCorrupt) // behind its header, which is all that the reply has
		}
		if err != nil {
			name := k.keys[0]
			if n, _ := list[len(list)-1].(int64); r.code == codeCorrupt && n == 2 && len(k.keys) > 1 {
				name = k.keys[1]
			}
			return reply{}, fmt.Errorf("%w (redis key %q)", err, name)
		}
	}
	rest := [3]int64{}
	for i := range rest {
		if len(list) > 2+i {
			rest[i], _ = list[2+i].(int64)
		}
	}
	r.now = time.Duration(rest[0]) * time.Millisecond
	r.number, r.size = rest[1], rest[2]
	return r, nil
}

func textAt(list []any, i int) string {
	if i >= len(list) {
		return ""
	}
	text, _ := list[i].(string)
	return text
}

// record is what Redis holds for a key; scripts/common.lua describes its form.
type record struct {
	state        byte // p, r, c, f
	owner        string
	token        Token
	mark         byte
	attempt      int
	bound        bool // to a fingerprint, be it none
	fingerprint  []byte
	end          time.Duration // since 1970: the lease's end, or when it finished
	length       time.Duration
	maximum      time.Duration
	data         []byte // the result, or the checkpoint
	sequence     int64  // of the checkpoint
	checkpointed bool
}

const (
	stateInProgress = 'p'
	stateReleased   = 'r'
	stateCompleted  = 'c'
	stateFailed     = 'f'

	recordVersion  = '1'
	unboundPrint   = 99 // as a fingerprint's length: bound to none yet
	maxFingerprint = 64
)

func (r *record) finished() bool { return r.state == stateCompleted || r.state == stateFailed }

func (r *record) result() Result {
	return Result{Payload: bytes.Clone(r.data), Failed: r.state == stateFailed, Token: r.token, CompletedAt: time.UnixMilli(r.end.Milliseconds())}
}

// decodeRecord reads a record, or its header alone where a reply carries no more.
func decodeRecord(s string, whole bool) (record, error) {
	var r record
	if s == "" {
		return r, fmt.Errorf("%w: it is empty", ErrCorrupt)
	}
	if s == "WRONGTYPE" {
		return r, fmt.Errorf("%w: it is of another type, so another program wrote it; give this one a prefix of its own", ErrCorrupt)
	}
	if s[0] != recordVersion {
		if '2' <= s[0] && s[0] <= '9' && len(s) >= 2 && bytes.IndexByte([]byte("cfpr"), s[1]) >= 0 {
			return r, fmt.Errorf("%w: it is of version %c, this release reads version %c; upgrade this process", ErrCorrupt, s[0], recordVersion)
		}
		return r, fmt.Errorf("%w: it was not written by this module", ErrCorrupt)
	}
	f := fields{rest: s[1:]}
	r.state = f.take(1)[0]
	r.owner = f.take(32)
	r.token = Token(f.number(16))
	r.mark = byte('0' + f.number(1))
	r.attempt = int(f.number(8))
	size := f.number(2)
	r.end = f.millis(13)
	if r.state == stateInProgress || r.state == stateReleased {
		r.length, r.maximum = f.millis(12), f.millis(13)
	} else if !r.finished() {
		f.bad = true
	}
	if r.bound = size != unboundPrint; !r.bound {
		size = 0
	}
	if f.bad || size > maxFingerprint || !isOwner(r.owner) {
		return record{}, fmt.Errorf("%w: its header is damaged", ErrCorrupt)
	}
	if !whole {
		return r, nil
	}
	if size > 0 {
		r.fingerprint = []byte(f.take(int(size)))
	}
	if !r.finished() && f.rest != "" {
		r.sequence, r.checkpointed = f.number(10), true
	}
	if f.bad {
		return record{}, fmt.Errorf("%w: it is cut off", ErrCorrupt)
	}
	r.data = []byte(f.rest)
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

// head is the beginning of a record in progress under this grant, which holder verbs compare as one piece.
func head(g Grant) string {
	return fmt.Sprintf("%c%c%s%016d", recordVersion, stateInProgress, g.Owner, g.Token)
}

// printOf is a fingerprint as scripts take it: two digits of length, then its bytes.
func printOf(fingerprint []byte) string {
	return fmt.Sprintf("%02d%s", len(fingerprint), fingerprint)
}

// millis is a duration as scripts take it.
func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
