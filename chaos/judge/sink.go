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

// sinks checks what has passed the fences: tokens that never fall, lines of writes that were asked for, once each, and
// none that was refused; and that nothing acknowledged is missing, but for losses.
func (r *run) sinks() *Check {
	c := &Check{Name: SinkOrder, Promise: "P3"}
	for _, d := range r.domains {
		writes := map[string]*history.Event{}
		for _, e := range d.events {
			if e.Op == history.Write {
				writes[e.Data] = e
			}
		}
		there := map[string]bool{}
		for _, s := range d.sinks {
			c.Seen += len(s.Lines)
			r.sink(c, d, s, writes, there)
		}
		if len(d.sinks) > 0 {
			r.missingWrites(c, d, there)
		}
	}
	return c
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
			if last.write != nil && e != nil && d.fall(r, last.write, e) {
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

func (r *run) missingWrites(c *Check, d *domain, there map[string]bool) {
	for _, e := range d.events {
		if e.Op != history.Write || e.Outcome != history.OK || there[e.Data] {
			continue
		}
		if d.canLose() && (d.lostBetween(r, e.Call, e.Return, history.Fork) || d.lostBetween(r, e.Call, r.end(), history.Wipe)) {
			c.count("acknowledged writes lost by the faults", 1)
			continue
		}
		c.violate(d.Name, []*history.Event{e}, "the line %q was acknowledged, and is missing", e.Data)
	}
}

// canLose says whether one of the sinks can lose something with the servers.
func (d *domain) canLose() bool {
	for _, s := range d.sinks {
		if s.Kind != "postgres" {
			return true
		}
	}
	return false
}

// end is when the last operation ended.
func (r *run) end() int64 {
	end := r.Run.End
	for i := range r.Events {
		end = max(end, r.Events[i].Return)
	}
	return end
}
