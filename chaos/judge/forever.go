package judge

import "github.com/onceward/coordinator/chaos/history"

// nothingHeld checks what is left when all is over: every key can be claimed or has its result, every key in Redis has
// a TTL, and no process keeps goroutines or connections.
func (r *run) nothingHeld() *Check {
	c := &Check{Name: NothingHeld, Promise: "P8"}
	for _, d := range r.domains {
		last := map[string]*history.Event{}
		for _, e := range d.events {
			// Of the claims with several fingerprints, those that do not match only say that another does.
			if e.Caller == history.Final && e.Op == history.Claim && (last[e.Key] == nil || e.Outcome != history.Mismatch) {
				last[e.Key] = e
			}
		}
		for _, key := range d.Keys {
			e := last[key]
			if e == nil {
				c.violate(d.Name, nil, "%s was not claimed in the end: nobody knows what has become of it", key)
				continue
			}
			c.Seen++
			if !granted(e) && e.Outcome != history.Replayed {
				c.violate(d.Name, []*history.Event{e}, "in the end the claim of %s is answered: %s", key, outcomeOf(e))
			}
		}
	}
	for i := range r.Keys {
		c.count("keys in Redis", 1)
		if k := &r.Keys[i]; k.TTL <= 0 {
			c.violate("", nil, "%s on %s has the TTL %d", k.Name, k.Node, k.TTL)
		}
	}
	for _, l := range r.Leaks {
		if l.Goroutines > 0 || l.Connections > 0 {
			c.violate("", nil, "process %d ended with %d goroutines and %d connections left", l.Process, l.Goroutines, l.Connections)
		}
	}
	return c
}
