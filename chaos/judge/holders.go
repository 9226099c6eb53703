package judge

import (
	"slices"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

// holders checks that leases end before others begin: a holder's context has ended when a lease that lapsed is taken
// over, or when somebody is told that it has lapsed. What ends a lease otherwise, an expiry or a fault, its holder
// learns at the next renewal.
func (r *run) holders() *Check {
	c := &Check{Name: HolderKnows, Promise: "P6"}
	var late []time.Duration
	for _, d := range r.domains {
		for _, next := range d.events {
			for _, h := range d.holdings {
				if follows(next, h) && d.unfinished(h, next) {
					c.Seen++
					r.overlap(c, d, h, next, &late)
				}
			}
		}
	}
	if len(late) > 0 {
		slices.Sort(late)
		c.count("losses that a holder learned of late", len(late))
		c.count("learned p50 ms", int(late[len(late)/2].Milliseconds()))
		c.count("learned max ms", int(late[len(late)-1].Milliseconds()))
	}
	return c
}

// follows says whether an event can only come about when the lease of a holding is over: a later grant of the domain,
// or an answer about the key that says so.
func follows(next *history.Event, h *history.Holding) bool {
	if next.Owner == h.Owner && next.Op == history.Claim {
		return false
	}
	if granted(next) {
		return h.Granted <= next.Return && h.Token < next.Token
	}
	lapsed := next.Op == history.Claim && next.Outcome == history.Uncertain || next.Op == history.Resolve && next.Outcome == history.OK
	return lapsed && next.Key == h.Key && h.Granted <= next.Call
}

// unfinished says whether the holder had not ended its lease itself.
func (d *domain) unfinished(h *history.Holding, next *history.Event) bool {
	if h.Ended != 0 && h.Ended < next.Call && h.Cause != "lease_lost" {
		return false
	}
	for _, e := range d.events {
		if e.Owner != h.Owner || e.Token != h.Token || e.Call > next.Return {
			continue
		}
		switch e.Op {
		case history.Complete, history.Fail:
			if e.Pending() || slices.Contains([]history.Outcome{history.OK, history.Unknown, history.Replayed, history.NotReplicated}, e.Outcome) {
				return false
			}
		case history.Release:
			return false
		}
	}
	return true
}

// overlap judges such a pair.
func (r *run) overlap(c *Check, d *domain, h *history.Holding, next *history.Event, late *[]time.Duration) {
	if h.Alive <= next.Return {
		return
	}
	events := []*history.Event{next}
	if h.Stopped || r.stopped(h) {
		c.count("holders that were stopped while others took over", 1)
		return
	}
	answering := next.Return // from when on the holder's renewals are answered
	from := d.asked(h)
	cause := d.lostBy(r, from, h.Alive, history.Fork, history.Wipe, history.Step)
	if cause != nil {
		answering = max(answering, cause.End)
	} else if e := d.ousted(h, next, from); e != nil {
		events = append(events, e)
	} else {
		c.violate(d.Name, events, "the context of %s@%d lived %v after this had returned: %s", short(h.Owner), h.Token, time.Duration(h.Alive-next.Return), tell(next))
		return
	}
	for _, f := range d.faults { // nor are they while the servers or the network are down
		if f.Effect != history.Stop && f.Start <= h.Alive && f.End >= next.Return {
			answering = max(answering, f.End)
		}
	}
	c.count("holders that others overtook by faults or expiry", 1)
	if h.Ended == 0 {
		return // its process was killed before
	}
	delay := time.Duration(max(h.Ended-answering, 0))
	*late = append(*late, delay)
	// The next renewal tells, or the end of the lease where there is none.
	most := time.Duration(h.Lease) + r.options.Slack
	if h.Auto {
		most = time.Duration(h.Lease/3) + r.options.Slack
	}
	if delay > most {
		c.violate(d.Name, events, "%s@%d learned that it was overtaken %v after Redis could have told, more than %v", short(h.Owner), h.Token, delay, most)
	}
}

// stopped says whether the holder's process was stopped while it held the lease.
func (r *run) stopped(h *history.Holding) bool {
	for i := range r.Faults {
		f := &r.Faults[i]
		if f.Effect == history.Stop && (len(f.Processes) == 0 || slices.Contains(f.Processes, h.Process)) && f.Start <= h.Alive && f.End >= h.Granted {
			return true
		}
	}
	return false
}

// asked is when the holding was claimed: what ends it may come before its holder has the answer.
func (d *domain) asked(h *history.Holding) int64 {
	for _, e := range d.events {
		if granted(e) && e.Owner == h.Owner && e.Token == h.Token {
			return e.Call
		}
	}
	return h.Granted
}

// ousted is a call that ended the holding from outside: of an operator, or of who gave its claim back.
func (d *domain) ousted(h *history.Holding, next *history.Event, from int64) *history.Event {
	for _, e := range d.events {
		if e == next {
			continue
		}
		switch e.Op {
		case history.Expire, history.Resolve:
		case history.GiveBack:
			if e.Owner != h.Owner {
				continue
			}
		default:
			continue
		}
		sent := e.Pending() || e.Outcome == history.OK || e.Outcome == history.Unknown
		if sent && e.Key == h.Key && e.Call <= h.Alive && (e.Pending() || e.Outcome == history.Unknown || e.Return >= from) {
			return e
		}
	}
	return nil
}
