package protocol

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/scripts"
)

// Request is one script with its keys and arguments.
type Request struct {
	Script  *scripts.Script
	Keys    []string
	Args    []any
	Durable bool // with replicas: wait for them
	Fenced  bool // its reply is a user's command's
	Brief   bool // its reply has a record's header only
	Once    bool // must not be sent again once it may have run
	Hasty   bool // its last argument is for the first sending alone
}

// ClaimArgs are a claim's arguments. Length is the lease with its grace.
type ClaimArgs struct {
	Owner                       string
	Fingerprint                 []byte
	Length, Lifetime, Retention time.Duration
	Quarantine, Replicated      bool
	MinToken                    int64
	IssuedAt                    time.Time
}

// Claim asks for the lease.
func Claim(n keyname.Names, a ClaimArgs) Request {
	asked := make([]byte, 0, 58+len(a.Fingerprint))
	asked = padded(append(asked, a.Owner...), a.Length.Milliseconds(), 12)
	asked = padded(asked, a.Lifetime.Milliseconds(), 12)
	asked = append(padded(asked, int64(len(a.Fingerprint)), 2), a.Fingerprint...)
	args := append(make([]any, 0, 5), asked, millis(a.Length+a.Retention))
	flagged := a.Quarantine || a.Replicated || a.MinToken > 0
	if flagged || !a.IssuedAt.IsZero() {
		args = append(args, window(a.IssuedAt, a.Retention))
	}
	if flagged {
		flags := ""
		if a.Quarantine {
			flags = "q"
		}
		if a.Replicated {
			flags += "w"
		}
		args = append(args, flags, a.MinToken)
	}
	return Request{Script: scripts.Claim, Keys: n.Keys(), Args: args, Durable: true}
}

// window is when a key may be claimed that was made at issued: from an hour before that on, for clients whose clocks are ahead, and
// until a retention after it.
func window(issued time.Time, retention time.Duration) []byte {
	if issued.IsZero() {
		return nil
	}
	const early, last = int64(time.Hour / time.Millisecond), 9_999_999_999_999 // which is in 2286
	ms := issued.UnixMilli()
	w := padded(make([]byte, 0, 26), min(max(ms-early, 0), last), 13)
	return padded(w, min(ms+retention.Milliseconds(), last), 13)
}

// Head is the beginning of a record in progress under a grant, which holder verbs compare as one piece.
func Head(owner string, token int64) string {
	return string(padded(append([]byte{version, StateInProgress}, owner...), token, 16))
}

// OwnerIn is the owner in a head, as a part of it.
func OwnerIn(head string) string { return head[2:34] }

// grantOf is a record's owner and token as they stand in it; where there was none it is no record's.
func grantOf(r *Record) string { return fmt.Sprintf("%s%016d", r.Owner, r.Token) }

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// Renew prolongs the lease to length from now; whole asks for the whole record.
func Renew(n keyname.Names, head string, length, retention time.Duration, whole bool) Request {
	q := Request{Script: scripts.Renew, Keys: n.Keys(), Args: []any{head, millis(length), millis(retention)}, Durable: true, Brief: !whole}
	if whole {
		q.Args = append(q.Args, "1")
	}
	return q
}

// Checkpoint stores a copy of data.
func Checkpoint(n keyname.Names, head string, sequence int64, data []byte) Request {
	return Request{Script: scripts.Checkpoint, Keys: n.Keys(), Args: []any{head, fmt.Sprintf("%010d", sequence), bytes.Clone(data)}}
}

// CompleteArgs are a completion's arguments.
type CompleteArgs struct {
	Record     Record        // as it is to stand, with when it finished as its end
	Retention  time.Duration // of the result
	End        time.Duration // of the lease: until then a record that was lost is made anew
	Replaced   *Record       // what stands there, where the holder is within its lease and its key has the retention left anyhow
	Replicated bool
}

// Complete stores the outcome, a copy of what the record holds.
func Complete(n keyname.Names, a CompleteArgs) Request {
	flag := byte('-')
	if a.Replicated {
		flag = 'w'
	}
	how := append(padded(make([]byte, 0, 32), a.End.Milliseconds(), 13), flag)
	q := Request{Script: scripts.Complete, Keys: n.Keys(), Args: []any{a.Record.bytes(), strconv.AppendInt(how, a.Retention.Milliseconds(), 10)}, Durable: true}
	if a.Replaced != nil {
		q.Args, q.Hasty = append(q.Args, a.Replaced.bytes()), true
	}
	return q
}

// Release gives the lease up.
func Release(n keyname.Names, head string, retention time.Duration) Request {
	return Request{Script: scripts.Release, Keys: n.Keys(), Args: []any{head, millis(retention)}}
}

// GiveBack ends an owner's claim and takes its attempt back; it keeps a tombstone for buried where there is none.
func GiveBack(n keyname.Names, owner string, retention, buried time.Duration) Request {
	return Request{Script: scripts.GiveBack, Keys: n.Keys(), Args: []any{owner, millis(retention), millis(buried)}}
}

// Expire fences out the record that was read; the tombstone bears owner where there was none.
func Expire(n keyname.Names, read *Record, owner string, buried, retention time.Duration) Request {
	return Request{Script: scripts.Expire, Keys: n.Keys(), Args: []any{grantOf(read), owner, millis(buried), millis(retention)}}
}

// Resolve settles the lapsed record that was read, with a copy of payload.
func Resolve(n keyname.Names, read *Record, state byte, payload []byte, retention time.Duration) Request {
	return Request{Script: scripts.Resolve, Keys: n.Keys(), Args: []any{grantOf(read), string(rune(state)), bytes.Clone(payload), millis(retention)}}
}

// Mark asks to be woken by kind: '1' PUBLISH, '2' SPUBLISH.
func Mark(guard string, kind byte) Request {
	return Request{Script: scripts.Mark, Keys: []string{guard}, Args: []any{string(rune(kind))}}
}

// Confirm notes that replicas have the record's outcome.
func Confirm(n keyname.Names, r *Record) Request {
	return Request{Script: scripts.Confirm, Keys: []string{n.Record}, Args: []any{grantOf(r)}}
}

// Inspect reads the record, or its header alone.
func Inspect(n keyname.Names, whole bool) Request {
	q := Request{Script: scripts.Inspect, Keys: []string{n.Record}}
	if whole {
		q.Args = []any{"1"}
	}
	return q
}

// Fenced is a user's command or script behind the fence; it is sent once.
func Fenced(s *scripts.Script, head string, keys []string, args []any) Request {
	return Request{Script: s, Keys: keys, Args: append([]any{head}, args...), Fenced: true, Once: true}
}
