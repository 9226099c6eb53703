package protocol

import (
	"strconv"
	"time"

	"github.com/onceward/coordinator/scripts"
)

// Reply is a script's answer, decoded. Which fields are set depends on the code and the script's header.
type Reply struct {
	Code   Code
	Rec    Record
	Now    time.Duration // the server's clock, since 1970
	Number int64         // attempt behind Blocked, 1 for a takeover behind OK of claim, index behind Ahead, ms the key has left behind OK of inspect
	Size   int64         // bytes of result or checkpoint, of inspect
	Value  any           // what a fenced command answered
	Sent   time.Time     // before the copy that was answered went out
}

// Remaining is how long the record's lease goes on after the reply was made.
func (r *Reply) Remaining() time.Duration { return max(r.Rec.End-r.Now, 0) }

// DecodeReply reads what a request's script returned; its error is a *CorruptError. Everything that comes from Redis
// passes through here.
func DecodeReply(raw any, q *Request) (Reply, error) {
	// A table costs the server about as much as a GET, so the three most frequent answers come without one.
	if text, ok := raw.(string); ok && q.Script == scripts.Claim {
		rec, err := DecodeRecord(text, true)
		switch {
		case err != nil:
			return Reply{}, corrupt("%s (redis key %q)", err, q.Keys[0])
		case rec.Finished() && rec.Bound && string(rec.Fingerprint) != printOf(q):
			return Reply{Code: Mismatch}, nil
		case rec.Finished():
			return Reply{Code: Finished, Rec: rec}, nil
		}
		return Reply{Code: OK, Rec: rec, Now: rec.End - rec.Length}, nil
	}
	if finished, ok := raw.(string); ok && q.Script == scripts.Complete {
		ms, err := strconv.ParseInt(finished, 10, 64)
		if err != nil {
			return Reply{}, corrupt("a completion was answered %q", finished)
		}
		return Reply{Code: OK, Now: time.Duration(ms) * time.Millisecond}, nil
	}
	list, _ := raw.([]any)
	if len(list) == 0 {
		return Reply{}, corrupt("a script answered %T; another program may have loaded it", raw)
	}
	number, ok := list[0].(int64)
	if !ok || number < 0 || number >= int64(End) {
		return Reply{}, corrupt("a script answered the unknown code %v", list[0])
	}
	r := Reply{Code: Code(number)}
	if q.Fenced && (r.Code == OK || r.Code == Failed) {
		if len(list) > 1 {
			r.Value = list[1]
		}
		return r, nil
	}
	var whole bool
	switch r.Code {
	case Corrupt, Stale, InProgress, Blocked:
	case OK, Finished, Restored:
		whole = !q.Brief
	case Ahead:
		r.Number, _ = list[len(list)-1].(int64)
		return r, nil
	default:
		return r, nil
	}
	if text := textAt(list, 1); text != "" || r.Code == Corrupt {
		var err error
		if r.Rec, err = DecodeRecord(text, whole); err == nil && r.Code == Corrupt {
			err = corrupt("it is cut off") // behind its header, which is all that the reply has
		}
		if err != nil {
			return Reply{}, corrupt("%s (redis key %q)", err, blamed(q, list))
		}
	}
	rest := [3]int64{}
	for i := range rest {
		if len(list) > 2+i {
			rest[i], _ = list[2+i].(int64)
		}
	}
	r.Now = time.Duration(rest[0]) * time.Millisecond
	r.Number, r.Size = rest[1], rest[2]
	return r, nil
}

// printOf is the fingerprint that a claim asks for.
func printOf(claim *Request) string {
	asked, _ := claim.Args[0].([]byte)
	return string(asked[min(58, len(asked)):])
}

// blamed is the Redis key that a script refused to read; the record, where it does not say.
func blamed(q *Request, list []any) string {
	if n, _ := list[len(list)-1].(int64); list[0] == int64(Corrupt) && n == 2 && len(q.Keys) > 1 {
		return q.Keys[1]
	}
	return q.Keys[0]
}

func textAt(list []any, i int) string {
	if i >= len(list) {
		return ""
	}
	text, _ := list[i].(string)
	return text
}
