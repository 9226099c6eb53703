package judge

import (
	"cmp"
	"slices"
	"strings"

	"github.com/onceward/coordinator/chaos/history"
)

// grants are the claims of a domain that were told that they are granted, by time of return.
func (d *domain) grants() (all []*history.Event) {
	for _, e := range d.events {
		if granted(e) {
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b *history.Event) int { return cmp.Compare(a.Return, b.Return) })
	return all
}

func granted(e *history.Event) bool {
	return e.Op == history.Claim && (e.Outcome == history.Granted || e.Outcome == history.Takeover)
}

// tokens checks that they rise with time: of two grants of a domain, the later has the greater token.
func (r *run) tokens() *Check {
	c := &Check{Name: Tokens, Promise: "P2"}
	for _, d := range r.domains {
		grants := d.grants()
		c.Seen += len(grants)
		r.rising(c, d, grants)
		r.once(c, d, grants)
	}
	return c
}

// rising compares each grant with the greatest that had returned when it was called.
func (r *run) rising(c *Check, d *domain, byReturn []*history.Event) {
	byCall := slices.Clone(byReturn)
	slices.SortStableFunc(byCall, func(a, b *history.Event) int { return cmp.Compare(a.Call, b.Call) })
	var top *history.Event
	for _, e := range byCall {
		for len(byReturn) > 0 && byReturn[0].Return < e.Call {
			if top == nil || byReturn[0].Token > top.Token {
				top = byReturn[0]
			}
			byReturn = byReturn[1:]
		}
		if top == nil || e.Token > top.Token || e.Token == top.Token && e.Owner == top.Owner {
			continue
		}
		if d.fall(r, top, e) {
			c.count("falls of a token explained by the faults", 1)
			continue
		}
		c.violate(d.Name, []*history.Event{top, e}, "token %d was granted at %s, after %d had been at %s", e.Token, r.since(e.Return), top.Token, r.since(top.Return))
	}
}

// once checks that a token and an owner belong together, but for losses.
func (r *run) once(c *Check, d *domain, grants []*history.Event) {
	byToken, byOwner := map[int64]*history.Event{}, map[string]*history.Event{}
	for _, e := range grants {
		if other := byToken[e.Token]; other != nil && other.Owner != e.Owner {
			if d.lostBetween(r, other.Call, e.Return, history.Fork, history.Step) {
				c.count("equal tokens of two owners explained by the faults", 1)
			} else {
				c.violate(d.Name, []*history.Event{other, e}, "token %d was granted to two owners", e.Token)
			}
		}
		if other := byOwner[e.Owner]; other != nil {
			switch {
			case other.Token == e.Token && other.Caller != e.Caller:
				c.violate(d.Name, []*history.Event{other, e}, "the grant with token %d was given to two callers", e.Token)
			case other.Token == e.Token:
				c.count("grants given again to who asked again", 1)
			case !d.lostBetween(r, other.Call, e.Return, history.Fork, history.Wipe):
				c.violate(d.Name, []*history.Event{other, e}, "one claim was granted two tokens, %d and %d", other.Token, e.Token)
			}
		}
		byToken[e.Token], byOwner[e.Owner] = e, e
	}
}

// fall says whether the faults explain a token that is not over one granted before: a clock was stepped; or the older
// one was lost where a takeover was forced, or a replaced master still answered; or it was lost and had been ahead of
// the clock, for which MinToken is the only way.
func (d *domain) fall(r *run, before, after *history.Event) bool {
	ahead := false
	for _, e := range d.events {
		ahead = ahead || granted(e) && e.Return <= after.Return && e.MinToken > 0 && e.Token == e.MinToken+1
	}
	if ahead && d.lostBetween(r, before.Call, after.Return, history.Fork, history.Wipe) {
		return true
	}
	for _, f := range d.faults {
		switch {
		case f.Effect == history.Step && f.Start <= after.Return:
			return true
		case f.Effect == history.Fork && twoMasters(f) && f.Start-int64(r.options.Lag) <= after.Return && before.Call <= f.End:
			return true
		}
	}
	return false
}

// twoMasters says whether two servers granted at the same time, by what the fault tells of itself.
func twoMasters(f *history.Fault) bool {
	return strings.Contains(f.Detail, "forced") || strings.Contains(f.Detail, "stale master")
}

// lostBetween says whether a fault with one of the effects may have lost something between two moments.
func (d *domain) lostBetween(r *run, from, until int64, effects ...history.Effect) bool {
	return d.lostBy(r, from, until, effects...) != nil
}

// lostBy is the last such fault to end.
func (d *domain) lostBy(r *run, from, until int64, effects ...history.Effect) (last *history.Fault) {
	for _, effect := range effects {
		for _, w := range d.windows(effect, r.options.Lag) {
			if w.overlaps(from, until) && (last == nil || w.end > last.End) {
				last = w.fault
			}
		}
	}
	return last
}
