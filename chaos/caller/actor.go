package caller

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/history"
)

// actor is one caller: it does one thing at a time.
type actor struct {
	coord   *coordinator.Coordinator
	table   *Table
	rec     *Recorder
	plan    *Plan
	random  *rand.Rand
	number  int // unique in the run
	seat    int
	lease   [2]time.Duration // shortest and longest
	done    <-chan struct{}  // closed when the process is to end
	visited map[int]int      // by domain: how often this caller turned to it
	old     []*work          // leases that it does not hold any more, or should not
}

// mostVisits keeps a domain's history short enough to be checked.
const mostVisits = 5

// run goes from domain to domain until the process is to end.
func (a *actor) run() {
	for !a.ending() {
		live := a.plan.live(history.Now(), a.seat)
		for i := range live { // those left alone by now are nobody's concern
			if n := live[i].Number; a.visited[n] >= mostVisits {
				live[i].Number = -1
			}
		}
		pick := a.pick(live)
		if pick == nil {
			a.pause(10 * time.Millisecond)
			continue
		}
		a.visited[pick.Number]++
		a.visit(pick)
		a.pause(a.between(2*time.Millisecond, 25*time.Millisecond))
	}
}

func (a *actor) pick(live []Domain) *Domain {
	var open []*Domain
	for i := range live {
		if live[i].Number >= 0 {
			open = append(open, &live[i])
		}
	}
	if len(open) == 0 {
		return nil
	}
	return open[a.random.IntN(len(open))]
}

func (a *actor) ending() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// pause waits, and less when the process is to end.
func (a *actor) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.done:
	}
}

// chance is true that often in a hundred.
func (a *actor) chance(percent int) bool { return a.random.IntN(100) < percent }

func (a *actor) between(from, to time.Duration) time.Duration {
	return from + time.Duration(a.random.Int64N(int64(to-from)+1))
}

// bounded is the context of one call: most have time enough, some have none of their own and take the coordinator's
// default, a few end in the middle.
func (a *actor) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	switch roll := a.random.IntN(100); {
	case roll < 4:
		return context.WithTimeout(ctx, a.between(time.Millisecond, 20*time.Millisecond))
	case roll < 8:
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, a.between(time.Second, 2*time.Second))
}

// event is what the events of this caller on a key have in common.
func (a *actor) event(op history.Op, d *Domain, key coordinator.Key) history.Event {
	return history.Event{Caller: a.number, Domain: d.Name, Key: key.ID, Op: op}
}

// The fingerprints: a key is bound to the first that is used, and none is one of its own.
const (
	usual = "a"
	other = "b"
	none  = ""
)

// Prints are the fingerprints that callers use, the most frequent first.
var Prints = []string{usual, other, none}

func (a *actor) fingerprint() string {
	switch roll := a.random.IntN(100); {
	case roll < 4:
		return other
	case roll < 6:
		return none
	}
	return usual
}

// visit does one thing to one key of a domain, and what follows from it.
func (a *actor) visit(d *Domain) {
	key := d.Keys[a.random.IntN(len(d.Keys))]
	switch roll := a.random.IntN(100); {
	case roll < 5:
		a.result(d, key)
	case roll < 12:
		a.expire(d, key)
	case roll < 15 || d.Quarantine && roll < 30:
		a.resolve(d, key)
	case roll < 40:
		if w := a.oldOf(d); w != nil {
			a.late(w)
			return
		}
		fallthrough
	default:
		a.claim(d, key)
	}
}

func (a *actor) result(d *Domain, key coordinator.Key) {
	e := a.event(history.Result, d, key)
	e.Fingerprint = a.fingerprint()
	ctx, cancel := a.bounded(context.Background())
	defer cancel()
	step := a.rec.Begin(e)
	found, err := a.coord.Result(ctx, key, print(e.Fingerprint))
	if err == nil {
		step.Found, step.Failed = string(found.Payload), found.Failed
	}
	step.End(err)
}

func (a *actor) expire(d *Domain, key coordinator.Key) {
	ctx, cancel := a.bounded(context.Background())
	defer cancel()
	step := a.rec.Begin(a.event(history.Expire, d, key))
	step.End(a.coord.Expire(ctx, key))
}

func (a *actor) resolve(d *Domain, key coordinator.Key) {
	e := a.event(history.Resolve, d, key)
	if e.Rerun = a.chance(50); !e.Rerun {
		e.Data, e.Failed = a.rec.text("s"), a.chance(30)
	}
	r := coordinator.Resolution{Rerun: e.Rerun, Failed: e.Failed}
	if !e.Rerun {
		r.Payload = []byte(e.Data)
	}
	ctx, cancel := a.bounded(context.Background())
	defer cancel()
	step := a.rec.Begin(e)
	step.End(a.coord.Resolve(ctx, key, r))
}

func print(fingerprint string) []byte {
	if fingerprint == "" {
		return nil
	}
	return []byte(fingerprint)
}

// oldOf returns a lease of this caller on the domain that should be over, if it has one.
func (a *actor) oldOf(d *Domain) *work {
	for _, w := range a.old {
		if w.domain.Number == d.Number {
			return w
		}
	}
	return nil
}
