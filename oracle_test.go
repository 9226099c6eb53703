package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/model"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/scripts"
)

// The oracle: random sequences of operations run on the model, on miniredis and on a real server, and every reply,
// every record and every fence is compared. Operations are drawn so that outcomes that were rare so far come next.

const (
	oracleEnv   = "COORD_ORACLE_SEED" // repeats a run
	leastOften  = 100                 // every outcome of every verb occurs this often
	mostSteps   = 30_000
	perSequence = 20
)

// outcomes are what a run must have met: every code that a verb can answer.
var outcomes = map[string][]protocol.Code{
	"claim": {
		protocol.OK, protocol.Over, protocol.Mismatch, protocol.InProgress, protocol.Finished, protocol.Uncertain, protocol.Corrupt, protocol.KeyExpired, protocol.Ahead, protocol.Spent, protocol.Blocked,
	},
	"renew":        {protocol.OK, protocol.Lost, protocol.Stale, protocol.Corrupt},
	"checkpoint":   {protocol.OK, protocol.Lost, protocol.Stale, protocol.Corrupt},
	"complete":     {protocol.OK, protocol.Finished, protocol.Lost, protocol.Stale, protocol.Corrupt, protocol.Restored},
	"release":      {protocol.OK, protocol.Corrupt},
	"give back":    {protocol.OK, protocol.Corrupt, protocol.Spent},
	"expire":       {protocol.OK, protocol.Corrupt, protocol.Spent},
	"resolve":      {protocol.OK, protocol.InProgress, protocol.Finished, protocol.Absent, protocol.Corrupt, protocol.MovedOn, protocol.Spent},
	"mark":         {protocol.InProgress, protocol.Corrupt, protocol.MovedOn},
	"fenced write": {protocol.OK, protocol.Stale, protocol.Corrupt},
	"confirm":      {protocol.OK},
	"inspect":      {protocol.OK, protocol.Absent, protocol.Corrupt},
}

type outcomeOfVerb struct {
	verb model.Verb
	code protocol.Code
}

// subject is one server with the model of what it holds.
type subject struct {
	name   string
	c      *Coordinator
	rdb    redis.UniversalClient
	keys   [2]Key
	names  [2]keyname.Names
	slots  [2]model.Slot // the fence of the second is kept in the first
	broken [2]bool       // something that is no record is there
	tokens [6]int64      // of the grants so far
	clock  int64         // as last asked for, µs
	value  string        // what stands behind the fence
}

// oracle draws operations and judges the subjects.
type oracle struct {
	rand     *rand.Rand
	subjects []*subject
	p        model.Protocol
	text     []string         // texts by their number in the model
	number   map[string]int32 // and back
	ids      struct {         // of the texts that are used
		owners                                      [4]int32
		keys                                        [2]int32
		print, print2, save, save2, result, result2 int32
	}
	met      map[outcomeOfVerb]int
	been     map[situation]int
	rarest   outcomeOfVerb // of those that must be met
	plan     []int         // what to meddle with next
	done     []string      // the sequence so far, for the failure
	granted  int           // grants in this sequence
	owners   [6]int32      // of these grants
	on       [6]int        // their key
	prefix   string
	sequence int
}

// asWritten is the protocol as the scripts have it.
var asWritten = model.Protocol{Units: model.RealUnits}

func newOracle(seed uint64, prefix string, subjects ...*subject) *oracle {
	o := &oracle{
		rand: rand.New(rand.NewPCG(seed, 2)), subjects: subjects, p: asWritten, number: map[string]int32{"": 0}, text: []string{""},
		met: map[outcomeOfVerb]int{}, been: map[situation]int{}, prefix: prefix,
	}
	for i := range o.ids.owners {
		o.ids.owners[i] = o.id(fmt.Sprintf("%032x", i+1))
	}
	o.ids.print, o.ids.print2 = o.id("fp"), o.id("fp 2\x00")
	o.ids.save, o.ids.save2 = o.id("one"), o.id("two\x00\r\n")
	o.ids.result, o.ids.result2 = o.id("result"), o.id("result\x00%d\xff")
	return o
}

// id is the number of a text in the model.
func (o *oracle) id(s string) int32 {
	n, ok := o.number[s]
	if !ok {
		n = int32(len(o.text))
		o.number[s], o.text = n, append(o.text, s)
	}
	return n
}

// operation is a request with what the model does not speak of; grants and tokens are those of each subject.
type operation struct {
	model.Request
	key     int
	grant   int // whose token, and whose owner was read; -1 those of the record as it is, -2 none
	onFence bool
	knows   bool   // the end of the lease that stands there, of a completion within it
	write   string // behind the fence
}

func (o *oracle) pick(of ...int64) int64 { return of[o.rand.IntN(len(of))] }
func (o *oracle) some(of ...int32) int32 { return of[o.rand.IntN(len(of))] }

// draw makes some operation; what can be absurd in it sometimes is.
func (o *oracle) draw() operation {
	x := &o.subjects[0].slots[0]
	op := operation{key: o.rand.IntN(2), grant: -2}
	q := &op.Request
	if q.Verb = model.Verb(o.rand.IntN(int(model.Inspect) + 1)); o.rand.IntN(2) == 0 {
		q.Verb = o.rarest.verb
	}
	q.Owner = o.some(o.ids.owners[:]...)
	q.Print = o.some(0, o.ids.print, o.ids.print, o.ids.print2)
	q.Retention = o.pick(24, 48) * 3_600_000
	q.Burial = 7_200_000
	if o.granted > 0 && o.rand.IntN(8) > 0 {
		op.grant = o.rand.IntN(o.granted)
		if o.rand.IntN(3) > 0 {
			op.grant = o.granted - 1
		}
		op.key = o.on[op.grant]
		if o.rand.IntN(8) > 0 {
			q.Owner = o.owners[op.grant]
		}
	}
	q.Key = o.ids.keys[op.key]
	switch q.Verb {
	case model.Claim:
		if o.rand.IntN(3) == 0 {
			q.Owner = o.some(o.ids.owners[:]...)
		}
		q.Length, q.Lifetime = o.pick(5_500, 33_000, 60_000), o.pick(90_000, 3_600_000)
		q.Retention = 24 * 3_600_000
		q.Quarantine, q.Rewrite = o.rand.IntN(4) == 0, o.rand.IntN(4) == 0
		now := o.subjects[0].clock
		switch o.rand.IntN(8) {
		case 0:
			q.Floor = now + o.pick(3_600_000_000, 90_000_000_000)
		case 1:
			q.Issued = now/1000 + o.pick(-90_000_000, -1_000, 1_800_000, 4_000_000)
		}
	case model.Renew:
		q.Length = o.pick(5_500, 33_000, 120_000)
	case model.Checkpoint:
		q.Sequence, q.Data = o.pick(1, 2, 3, 4), o.some(0, o.ids.save, o.ids.save2)
	case model.Complete:
		q.Outcome = model.State(o.pick(int64(model.Completed), int64(model.Completed), int64(model.Failed)))
		q.Data, q.Attempt = o.some(0, o.ids.result, o.ids.result2), int32(o.pick(1, 2))
		q.End = o.subjects[0].clock/1000 + o.pick(-5_000, 20_000)
		q.Rewrite = o.rand.IntN(3) == 0
		if q.Within = o.rand.IntN(2) == 0; q.Within {
			op.knows = o.rand.IntN(3) > 0
			q.Finish = o.subjects[0].clock/1000 + o.pick(-1, 0, 1, 30_000)
		}
	case model.Expire, model.Resolve:
		q.Read = q.Owner
		if o.rand.IntN(3) > 0 {
			op.grant = -1
		}
		q.Outcome = model.State(o.pick(int64(model.Released), int64(model.Completed), int64(model.Failed)))
		if q.Verb == model.Resolve && q.Outcome != model.Released {
			q.Data = o.some(0, o.ids.result)
		}
	case model.Mark:
		q.Listen = uint8(o.pick(1, 2))
		op.onFence = x.Shared && o.rand.IntN(3) == 0
	case model.FenceCheck:
		op.write = o.text[o.some(o.ids.owners[:]...)]
	}
	return op
}

// of is the operation as one subject is asked.
func (op *operation) of(s *subject) model.Request {
	q := op.Request
	switch op.grant {
	case -1:
		r := &s.slots[op.key].Record
		q.Token, q.Read = r.Token, r.Owner
	case -2:
	default:
		q.Token = s.tokens[op.grant]
	}
	if op.knows {
		q.End = s.slots[op.key].Record.End
	}
	return q
}

// slot is what an operation finds by the model.
func (s *subject) slot(op *operation) model.Slot {
	slot := s.slots[op.key]
	slot.Fence = s.slots[0].Fence
	if op.onFence {
		slot = model.Slot{Record: slot.Fence.Record}
	}
	return slot
}

func (s *subject) keep(op *operation, slot model.Slot) {
	if op.onFence {
		s.slots[0].Fence.Record = slot.Record
		return
	}
	s.slots[op.key].Record, s.slots[0].Fence = slot.Record, slot.Fence
}

// predict says what the model answers.
func (o *oracle) predict(op *operation) protocol.Code {
	s := o.subjects[0]
	if s.broken[op.key] && !op.onFence && !(op.Verb == model.FenceCheck && s.names[0].Fence != "") {
		if op.Verb == model.Confirm {
			return protocol.OK
		}
		return protocol.Corrupt
	}
	q := op.of(s)
	_, reply := o.p.Run(s.slot(op), s.clock, &q)
	return protocol.Code(reply.Code)
}

// situation is what an operation finds, as far as it may matter: two operations that find the same and answer the
// same probably do the same.
type situation struct {
	outcomeOfVerb
	record, fence        model.State
	lapsed, fenceLapsed  bool
	owner, token, read   bool // they are the request's; the owner is the one that was read
	fenceOwner, together bool // the fence is the request's owner's, is the record's
	saved, again, marked bool
	bound, asked         bool // to a fingerprint; the claim has one
	old, back            bool // the claim's key; there is the tombstone of a give back
}

func (o *oracle) situation(op *operation) situation {
	s := o.subjects[0]
	q, slot, ms := op.of(s), s.slot(op), s.clock/1000
	r, f := &slot.Record, &slot.Fence.Record
	return situation{
		outcomeOfVerb: outcomeOfVerb{op.Verb, o.predict(op)},
		record:        r.State, lapsed: r.End <= ms, owner: r.Owner == q.Owner, token: r.Token == q.Token, read: r.Owner == q.Read,
		fence: f.State, fenceLapsed: f.End <= ms, fenceOwner: f.Owner == q.Owner, together: f.Token == r.Token && f.Owner == r.Owner,
		saved: r.Saved, again: r.Attempt > 0, marked: r.Mark > 0 || f.Mark > 0, bound: r.Print > 0, asked: q.Print > 0,
		old: q.Issued != 0 && q.Issued+q.Retention < ms, back: r.Max == model.GivenBack,
	}
}

// choose draws some operations and takes the one whose outcome was the rarest, or whose situation was, or any.
func (o *oracle) choose() operation {
	count := func(op *operation) int { return o.been[o.situation(op)] }
	switch o.rand.IntN(8) {
	case 0:
		return o.draw()
	case 1, 2, 3, 4:
		count = func(op *operation) int { return o.met[outcomeOfVerb{op.Verb, o.predict(op)}] }
	}
	best := o.draw()
	fewest := count(&best)
	for range 20 {
		op := o.draw()
		if n := count(&op); n < fewest {
			best, fewest = op, n
		}
	}
	return best
}

func (o *oracle) failed(s *subject, format string, args ...any) error {
	return fmt.Errorf("%s: %s\nafter\n  %s", s.name, fmt.Sprintf(format, args...), strings.Join(o.done, "\n  "))
}

// run goes on until every outcome was met often enough, or something differs.
func (o *oracle) run(t testing.TB, least int) (int, error) {
	for step := range mostSteps {
		if step%perSequence == 0 {
			if o.enough() && step >= least {
				return step, nil
			}
			if err := o.begin(t); err != nil {
				return step, err
			}
		}
		var err error
		switch {
		case len(o.plan) > 0:
			err = o.meddle(t, o.plan[0], 0)
			o.plan = o.plan[1:]
		case o.rand.IntN(6) == 0:
			err = o.meddle(t, o.rand.IntN(10), o.rand.IntN(2))
		default:
			err = o.operate(t, o.choose())
		}
		if err != nil {
			return step, err
		}
	}
	return mostSteps, nil
}

// begin takes new keys, two of one resource or two apart.
func (o *oracle) begin(t testing.TB) error {
	o.sequence++
	o.granted, o.done = 0, o.done[:0]
	resource := ""
	if o.rand.IntN(2) == 0 {
		resource = fmt.Sprintf("%s-%d", o.prefix, o.sequence)
	}
	for _, s := range o.subjects {
		for i := range s.keys {
			s.keys[i] = Key{Scope: "oracle", ID: fmt.Sprintf("%s-%d-%d", o.prefix, o.sequence, i), Resource: resource}
			s.names[i] = s.c.names(s.keys[i])
			s.slots[i] = model.Slot{Shared: resource != ""}
			o.ids.keys[i] = o.id(s.names[i].Record)
		}
		s.broken, s.tokens, s.value = [2]bool{}, [6]int64{}, ""
		now, err := s.rdb.Time(t.Context()).Result()
		if err != nil {
			return err
		}
		s.clock = now.UnixMicro()
	}
	// Where what is rare needs a history, begin with one.
	switch {
	case o.rarest.code == protocol.Uncertain || o.rarest.code == protocol.MovedOn:
		o.plan = []int{0}
	case o.rarest.code == protocol.Spent && o.rarest.verb == model.GiveBack:
		o.plan = []int{8, 6}
	case o.rarest.code == protocol.Spent:
		o.plan = []int{0, 8}
	case o.rarest.code == protocol.Corrupt:
		o.plan = []int{9}
	default:
		return nil
	}
	return o.operate(t, operation{Request: model.Request{
		Verb: model.Claim, Key: o.ids.keys[0], Owner: o.ids.owners[0], Print: o.ids.print,
		Length: 33_000, Lifetime: 3_600_000, Retention: 24 * 3_600_000,
	}})
}

// meddle changes what stands on all subjects and in their models as no verb does: time that passes, a clock that
// steps, evictions, tokens that are all but used up, values that are no records.
func (o *oracle) meddle(t testing.TB, what, key int) error {
	o.done = append(o.done, fmt.Sprintf("meddling %d with key %d", what, key))
	for _, s := range o.subjects {
		r, f := &s.slots[key].Record, &s.slots[0].Fence.Record
		shared := s.slots[0].Shared
		same := shared && f.State == model.InProgress && f.Token == r.Token
		ms := s.clock / 1000
		switch what {
		case 0, 1, 2, 3: // the lease runs out
			if r.State == model.InProgress {
				r.End = min(r.End, ms-5_000)
			}
			if same {
				f.End = min(f.End, ms-5_000)
			}
		case 4: // of the fence alone, as when a stepped clock's end was cut there
			if f.State == model.InProgress {
				f.End = min(f.End, ms-5_000)
			}
		case 5: // the clock steps back by an hour
			for _, r := range []*model.Record{&s.slots[0].Record, &s.slots[1].Record, f} {
				if r.State == model.InProgress {
					r.End, r.Max = r.End+3_600_000, r.Max+3_600_000
				}
			}
		case 6: // evicted
			*r, s.broken[key] = model.Record{}, false
		case 7:
			s.slots[0].Fence = model.Fence{}
		case 8: // the last token
			if r.State != model.Absent {
				r.Token = 1<<53 - 1
			}
			if f.State != model.Absent {
				f.Token = 1<<53 - 1
			}
		case 9:
			*r, s.broken[key] = model.Record{}, true
		}
		pipe := s.rdb.Pipeline()
		s.write(t, o, pipe)
		if _, err := pipe.Exec(t.Context()); err != nil {
			return err
		}
		if s.broken[key] && what == 9 {
			if err := s.rdb.Set(t.Context(), s.names[key].Record, "1x no record", time.Hour).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// write puts what the model has on the server.
func (s *subject) write(t testing.TB, o *oracle, pipe redis.Pipeliner) {
	put := func(name string, r model.Record) {
		if r.State == model.Absent {
			pipe.Del(t.Context(), name)
			return
		}
		record := o.record(r)
		pipe.Set(t.Context(), name, record.Encode(), redis.KeepTTL)
	}
	for i, slot := range s.slots {
		if !s.broken[i] {
			put(s.names[i].Record, slot.Record)
		}
	}
	if s.names[0].Fence != "" {
		put(s.names[0].Fence, s.slots[0].Fence.Record)
	}
}

var stateBytes = map[model.State]byte{
	model.InProgress: protocol.StateInProgress, model.Released: protocol.StateReleased, model.Completed: protocol.StateCompleted, model.Failed: protocol.StateFailed,
}

// record is the server's form of the model's.
func (o *oracle) record(r model.Record) protocol.Record {
	out := protocol.Record{
		State: stateBytes[r.State], Owner: o.text[r.Owner], Token: r.Token, Mark: '0' + r.Mark, Attempt: int(r.Attempt),
		Bound: r.Print != model.Unbound, End: ms(r.End), Length: ms(r.Length), Maximum: ms(r.Max),
		Sequence: r.Sequence, Checkpointed: r.Saved, Data: []byte(o.text[r.Data]),
	}
	if out.Bound {
		out.Fingerprint = []byte(o.text[r.Print])
	}
	return out
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// call is the request as the wrapper makes it.
func (s *subject) call(o *oracle, op *operation, q *model.Request) *call {
	n, key := s.names[op.key], s.keys[op.key]
	owner := o.text[q.Owner]
	g := Grant{Token: Token(q.Token), Owner: owner}
	head, print := g.head(), o.text[q.Print]
	token := fmt.Sprintf("%016d", q.Token)
	read := o.text[q.Read] + token
	plain := func(script *scripts.Script, args ...any) *call {
		return newCall(key, owner, protocol.Request{Script: script, Keys: n.Keys(), Args: args})
	}
	var k *call
	switch q.Verb {
	case model.Claim:
		k = plain(scripts.Claim, fmt.Appendf(nil, "%s%012d%012d%02d%s", owner, q.Length, q.Lifetime, len(print), print), q.Length+q.Retention)
		if q.Quarantine || q.Rewrite || q.Floor != 0 || q.Issued != 0 {
			window, flags := "", ""
			if q.Quarantine {
				flags += "q"
			}
			if q.Rewrite {
				flags += "w"
			}
			if q.Issued != 0 {
				window = fmt.Sprintf("%013d%013d", q.Issued-3_600_000, q.Issued+q.Retention)
			}
			if k.Args = append(k.Args, window); flags != "" || q.Floor != 0 {
				k.Args = append(k.Args, flags, q.Floor)
			}
		}
	case model.Renew:
		k = plain(scripts.Renew, head, q.Length, q.Retention, "1")
	case model.Checkpoint:
		k = plain(scripts.Checkpoint, head, fmt.Sprintf("%010d", q.Sequence), o.text[q.Data])
	case model.Complete:
		flag := "-"
		if q.Rewrite {
			flag = "w"
		}
		finished := fmt.Sprintf("1%c%s0%08d%02d%013d%s%s", stateBytes[q.Outcome], head[2:], q.Attempt, len(print), q.Finish, print, o.text[q.Data])
		if k = plain(scripts.Complete, finished, fmt.Sprintf("%013d%s%d", q.End, flag, q.Retention)); q.Within && n.Fence == "" {
			known := o.record(s.slots[op.key].Record) // with the length and the maximum that are there
			known.State, known.Owner, known.Token, known.Attempt, known.Mark = protocol.StateInProgress, owner, q.Token, int(q.Attempt), '0'
			known.Bound, known.Fingerprint, known.End = true, []byte(print), ms(q.End)
			known.Checkpointed, known.Data = false, nil
			k.Args, k.Hasty = append(k.Args, known.Encode()), true
		}
	case model.Release:
		k = plain(scripts.Release, head, q.Retention)
	case model.GiveBack:
		k = plain(scripts.GiveBack, owner, q.Retention, q.Burial)
	case model.Expire:
		k = plain(scripts.Expire, read, owner, q.Burial, q.Retention)
	case model.Resolve:
		k = plain(scripts.Resolve, read, string(stateBytes[q.Outcome]), o.text[q.Data], q.Retention)
	case model.Mark:
		k = plain(scripts.Mark, strconv.Itoa(int(q.Listen)))
		if k.Keys = []string{n.Record}; op.onFence {
			k.Keys[0] = n.Fence
		}
	case model.FenceCheck:
		k = plain(scripts.FenceDo, head, "set", op.write)
		k.Keys, k.Fenced = []string{n.Guard(), s.valueKey()}, true
	case model.Confirm:
		k = plain(scripts.Confirm, owner+token)
		k.Keys = []string{n.Record}
	case model.Inspect:
		k = plain(scripts.Inspect, "1")
		k.Keys = []string{n.Record}
	}
	return k
}

func (s *subject) valueKey() string { return "v{" + s.names[0].Tag + "}" + s.names[1].Record }

// seen is what stands on a server after an operation.
type seen struct {
	values [3]string // the records, the fence
	ttls   [3]time.Duration
	behind string
	after  int64
}

func (s *subject) look(t testing.TB) (seen, error) {
	ctx := t.Context()
	pipe := s.rdb.Pipeline()
	all := []string{s.names[0].Record, s.names[1].Record, s.names[0].Fence}
	var gets [3]*redis.StringCmd
	var ttls [3]*redis.DurationCmd
	for i, name := range all {
		if name != "" {
			gets[i], ttls[i] = pipe.Get(ctx, name), pipe.PTTL(ctx, name)
		}
	}
	behind, now := pipe.Get(ctx, s.valueKey()), pipe.Time(ctx)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return seen{}, err
	}
	out := seen{behind: behind.Val(), after: now.Val().UnixMicro()}
	for i := range all {
		if gets[i] != nil {
			out.values[i], out.ttls[i] = gets[i].Val(), ttls[i].Val()
		}
	}
	return out, nil
}

// operate does one operation everywhere.
func (o *oracle) operate(t testing.TB, op operation) error {
	o.done = append(o.done, fmt.Sprintf("%s of key %d, grant %d, on the fence %v: %+v", op.Verb, op.key, op.grant, op.onFence, op.Request))
	want := o.predict(&op)
	o.been[o.situation(&op)]++
	for i, s := range o.subjects {
		got, err := o.compare(t, s, &op, i == 0)
		if err != nil {
			return err
		}
		if got != want {
			return o.failed(s, "replied %d, the model %d", got, want)
		}
	}
	o.met[outcomeOfVerb{op.Verb, want}]++
	return nil
}

// compare does an operation on one subject and on its model and holds them against each other.
func (o *oracle) compare(t testing.TB, s *subject, op *operation, first bool) (protocol.Code, error) {
	q := op.of(s)
	k := s.call(o, op, &q)
	s.c.run(t.Context(), k)
	is, err := s.look(t)
	if err != nil {
		return 0, err
	}
	before, corrupt := s.clock, errors.Is(k.Err, ErrCorrupt)
	s.clock = is.after
	switch {
	case corrupt || s.broken[op.key] && q.Verb == model.Confirm:
		if err := o.stands(s, is, op, before); err != nil {
			return 0, err
		}
		if corrupt {
			return protocol.Corrupt, nil
		}
		return k.Reply.Code, nil
	case k.Err != nil:
		return 0, o.failed(s, "%v", k.Err)
	}
	now, err := o.timeOf(s, op, k, is, before)
	if err != nil {
		return 0, err
	}
	was := s.slot(op)
	slot, want := o.p.Run(was, now, &q)
	s.keep(op, slot)
	if protocol.Code(want.Code) != k.Reply.Code {
		return 0, o.failed(s, "%s replied %d, the model %q; it had\n%+v\n%+v", op.Verb, k.Reply.Code, want.Code, was.Record, was.Fence)
	}
	if err := o.replies(s, k, &want); err != nil {
		return 0, err
	}
	if op.Verb == model.FenceCheck && want.Code == model.OK {
		s.value = op.write
	}
	if err := o.stands(s, is, op, before); err != nil {
		return 0, err
	}
	if op.Verb == model.Claim && want.Code == model.OK && was.Record.Token != slot.Record.Token {
		o.remember(s, op, slot.Record.Token, first)
	}
	return k.Reply.Code, nil
}

// remember keeps a grant, so that later operations use it, also when it is over.
func (o *oracle) remember(s *subject, op *operation, token int64, first bool) {
	if first {
		if o.granted == len(o.owners) {
			o.granted = 0
		}
		o.owners[o.granted], o.on[o.granted] = op.Owner, op.key
		o.granted++
	}
	s.tokens[o.granted-1] = token
}

// timeOf is the time that a script read: what it said or wrote of it, as far as that goes, and it must lie between
// what the clock said before and after.
func (o *oracle) timeOf(s *subject, op *operation, k *call, is seen, before int64) (int64, error) {
	said := k.Reply.Now.Milliseconds()
	if op.Verb == model.Complete && k.Reply.Code == protocol.OK && (s.slots[op.key].Record.State != model.InProgress || said == op.Finish) {
		said = 0 // when it finished, long ago, or by the holder's reckoning
	}
	stands := s.slot(op).Record
	if said != 0 && (said < before/1000 || said > is.after/1000) {
		return 0, o.failed(s, "%s says that it is %d; it was %d before and %d after", op.Verb, said, before/1000, is.after/1000)
	}
	value := is.values[op.key]
	r, err := protocol.DecodeRecord(value, true)
	if err != nil || op.onFence {
		return max(before, said*1000), nil
	}
	if token := int64(r.Token); token != stands.Token && before <= token && token <= is.after && op.Verb != model.Complete {
		return token, nil
	}
	if end := r.End.Milliseconds(); said == 0 && end != stands.End && before/1000 <= end && end <= is.after/1000 {
		said = end
	}
	return max(before, said*1000), nil
}

// replies compares the fields of a reply.
func (o *oracle) replies(s *subject, k *call, want *model.Reply) error {
	r := &k.Reply
	expected := o.record(want.Record)
	switch protocol.Code(want.Code) {
	case protocol.OK:
		if verb := k.Script.Verb; verb != "claim" && verb != "renew" && verb != "inspect" {
			if verb == "complete" && r.Now.Milliseconds() != want.Now {
				return o.failed(s, "finished at %d, by the model %d", r.Now.Milliseconds(), want.Now)
			}
			return nil
		}
		if got := r.Rec.Encode(); got != expected.Encode() {
			return o.failed(s, "%s replied with\n%q, the model with\n%q", k.Script.Verb, got, expected.Encode())
		}
		if r.Now.Milliseconds() != want.Now {
			return o.failed(s, "%s says that it is %d, the model %d", k.Script.Verb, r.Now.Milliseconds(), want.Now)
		}
		if k.Script.Verb == "inspect" && int(r.Size) != len(expected.Data) {
			return o.failed(s, "inspect says %d bytes, there are %d", r.Size, len(expected.Data))
		}
	case protocol.Finished:
		if got := r.Rec.Encode(); got != expected.Encode() {
			return o.failed(s, "%s replied with\n%q, the model with\n%q", k.Script.Verb, got, expected.Encode())
		}
	case protocol.Stale, protocol.InProgress, protocol.Blocked:
		if want.Record.State == model.Absent {
			if r.Rec.State != 0 {
				return o.failed(s, "%s shows a record, the model none", k.Script.Verb)
			}
			return nil
		}
		expected.Fingerprint, expected.Data, expected.Sequence, expected.Checkpointed = nil, nil, 0, false
		got := r.Rec // the header
		got.Fingerprint, expected.Bound = nil, got.Bound
		if got.Encode() != expected.Encode() {
			return o.failed(s, "%s shows\n%q, the model\n%q", k.Script.Verb, got.Encode(), expected.Encode())
		}
		if protocol.Code(want.Code) != protocol.Stale && r.Now.Milliseconds() != want.Now {
			return o.failed(s, "%s says that it is %d, the model %d", k.Script.Verb, r.Now.Milliseconds(), want.Now)
		}
		if protocol.Code(want.Code) == protocol.Blocked && int32(r.Number) != want.Attempt {
			return o.failed(s, "blocked after %d attempts, by the model %d", r.Number, want.Attempt)
		}
	case protocol.Ahead:
		if int(r.Number) != want.Which {
			return o.failed(s, "argument %d is ahead, by the model %d", r.Number, want.Which)
		}
	}
	return nil
}

// stands compares what is stored, and for how long. Only what the operation wrote has a TTL that is known well.
func (o *oracle) stands(s *subject, is seen, op *operation, before int64) error {
	records := [3]model.Record{s.slots[0].Record, s.slots[1].Record, s.slots[0].Fence.Record}
	for i, r := range records {
		if i < 2 && s.broken[i] {
			if !strings.HasPrefix(is.values[i], "1x") {
				return o.failed(s, "%s overwrote what is no record with %q", op.Verb, is.values[i])
			}
			continue
		}
		want := ""
		if r.State != model.Absent {
			record := o.record(r)
			want = record.Encode()
		}
		if is.values[i] != want {
			return o.failed(s, "%s left in place %d\n%q, the model\n%q", op.Verb, i, is.values[i], want)
		}
		if want == "" {
			continue
		}
		if _, err := protocol.DecodeRecord(want, true); err != nil {
			return o.failed(s, "%s left %q: %v", op.Verb, want, err)
		}
		// On miniredis a TTL stands still, so it may be as long as when it was set.
		ttl := r.Expiry - before/1000
		if off := is.ttls[i].Milliseconds() - ttl; off < -slack || off > slack {
			return o.failed(s, "%s left in place %d a TTL of %v, the model %v", op.Verb, i, is.ttls[i], ms(ttl))
		}
	}
	if is.behind != s.value {
		return o.failed(s, "%s left %q behind the fence, the model %q", op.Verb, is.behind, s.value)
	}
	return nil
}

const slack = 4_000 // ms: how much a TTL may be off, for a slow machine

// enough says whether every outcome was met often enough.
func (o *oracle) enough() bool {
	fewest := mostSteps
	for _, name := range slices.Sorted(maps.Keys(outcomes)) {
		for _, c := range outcomes[name] {
			this := outcomeOfVerb{verbNamed(name), c}
			if n := o.met[this]; n < fewest {
				o.rarest, fewest = this, n
			}
		}
	}
	return fewest >= leastOften
}

func verbNamed(name string) model.Verb {
	for v := range model.Inspect + 1 {
		if v.String() == name {
			return v
		}
	}
	panic(name)
}

func oracleSeed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(oracleEnv); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", oracleEnv, err)
		}
		seed = n
	}
	t.Logf("%s=%d repeats this run", oracleEnv, seed)
	return seed
}

func onMiniredis(t testing.TB) *subject {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	return &subject{name: "miniredis", c: open(t, rdb), rdb: rdb}
}

func TestOracle(t *testing.T) {
	rdb := pool.Server(t).Client(nil)
	defer rdb.Close()
	seed := oracleSeed(t)
	o := newOracle(seed, fmt.Sprint(seed), onMiniredis(t), &subject{name: "redis", c: open(t, rdb), rdb: rdb})
	steps, err := o.run(t, 0)
	if err != nil {
		t.Fatalf("step %d: %v", steps, err)
	}
	t.Logf("%d operations in %d sequences, %d situations", steps, o.sequence, len(o.been))
	var all []string
	for name, codes := range outcomes {
		verb := verbNamed(name)
		for c := range protocol.End {
			n := o.met[outcomeOfVerb{verb, c}]
			if slices.Contains(codes, c) {
				all = append(all, fmt.Sprintf("%s %s: %d", name, model.Code(c), n))
				if n < leastOften {
					t.Errorf("%s was answered %q %d times only", name, model.Code(c), n)
				}
			} else if n > 0 {
				t.Errorf("%s is not said to answer %q", name, model.Code(c))
			}
		}
	}
	slices.Sort(all)
	t.Logf("met %s", strings.Join(all, " · "))
}

// patched sends another text instead of a script's, on a client of its own.
type patched struct {
	sha, text string
}

func (p patched) DialHook(next redis.DialHook) redis.DialHook { return next }
func (p patched) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (p patched) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); args[0] == "evalsha" && args[1] == p.sha {
			args[0], args[1] = "eval", p.text
		}
		return next(ctx, cmd)
	}
}

func patch(t testing.TB, s *scripts.Script, old, new string) patched {
	t.Helper()
	text := strings.Replace(s.Text, old, new, 1)
	if text == s.Text {
		t.Fatalf("%s has no %q", s.Verb, old)
	}
	return patched{sha: s.SHA, text: text}
}

// quickly are seeds that find what the first one takes long to find.
var quickly = map[string]uint64{
	"claim that a give back answers": 2, "mark that forgets the other's": 5, "claim that forgets checkpoints": 9, "claim that no tombstone answers": 4,
	"give back of any owner": 10, "fenced write of any owner": 11, "expire of another key's fence": 10, "renew of any owner": 10,
	"renew past the lifetime": 4, "renew without the fence": 6,
}

// The oracle sees when a script does not do what the model says.
func TestOracleFindsBrokenScripts(t *testing.T) {
	for what, m := range map[string]struct {
		script   *scripts.Script
		old, new string
	}{
		"claim without the owner":            {scripts.Claim, "if rec and sub(rec, 3, 34) == owner then", "if false then"},
		"claim without the fingerprint":      {scripts.Claim, "elseif sub(rec, 60, 61) .. sub(rec, from, from - 1 + size) ~= print then", "elseif false then"},
		"claim without the fence":            {scripts.Claim, "if fence and sub(fence, 2, 2) == 'p' and sub(fence, 3, 34) ~= owner then", "if false then"},
		"claim without the fence's token":    {scripts.Claim, "math.max(token_of(rec), token_of(fence))", "token_of(rec)"},
		"claim in spite of quarantine":       {scripts.Claim, "if find(flags, 'q', 1, true) then return {UNCERTAIN} end", ""},
		"claim that forgets the attempts":    {scripts.Claim, "attempt = math.min(num(rec, 52, 59) + 1, 99999999)", "attempt = 1"},
		"claim that forgets checkpoints":     {scripts.Claim, "sub(print, 3) .. checkpoint", "sub(print, 3)"},
		"claim without last + 1":             {scripts.Claim, "if last >= token then return last + 1 end", ""},
		"claim without the clock":            {scripts.Claim, "local token = time[1] * 1000000 + time[2]", "local token = 0"},
		"claim that does not cut":            {scripts.Claim, "if stored > bound then return bound end", ""},
		"claim that a give back answers":     {scripts.Claim, "or state == 'r' and num(rec, 87, 99) == 1", ""},
		"claim that no tombstone answers":    {scripts.Claim, "num(rec, 87, 99) == 1", "num(rec, 87, 99) <= 1"},
		"claim with a short life":            {scripts.Claim, "'PX', ttl)", "'PX', 60000)"},
		"renew of a lapsed lease":            {scripts.Renew, "if now >= stop then return {LOST} end", ""},
		"renew past the lifetime":            {scripts.Renew, "math.min(math.max(stop, now + ARGV[2]), num(rec, 87, 99))", "math.max(stop, now + ARGV[2])"},
		"renew without the fence":            {scripts.Renew, "if stop ~= num(fence, 62, 74) then", "if false then"},
		"renew of any owner":                 {scripts.Renew, "if sub(rec, 1, 50) ~= head then", "if sub(rec, 1, 2) .. sub(rec, 35, 50) ~= sub(head, 1, 2) .. sub(head, 35) then"},
		"checkpoint out of order":            {scripts.Checkpoint, "if there >= ARGV[2] then", "if false then"},
		"complete of any owner":              {scripts.Complete, "if sub(rec, 1, 50) ~= head then", "if sub(rec, 1, 2) .. sub(rec, 35, 50) ~= sub(head, 1, 2) .. sub(head, 35) then"},
		"complete whatever is stored":        {scripts.Complete, "if sub(rec, 2, 2) ~= sub(stored, 2, 2) or sub(rec, 75 + num(rec, 60, 61)) ~= sub(stored, 75 + num(stored, 60, 61)) then", "if false then"},
		"complete anew at any time":          {scripts.Complete, "if not rec and now >= num(ARGV[2], 1, 13) then return {LOST} end", ""},
		"complete anew with a resource":      {scripts.Complete, "refusal = select(2, hold(fence, head, nil, 2))", ""},
		"complete that leaves the fence":     {scripts.Complete, "if fence then clear(", "if false then clear("},
		"release of what is finished":        {scripts.Release, "if sub(rec, 1, 50) ~= head then", "if sub(rec, 3, 50) ~= sub(head, 3) then"},
		"release that leaves the fence":      {scripts.Release, "if fence then clear(", "if false then clear("},
		"give back without a tombstone":      {scripts.GiveBack, "redis.call('SET', KEYS[1], tombstone(ARGV[1], token, now, 1), 'PX', keep(ARGV[3], token, now))", ""},
		"give back like expire":              {scripts.GiveBack, "token, now, 1)", "token, now, 0)"},
		"give back of any owner":             {scripts.GiveBack, "if sub(rec, 2, 34) ~= 'p' .. ARGV[1] then return {OK} end", "if sub(rec, 2, 2) ~= 'p' then return {OK} end"},
		"give back that counts":              {scripts.GiveBack, "if attempt ~=", "if false and attempt ~="},
		"expire of any grant":                {scripts.Expire, "if sub(rec, 3, 50) ~= ARGV[1] then return {OK} end", ""},
		"expire of any owner":                {scripts.Expire, "sub(rec, 3, 50) ~= ARGV[1]", "sub(rec, 35, 50) ~= sub(ARGV[1], -16)"},
		"expire that does not raise":         {scripts.Expire, "local token = mint(time, math.max(token_of(rec), token_of(fence)))", "local token = token_of(rec)"},
		"expire of another key's fence":      {scripts.Expire, "and sub(fence, 110) == KEYS[1]", ""},
		"resolve of a live lease":            {scripts.Resolve, "return {IN_PROGRESS, sub(rec, 1, 99), now}", ""},
		"resolve of any grant":               {scripts.Resolve, "if sub(rec, 3, 50) ~= ARGV[1] then return {MOVED_ON} end", ""},
		"resolve of any owner":               {scripts.Resolve, "sub(rec, 3, 50) ~= ARGV[1]", "sub(rec, 35, 50) ~= sub(ARGV[1], -16)"},
		"resolve that does not raise":        {scripts.Resolve, "local token = mint(time, math.max(token_of(rec), token_of(fence)))", "local token = token_of(rec)"},
		"mark of a lapsed lease":             {scripts.Mark, "if now >= end_of(rec, now) then return {MOVED_ON} end", ""},
		"mark that forgets the other's":      {scripts.Mark, "mark = mark == '0' and ARGV[1] or '3'", "mark = ARGV[1]"},
		"fenced write of any owner":          {scripts.FenceDo, "sub(current, 1, 50) ~= ARGV[1]", "sub(current, 1, 2) .. sub(current, 35, 50) ~= sub(ARGV[1], 1, 2) .. sub(ARGV[1], 35)"},
		"confirm of another's":               {scripts.Confirm, "sub(rec, 3, 51) == ARGV[1] .. '0'", "true"},
		"inspect of a foreign value":         {scripts.Inspect, "if broken(rec) then return refuse(rec, 1) end", "if broken(rec) then return {ABSENT} end"},
		"tombstones bound to no fingerprint": {scripts.Expire, "00000000099", "00000000000"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := onMiniredis(t)
			s.rdb.AddHook(patch(t, m.script, m.old, m.new))
			o := newOracle(max(quickly[what], 1), "broken", s)
			steps, err := o.run(t, mostSteps)
			if err == nil {
				t.Fatalf("not found in %d operations", steps)
			}
			first, _, _ := strings.Cut(err.Error(), "\n")
			t.Logf("found by operation %d: %s", steps, first)
		})
	}
}
