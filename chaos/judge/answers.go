package judge

import (
	"slices"

	"github.com/onceward/coordinator/chaos/history"
)

// outcomes are those that each operation can have, apart from everyway.
var outcomes = map[history.Op][]history.Outcome{
	history.Claim: {
		history.Granted, history.Takeover, history.Replayed, history.InProgress, history.Mismatch, history.Uncertain, history.NotReplicated,
	},
	history.Renew:      {history.OK, history.LeaseLost, history.Stale, history.NotReplicated},
	history.Checkpoint: {history.OK, history.LeaseLost, history.Stale},
	history.Complete:   {history.OK, history.Replayed, history.LeaseLost, history.Stale, history.NotReplicated},
	history.Fail:       {history.OK, history.Replayed, history.LeaseLost, history.Stale, history.NotReplicated},
	history.Release:    {history.OK},
	history.GiveBack:   {history.OK},
	history.Expire:     {history.OK},
	history.Resolve:    {history.OK, history.NotFound, history.InProgress, history.Replayed},
	history.Result:     {history.OK, history.NotFound, history.InProgress, history.Mismatch},
	history.Write:      {history.OK, history.Stale},
	history.Insert:     {history.OK, history.Stale},
}

// everyway are the outcomes that do not depend on what there is.
var everyway = []history.Outcome{history.Unknown, history.Unavailable, history.Closed}

// canEnd says whether an operation can have the outcome that it was told.
func canEnd(e *history.Event) bool {
	if slices.Contains(everyway, e.Outcome) {
		return true
	}
	return slices.Contains(outcomes[e.Op], e.Outcome)
}

// answers checks that every call that returned ended in an outcome that it can have, and that an answer proves itself:
// an error that is none of the module's, or a grant without a token, is a failure.
func (r *run) answers() *Check {
	c := &Check{Name: Answers, Promise: "P7"}
	for _, d := range r.domains {
		for _, e := range d.events {
			if e.Pending() {
				continue
			}
			c.Seen++
			switch {
			case !canEnd(e):
				c.violate(d.Name, []*history.Event{e}, "%s of %s ended in %q: %s", e.Op, e.Key, e.Outcome, e.Err)
			case e.Outcome == history.NotReplicated && r.Run.Replicas == 0:
				c.violate(d.Name, []*history.Event{e}, "%s of %s was not confirmed by replicas, though none were asked", e.Op, e.Key)
			case granted(e) && (e.Token < 1 || e.Token >= 1<<53 || e.Owner == "" || e.Attempt < 1):
				c.violate(d.Name, []*history.Event{e}, "%s was granted without a token, an owner and an attempt", e.Key)
			case e.Return < e.Call:
				c.violate(d.Name, []*history.Event{e}, "%s of %s returned before it was called", e.Op, e.Key)
			}
		}
	}
	return c
}

// counts is what happened, for the report.
func (r *run) counts() map[string]int {
	n := map[string]int{"operations": len(r.Events), "faults": len(r.Faults)}
	for i := range r.Events {
		e := &r.Events[i]
		switch {
		case e.Pending():
			n["operations that never returned"]++
		case e.Outcome == history.Unknown:
			n["unknown outcomes"]++
		case e.Outcome == history.Unavailable:
			n["unavailable"]++
		case e.Outcome == history.NotReplicated:
			n["not confirmed by replicas"]++
		case e.Op == history.Write && e.Outcome == history.Stale:
			n["stale writes refused"]++
		case e.Op == history.Insert && e.Outcome == history.Stale:
			n["stale inserts refused"]++
		case (e.Op == history.Complete || e.Op == history.Fail) && (e.Outcome == history.Stale || e.Outcome == history.LeaseLost):
			n["late completions refused"]++
		}
		if e.Op == history.Insert && e.Outcome == history.Unknown {
			n["commits of unknown outcome"]++
		}
		switch {
		case granted(e):
			n["grants"]++
			if e.Outcome == history.Takeover {
				n["takeovers"]++
			}
		case e.Op == history.Claim && e.Outcome == history.Replayed:
			n["replays"]++
		}
	}
	return n
}
