package judge

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/onceward/coordinator/chaos/history"
)

// SinkLine is a line of a sink: the grant that writes it, and a text that no other write has.
func SinkLine(token int64, owner, text string) string {
	return fmt.Sprintf("%d.%s %s", token, owner, text)
}

// ParseSinkLine reads what SinkLine made.
func ParseSinkLine(line string) (token int64, owner, text string, err error) {
	grant, text, spaced := strings.Cut(line, " ")
	number, owner, dotted := strings.Cut(grant, ".")
	token, err = strconv.ParseInt(number, 10, 64)
	if err != nil || !spaced || !dotted || owner == "" {
		return 0, "", "", fmt.Errorf("%q is no line of a sink: it reads <token>.<owner> <text>", line)
	}
	return token, owner, text, nil
}

// sinks checks what has passed the fences in Redis: tokens that never fall, lines of writes that were asked for, once each,
// and none that was refused; and that nothing acknowledged is missing, but for losses.
func (r *run) sinks() *Check {
	c := &Check{Name: SinkOrder, Promise: "P3"}
	r.passed(c, history.Redis, history.Write)
	return c
}

// postgresSinks checks the same of PostgreSQL, and more: it loses nothing, so that no fault is an excuse. Lines stand in the
// order of time, and every refusal is for a grant that had been admitted.
func (r *run) postgresSinks() *Check {
	c := &Check{Name: PostgresSink, Promise: "P3"}
	r.passed(c, history.Postgres, history.Insert)
	return c
}

// passed checks the sinks of a kind, and the writes that were sent there.
func (r *run) passed(c *Check, kind string, op history.Op) {
	for _, d := range r.domains {
		writes := map[string]*history.Event{}
		for _, e := range d.events {
			if e.Op == op {
				writes[e.Data] = e
			}
		}
		there := map[string]bool{}
		known := false
		for _, s := range d.sinks {
			if s.Kind != kind {
				continue
			}
			known = true
			c.Seen += len(s.Lines)
			r.sink(c, d, s, writes, there)
			if kind == history.Postgres {
				r.inTime(c, d, s, writes)
			}
		}
		if known {
			r.missingWrites(c, d, op, there)
		}
		if known && kind == history.Postgres {
			r.refusals(c, d, writes, there)
		}
	}
}

func (r *run) sink(c *Check, d *domain, s *history.Sink, writes map[string]*history.Event, there map[string]bool) {
	var last struct {
		token int64
		owner string
		write *history.Event
	}
	for _, line := range s.Lines {
		token, owner, _, err := ParseSinkLine(line)
		if err != nil {
			c.violate(d.Name, nil, "%v", err)
			continue
		}
		e := writes[line]
		switch {
		case e == nil:
			c.violate(d.Name, nil, "nobody wrote the line %q", line)
		case there[line]:
			c.violate(d.Name, []*history.Event{e}, "the line %q is there twice; a fenced write is sent once", line)
		case e.Token != token || e.Owner != owner:
			c.violate(d.Name, []*history.Event{e}, "the line %q was written by another grant", line)
		case !mayStand(e):
			c.violate(d.Name, []*history.Event{e}, "the line %q was refused (%s), and stands there", line, e.Outcome)
		}
		there[line] = true
		lower := token < last.token
		if lower || token == last.token && owner != last.owner {
			if s.Kind != history.Postgres && last.write != nil && e != nil && d.fall(r, last.write, e) {
				c.count("lines out of order explained by the faults", 1)
			} else if lower {
				c.violate(d.Name, []*history.Event{last.write, e}, "token %d was admitted after %d", token, last.token)
			} else {
				c.violate(d.Name, []*history.Event{last.write, e}, "two owners were admitted with token %d", token)
			}
		}
		if !lower {
			last.token, last.owner, last.write = token, owner, e
		}
	}
}

// mayStand says whether a write's answer leaves open that it took effect.
func mayStand(e *history.Event) bool {
	return e.Pending() || e.Outcome == history.OK || e.Outcome == history.Unknown
}

func (r *run) missingWrites(c *Check, d *domain, op history.Op, there map[string]bool) {
	for _, e := range d.events {
		if e.Op != op || e.Outcome != history.OK || there[e.Data] {
			continue
		}
		if op == history.Write && (d.lostBetween(r, e.Call, e.Return, history.Fork) || d.lostBetween(r, e.Call, r.end(), history.Wipe)) {
			c.count("acknowledged writes lost by the faults", 1)
			continue
		}
		c.violate(d.Name, []*history.Event{e}, "the line %q was acknowledged, and is missing", e.Data)
	}
}

// inTime checks that no line stands behind one which was asked for only after its own had been acknowledged.
func (r *run) inTime(c *Check, d *domain, s *history.Sink, writes map[string]*history.Event) {
	var latest *history.Event // of the lines so far, the one asked for last
	for _, line := range s.Lines {
		e := writes[line]
		if e == nil {
			continue // a violation already
		}
		if latest != nil && e.Outcome == history.OK && e.Return < latest.Call {
			c.violate(d.Name, []*history.Event{e, latest}, "the line %q stands behind %q, which was written later", line, latest.Data)
		}
		if latest == nil || e.Call > latest.Call {
			latest = e
		}
	}
}

// refusals checks that who was refused as stale was told of a grant that is beyond his own and has a line by then. The mark
// is raised in the transaction of the line, so there is none without the other.
func (r *run) refusals(c *Check, d *domain, writes map[string]*history.Event, there map[string]bool) {
	for _, e := range d.events {
		if e.Op != history.Insert || e.Outcome != history.Stale {
			continue
		}
		excused := false
		for line, w := range writes {
			excused = excused || there[line] && w.Token == e.Current && w.Call < e.Return && (w.Token > e.Token || w.Token == e.Token && w.Owner != e.Owner)
		}
		if !excused {
			c.violate(d.Name, []*history.Event{e}, "token %d was refused for %d, which is not beyond it or had no line by then", e.Token, e.Current)
		}
	}
}

// end is when the last operation ended.
func (r *run) end() int64 {
	end := r.Run.End
	for i := range r.Events {
		end = max(end, r.Events[i].Return)
	}
	return end
}
