package judge

import (
	"fmt"

	"github.com/onceward/coordinator/chaos/history"
)

// answer is a result that somebody was told, or stored.
type answer struct {
	event *history.Event
	text  string
	fail  bool
}

func (a answer) same(b answer) bool { return a.text == b.text && a.fail == b.fail }

func (a answer) String() string {
	if a.fail {
		return fmt.Sprintf("failure %q", a.text)
	}
	return fmt.Sprintf("%q", a.text)
}

// answerOf returns the result that an event has told or stored for sure.
func answerOf(e *history.Event) (answer, bool) {
	switch e.Op {
	case history.Complete, history.Fail:
		switch e.Outcome {
		case history.OK, history.NotReplicated:
			return answer{e, e.Data, e.Op == history.Fail}, true
		case history.Replayed:
			return answer{e, e.Found, e.Failed}, true
		}
	case history.Claim, history.Resolve:
		if e.Outcome == history.Replayed {
			return answer{e, e.Found, e.Failed}, true
		}
		if e.Op == history.Resolve && e.Outcome == history.OK && !e.Rerun {
			return answer{e, e.Data, e.Failed}, true
		}
	case history.Result:
		if e.Outcome == history.OK {
			return answer{e, e.Found, e.Failed}, true
		}
	}
	return answer{}, false
}

// results checks that a key has one result at a time, which somebody asked to store: it changes only when the key is
// expired, or when it was lost.
func (r *run) results() *Check {
	c := &Check{Name: Results, Promise: "P4"}
	for _, d := range r.domains {
		for _, key := range d.Keys {
			r.resultsOf(c, d, key)
		}
	}
	return c
}

func (r *run) resultsOf(c *Check, d *domain, key string) {
	var expiries []*history.Event
	asked := map[string]bool{} // to be stored
	form := func(text string, fail bool) string { return answer{text: text, fail: fail}.String() }
	stored := map[string]bool{}
	for _, e := range d.events {
		if e.Key != key {
			continue
		}
		switch e.Op {
		case history.Expire:
			if e.Pending() || e.Outcome == history.OK || e.Outcome == history.Unknown {
				expiries = append(expiries, e)
			}
		case history.Complete, history.Fail:
			asked[form(e.Data, e.Op == history.Fail)] = true
			if e.Outcome == history.OK {
				stored[form(e.Data, e.Op == history.Fail)] = true
			}
		case history.Resolve:
			if !e.Rerun { // its Failed is that of what it found, if it found something
				asked[form(e.Data, true)], asked[form(e.Data, false)] = true, true
			}
		}
	}
	if len(stored) > 1 {
		c.count("keys with several executions", 1)
	}
	var last *answer
	for _, e := range d.events {
		a, ok := answerOf(e)
		if e.Key != key || !ok {
			continue
		}
		c.Seen++
		if !asked[form(a.text, a.fail)] {
			c.violate(d.Name, []*history.Event{e}, "%s was answered with %v, which nobody asked to store", e.Op, a)
			continue
		}
		if last != nil && !last.same(a) {
			r.changed(c, d, *last, a, expiries)
		}
		last = &a
	}
}

// changed judges a key's answer that is another than the one before.
func (r *run) changed(c *Check, d *domain, a, b answer, expiries []*history.Event) {
	from, until := a.event.Call-r.Run.Cache, max(a.event.Return, b.event.Return)
	for _, e := range expiries {
		if e.Call <= until && (e.Pending() || e.Outcome == history.Unknown || e.Return >= from) {
			return
		}
	}
	if d.lostBetween(r, from, until, history.Fork, history.Wipe) {
		c.count("results lost by the faults", 1)
		return
	}
	c.violate(d.Name, []*history.Event{a.event, b.event}, "%s has the result %v, and had %v, though nobody expired it", a.event.Key, b, a)
}
