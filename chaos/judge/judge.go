// Package judge reads what a chaos run has left behind and says whether the promises held.
//
// Each check stands for a promise. It accepts all that the design allows under the faults that were injected, and what
// it cannot tell from that: what it finds is a failure, of the module or of the run. What a fault explains, such as a
// grant lost in a failover, is counted. The search for an order knows no times, so that a lease may have lapsed at any
// moment; that holders know of it in time is a check of its own.
package judge

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

// Options say how to judge. The zero value is usable.
type Options struct {
	// Minimum is how many events each check, by name, must have judged; without an entry it is 1. A check with fewer
	// has proved nothing, which is a failure of the run.
	Minimum map[string]int
	// Timeout bounds the search for an order of one domain's operations; 0 is 10 s.
	Timeout time.Duration
	// Parallel is how many domains are searched at a time; 0 is one for each processor.
	Parallel int
	// Pictures is a directory for pages that show the domains for which there is no order, a few of them; empty: none.
	Pictures string
	// Lag is how far a replica may have been behind its master when a fork began; 0 is 1 s.
	Lag time.Duration
	// Slack is how much later than a third of its lease a holder may learn of a loss that is not a lapse; 0 is 500 ms.
	Slack time.Duration
	// Undecided is the share of domains whose search may run out of time or memory; 0 is 1 in 500.
	Undecided float64
	// SomeReplicas says that a promoted replica need not be one that confirmed, because masters have more replicas than
	// WithReplicas waits for. Then it does not rule out that what was confirmed is lost.
	SomeReplicas bool
}

// Verdict is what a run came to.
type Verdict struct {
	OK     bool           `json:"ok"`
	Checks []Check        `json:"checks"`
	Counts map[string]int `json:"counts"` // what happened in the run, whether good or bad
}

// Check is what one check has seen.
type Check struct {
	Name       string         `json:"name"`
	Promise    string         `json:"promise"`
	Seen       int            `json:"seen"` // events that it judged
	Minimum    int            `json:"minimum"`
	Violations []Violation    `json:"violations,omitempty"`
	Undecided  []string       `json:"undecided,omitempty"` // domains whose search ran out of time or memory
	Counts     map[string]int `json:"counts,omitempty"`
}

// Violation is one breach of a promise.
type Violation struct {
	Domain string          `json:"domain,omitempty"`
	Text   string          `json:"text"`
	Events []history.Event `json:"events,omitempty"` // those that show it
}

func (v Violation) String() string {
	if v.Domain == "" {
		return v.Text
	}
	return v.Domain + ": " + v.Text
}

// The names of the checks.
const (
	Linearizable = "linearizable"     // the answers have an order in which the protocol gives them
	Tokens       = "tokens"           // they rise
	SinkOrder    = "sink"             // what passed the fence
	PostgresSink = "postgres sink"    // what PostgreSQL admitted
	Results      = "results"          // every key has one at a time
	HolderKnows  = "holder knows"     // leases end before others begin
	NothingHeld  = "nothing for ever" // every key is free or finished in the end, and has a TTL
	Answers      = "answers"          // calls end in an outcome that they can have
)

// Judge applies all checks.
func Judge(h *history.History, o Options) *Verdict {
	o = o.withDefaults()
	r := newRun(h, &o)
	v := &Verdict{OK: true, Counts: r.counts()}
	for _, check := range []func() *Check{r.linearizable, r.tokens, r.sinks, r.postgresSinks, r.results, r.holders, r.nothingHeld, r.answers} {
		c := check()
		c.Minimum = 1
		if least, ok := o.Minimum[c.Name]; ok {
			c.Minimum = least
		}
		slices.SortStableFunc(c.Violations, func(a, b Violation) int { return cmp.Compare(a.Domain, b.Domain) })
		v.OK = v.OK && c.OK()
		v.Checks = append(v.Checks, *c)
		for name, n := range c.Counts {
			v.Counts[name] += n
		}
	}
	return v
}

// OK is false when the check has found a violation, or has seen too little.
func (c *Check) OK() bool { return len(c.Violations) == 0 && c.Seen >= c.Minimum }

// Failures says what is wrong, a line each.
func (v *Verdict) Failures() []string {
	var lines []string
	for i := range v.Checks {
		c := &v.Checks[i]
		for _, violation := range c.Violations {
			lines = append(lines, fmt.Sprintf("%s (%s): %v", c.Name, c.Promise, violation))
		}
		if c.Seen < c.Minimum {
			lines = append(lines, fmt.Sprintf("%s (%s): judged %d events, at least %d were wanted", c.Name, c.Promise, c.Seen, c.Minimum))
		}
	}
	return lines
}

func (c *Check) count(name string, n int) {
	if n == 0 {
		return
	}
	if c.Counts == nil {
		c.Counts = map[string]int{}
	}
	c.Counts[name] += n
}

func (c *Check) violate(domain string, events []*history.Event, format string, args ...any) {
	v := Violation{Domain: domain, Text: fmt.Sprintf(format, args...)}
	for _, e := range events {
		if e != nil {
			v.Events = append(v.Events, *e)
		}
	}
	c.Violations = append(c.Violations, v)
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Parallel == 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.Lag == 0 {
		o.Lag = time.Second
	}
	if o.Slack == 0 {
		o.Slack = 500 * time.Millisecond
	}
	if o.Undecided == 0 {
		o.Undecided = 0.002
	}
	return o
}

// run is a history, arranged by fence domain.
type run struct {
	*history.History
	options *Options
	domains []*domain // by name
	faulty  bool      // there was a fault at all
}

// domain is what happened to one fence domain.
type domain struct {
	history.Domain
	events   []*history.Event // by time of call
	holdings []*history.Holding
	sinks    []*history.Sink
	faults   []*history.Fault // those that concern its slot, and those of processes
}

func newRun(h *history.History, o *Options) *run {
	r := &run{History: h, options: o, faulty: slices.ContainsFunc(h.Faults, disturbsRedis)}
	byName := map[string]*domain{}
	for _, d := range h.Domains {
		byName[d.Name] = &domain{Domain: d}
	}
	of := func(name string) *domain {
		d := byName[name]
		if d == nil { // the run did not come to writing it down
			d = &domain{Domain: history.Domain{Name: name, Slot: -1}}
			byName[name] = d
		}
		return d
	}
	for i := range h.Events {
		e := &h.Events[i]
		d := of(e.Domain)
		d.events = append(d.events, e)
		if !slices.Contains(d.Keys, e.Key) {
			d.Keys = append(d.Keys, e.Key)
		}
	}
	for _, holding := range together(h.Holdings) {
		of(holding.Domain).holdings = append(of(holding.Domain).holdings, holding)
	}
	for i := range h.Sinks {
		of(h.Sinks[i].Domain).sinks = append(of(h.Sinks[i].Domain).sinks, &h.Sinks[i])
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		d := byName[name]
		d.Resource = d.Resource || len(d.Keys) > 1
		for i := range h.Faults {
			if f := &h.Faults[i]; concerns(f, d.Slot) && disturbsRedis(*f) {
				d.faults = append(d.faults, f)
			}
		}
		r.domains = append(r.domains, d)
	}
	return r
}

// disturbsRedis is false for faults that explain nothing: what PostgreSQL admitted stands, whatever befalls it.
func disturbsRedis(f history.Fault) bool { return f.Effect != history.Database }

func concerns(f *history.Fault, slot int) bool {
	if len(f.Slots) == 0 || slot < 0 {
		return true
	}
	for _, s := range f.Slots {
		if s[0] <= slot && slot <= s[1] {
			return true
		}
	}
	return false
}

// together joins the lines of each holding: the latest look at it, and its end.
func together(lines []history.Holding) []*history.Holding {
	type id struct {
		process     int
		domain, key string
		owner       string
		token       int64
	}
	var all []*history.Holding
	byID := map[id]*history.Holding{}
	for i := range lines {
		line := lines[i]
		at := id{line.Process, line.Domain, line.Key, line.Owner, line.Token}
		h := byID[at]
		if h == nil {
			byID[at] = &line
			all = append(all, &line)
			continue
		}
		h.Alive = max(h.Alive, line.Alive)
		h.Stopped = h.Stopped || line.Stopped
		if line.Ended != 0 {
			h.Ended, h.Cause = line.Ended, line.Cause
		}
	}
	return all
}
