package judge

import (
	"math"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

// stage is how much a search may use to explain what was answered. Each has what those before it have.
type stage int

const (
	plain   stage = iota // each call took effect once, and unknown ones perhaps
	repeats              // a call may have been sent several times, and its copies may come late
	wiped                // records may have been lost by themselves; requests that were held come late
	forked               // servers were replaced, with what they had acknowledged
	stages
)

var stageNames = [stages]string{"plain", "repeats", "wiped", "forked"}

// always is later than everything.
const always = math.MaxInt64

// op is an operation as the search takes it. A hidden one has no place in the order of answers: it is something that
// may have taken effect, at any time from its call on.
type op struct {
	event  *history.Event
	number int32
	do     history.Op
	said   history.Outcome
	key    int
	from   int64
	until  int64

	owner    int32
	print    int32
	data     int32
	found    int32
	outcome  state // that complete, fail and resolve ask for
	sequence int32 // of a checkpoint; 0 where its grant's are in no order

	hidden   bool
	stage    stage // the first that has it, of a hidden one
	repeated bool  // its copies may have been several
	onMain   bool  // replicas have confirmed it: it is not on a server that is replaced
	read     int64 // of expire and resolve: they act on nothing that was claimed later
}

// plan is a domain's operations.
type plan struct {
	run      *run
	domain   *domain
	keys     map[string]int
	texts    map[string]int32
	names    []string // of the texts
	ops      []*op
	hidden   []*op // by call
	claims   map[int32]claimed
	greatest []int32 // by key: the greatest attempt that an event tells, plus one; greater ones are not told apart
	forks    []window
	wipes    []window
	lates    []window
	steps    bool
}

// claimed is what the events tell of an owner's claim.
type claimed struct {
	print int32
	call  int64
}

// window is when a fault may have had its effect.
type window struct {
	start, end int64
	fault      *history.Fault
}

func (w window) overlaps(from, until int64) bool { return w.start <= until && from <= w.end }

// windows are those of the domain's faults with an effect; they begin early by lag.
func (d *domain) windows(effect history.Effect, lag time.Duration) (all []window) {
	for _, f := range d.faults {
		if f.Effect == effect {
			all = append(all, window{f.Start - int64(lag), f.End, f})
		}
	}
	return all
}

func newPlan(r *run, d *domain) *plan {
	p := &plan{
		run: r, domain: d, keys: map[string]int{}, texts: map[string]int32{"": 0}, names: []string{""},
		claims: map[int32]claimed{}, greatest: make([]int32, len(d.Keys)),
		forks: d.windows(history.Fork, r.options.Lag), wipes: d.windows(history.Wipe, 0), lates: d.windows(history.Late, 0),
		steps: len(d.windows(history.Step, 0)) > 0,
	}
	for i, key := range d.Keys {
		p.keys[key] = i
		p.greatest[i] = 1
	}
	for _, e := range d.events {
		k := p.keys[e.Key]
		p.greatest[k] = max(p.greatest[k], int32(e.Attempt)+1)
		if e.Op != history.Claim || e.Owner == "" {
			continue
		}
		owner := p.id(e.Owner)
		if before, seen := p.claims[owner]; !seen || e.Call < before.call {
			p.claims[owner] = claimed{print: p.id(e.Fingerprint), call: e.Call}
		}
	}
	for _, e := range d.events {
		p.take(e)
	}
	p.number()
	return p
}

// id is the number of a text.
func (p *plan) id(s string) int32 {
	n, ok := p.texts[s]
	if !ok {
		n = int32(len(p.names))
		p.texts[s], p.names = n, append(p.names, s)
	}
	return n
}

// take adds an event's operation, and what may have happened on its account unseen.
func (p *plan) take(e *history.Event) {
	if e.Op == history.Insert {
		return // PostgreSQL answers by what it has admitted, not by the record: it refuses grants that a wipe left current
	}
	o := p.op(e)
	switch p.sure(e) {
	case certain:
		o.onMain = p.confirmed(e)
		p.ops = append(p.ops, o)
		if o.repeated && e.Op != history.Write {
			p.hide(o, repeats)
		}
	case possible:
		p.hide(o, plain)
	case unlikely: // a copy under another owner may have been granted first
		if o.repeated && e.Op == history.Claim {
			p.hide(o, repeats)
		}
	}
}

type sureness int

const (
	never sureness = iota
	unlikely
	possible
	certain
)

// sure says whether an event took place as it was answered.
func (p *plan) sure(e *history.Event) sureness {
	switch {
	case e.Pending() || e.Outcome == history.Unknown || !canEnd(e):
		return possible
	case e.Outcome == history.Unavailable || e.Outcome == history.Closed:
		return unlikely
	case e.Outcome == history.NotReplicated:
		switch e.Op {
		case history.Complete, history.Fail:
			return certain // stands where it was answered
		case history.Claim:
			return possible
		}
		return never // renewals leave no trace
	case e.Op == history.Release && p.finishedBefore(e):
		return never // the lease knows that it has completed: nothing was sent
	}
	return certain
}

func (p *plan) finishedBefore(release *history.Event) bool {
	for _, e := range p.domain.events {
		if e.Call >= release.Call {
			return false
		}
		done := e.Op == history.Complete || e.Op == history.Fail
		if done && e.Owner == release.Owner && e.Key == release.Key && (e.Outcome == history.OK || e.Outcome == history.NotReplicated) {
			return true
		}
	}
	return false
}

// confirmed says whether replicas have an answered grant, renewal or outcome, so that the failover of one master
// does not lose it.
func (p *plan) confirmed(e *history.Event) bool {
	if p.run.Run.Replicas == 0 || p.run.options.SomeReplicas {
		return false
	}
	switch e.Op {
	case history.Claim:
		if e.Outcome != history.Granted && e.Outcome != history.Takeover {
			return false
		}
	case history.Renew, history.Complete, history.Fail:
		if e.Outcome != history.OK {
			return false
		}
	default:
		return false
	}
	for i, a := range p.forks {
		for _, b := range p.forks[:i] {
			if a.overlaps(b.start, b.end) && (a.overlaps(e.Call, e.Return) || b.overlaps(e.Call, e.Return)) {
				return false
			}
		}
	}
	return true
}

func (p *plan) op(e *history.Event) *op {
	o := &op{
		event: e, do: e.Op, said: e.Outcome, key: p.keys[e.Key], from: e.Call, until: e.Return,
		owner: p.id(e.Owner), print: p.id(e.Fingerprint), data: p.id(e.Data), found: p.id(e.Found), outcome: completed,
	}
	o.repeated = p.repeated(e)
	if o.read = e.Return; e.Pending() {
		o.until, o.read = always, always
	}
	if e.Op == history.Fail || e.Op == history.Resolve && e.Failed {
		o.outcome = failed
	}
	if e.Op == history.Resolve && e.Rerun {
		o.outcome = released
	}
	if e.Op == history.Complete || e.Op == history.Fail {
		if c, ok := p.claims[o.owner]; ok { // a lost record is written anew with the fingerprint of the claim
			o.print = c.print
		}
	}
	if e.Op == history.Checkpoint {
		o.sequence = p.sequence(e)
	}
	if e.Op == history.Claim && (e.Outcome == history.Replayed || e.Outcome == history.Mismatch) || e.Op == history.Result {
		o.from -= p.run.Run.Cache // what was true then is what was answered
	}
	if e.Wait && (e.Outcome == history.Replayed || e.Outcome == history.Mismatch) {
		o.from = min(o.from, p.told(e))
	}
	return o
}

// Copies are sent when the answer to the one before stays away: no sooner than 4 ms after a connection broke, which
// takes a fault, and otherwise after half a second, or less with a short lease.
const (
	soonestCopy = int64(4 * time.Millisecond)
	timeoutCopy = int64(90 * time.Millisecond)
)

func (p *plan) repeated(e *history.Event) bool {
	took := e.Return - e.Call
	return e.Pending() || took >= timeoutCopy || took >= soonestCopy && p.run.faulty
}

// sequence is the checkpoint's place among those of its grant. Only one caller numbers them in the order of its calls.
func (p *plan) sequence(checkpoint *history.Event) (n int32) {
	for _, e := range p.domain.events {
		if e.Op != history.Checkpoint || e.Owner != checkpoint.Owner || e.Key != checkpoint.Key {
			continue
		}
		if e.Caller != checkpoint.Caller {
			return 0
		}
		if e.Call <= checkpoint.Call {
			n++
		}
	}
	return n
}

// told is when what a waiting claim was told may have been looked up: those who wait for a key in one process share
// what one of them finds.
func (p *plan) told(waiting *history.Event) int64 {
	from := waiting.Call
	for _, e := range p.domain.events {
		if e.Wait && e.Process == waiting.Process && e.Key == waiting.Key && e.Call < from && (e.Pending() || e.Return >= waiting.Call) {
			from = e.Call
		}
	}
	return from
}
