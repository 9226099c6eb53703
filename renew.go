package coordinator

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

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
		Apart:    c.apart,
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

// apart parts leases by the master that serves them now, in their order.
func (c *Coordinator) apart(leases []*Lease) (groups [][]*Lease) {
	ctx, cancel := c.soon(leases)
	defer cancel()
	of := map[*redis.Client]int{}
	for _, l := range leases {
		master := c.carrier.Master(ctx, l.names.Record)
		i, known := of[master]
		if !known {
			i = len(groups)
			of[master] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], l)
	}
	return groups
}

// renew sends renewals of one master a single time, in one pipeline; what does not get through is planned again soon,
// until the deadline.
func (c *Coordinator) renew(leases []*Lease) {
	ctx, cancel := c.soon(leases)
	defer cancel()
	calls := make([]*call, len(leases))
	for i, l := range leases {
		calls[i] = l.renewCall(false)
	}
	c.carrier.Try(ctx, carried(calls))
	renewed, late := 0, 0
	for i, l := range leases {
		got, tardy := l.answered(calls[i])
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
}

// soon bounds a renewal by a third of the shortest lease: then there is time for another one.
func (c *Coordinator) soon(leases []*Lease) (context.Context, context.CancelFunc) {
	bound := longest
	for _, l := range leases {
		bound = min(bound, l.lease/3)
	}
	return context.WithTimeout(c.base, bound)
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
