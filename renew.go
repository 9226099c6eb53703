package coordinator

import (
	"context"
	"sync"
	"time"

	"github.com/onceward/coordinator/internal/carrier"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/renewal"
)

func newSchedule(c *Coordinator) *renewal.Schedule[*Lease] {
	return renewal.New(renewal.Host[*Lease]{
		Base: c.base, Start: c.start, Jitter: spread,
		Place:    func(l *Lease) *renewal.Place { return &l.place },
		Length:   func(l *Lease) time.Duration { return l.lease },
		Deadline: (*Lease).Deadline,
		Due:      (*Lease).due,
		Renew:    c.renew,
		Lapse:    func(l *Lease) { l.finish(ErrLeaseLost) },
		Close:    func(l *Lease) { l.finish(ErrClosed) },
	})
}

// tend has a lease renewed and ended in time, from now on.
func (c *Coordinator) tend(l *Lease) {
	c.noteHeld(1)
	if !c.schedule.Add(l) {
		l.finish(ErrClosed)
	}
}

// due is when the next renewal goes out: after a third of what was left of the lease, with jitter. A claim that was
// repeated finds less than a whole one left.
func (l *Lease) due() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.manual || l.end >= l.maximum || !l.deadline.Before(l.latest) {
		return l.deadline
	}
	return l.sent.Add(spread(max(l.deadline.Sub(l.sent), 0) / 3))
}

// renew sends renewals a single time, a pipeline for each master; what does not get through is planned again soon, until
// the deadline.
func (c *Coordinator) renew(leases []*Lease) {
	bound := longest
	calls := make([]*call, len(leases))
	of := make(map[*carrier.Call]int, len(leases))
	for i, l := range leases {
		calls[i] = l.renewCall(false)
		of[&calls[i].Call] = i
		bound = min(bound, l.lease/3)
	}
	ctx, cancel := context.WithTimeout(c.base, bound)
	defer cancel()
	// Each master by itself, so that one that hangs keeps no other's answers back.
	var sending sync.WaitGroup
	for _, group := range c.carrier.ByMaster(ctx, carried(calls)) {
		sending.Go(func() {
			c.carrier.Try(ctx, group)
			renewed, late := 0, 0
			for _, sent := range group {
				i := of[sent]
				got, tardy := leases[i].answered(calls[i])
				if got {
					renewed++
				}
				if tardy {
					late++
				}
			}
			for outcome, count := range map[string]int{"renewed": renewed, "late": late} {
				if count > 0 {
					c.observer.Note(Event{Op: "renewal", Outcome: outcome, Count: count})
				}
			}
		})
	}
	sending.Wait()
}

// answered takes in what became of a renewal in the background.
func (l *Lease) answered(k *call) (renewed, late bool) {
	if !k.Settled {
		l.c.schedule.Retry(l)
		return false, true
	}
	late = l.c.schedule.Back(l)
	k.Err = k.failure()
	if err := l.renewed(k); k.Err == nil && k.Reply.Code != protocol.OK {
		return false, false // over: the lease has told its holder
	} else if err != nil {
		l.c.schedule.Retry(l)
		return false, true
	}
	return true, late
}
