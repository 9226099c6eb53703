package run

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/chaos/judge"
)

// Report is what a run came to.
type Report struct {
	Seed    int64          `json:"seed"`
	OK      bool           `json:"ok"`
	Seconds float64        `json:"seconds"`
	Groups  []*Group       `json:"groups"`
	Counts  map[string]int `json:"counts"`            // of all groups
	Skipped []string       `json:"skipped,omitempty"` // groups that this machine cannot run, and why
	// Failures are those of the run as a whole; the groups have theirs.
	Failures []string `json:"failures,omitempty"`
	Dir      string   `json:"dir,omitempty"` // where the histories are, when they were kept
}

// Group is what one group of faults came to.
type Group struct {
	seed int64

	Name     string         `json:"name"`
	Seconds  float64        `json:"seconds"` // under faults
	Replicas int            `json:"replicas,omitempty"`
	Domains  int            `json:"domains"`
	Events   int            `json:"events"`
	Faults   []*FaultTimes  `json:"faults"`
	Checks   []judge.Check  `json:"checks"`
	Counts   map[string]int `json:"counts"`
	Leaks    []history.Leak `json:"leaks"`   // what each process had left when it ended; 0 is the process that ran all, and what the servers saw
	Judging  float64        `json:"judging"` // seconds
	Failures []string       `json:"failures,omitempty"`
}

// FaultTimes tells how often a fault happened and how long claims did not succeed.
type FaultTimes struct {
	Name        string `json:"name"`
	Times       int    `json:"times"`
	Minimum     int    `json:"minimum"`
	Unsupported bool   `json:"unsupported,omitempty"` // on this machine
	Count       int64  `json:"count"`                 // how many things it hit
	Again       Spread `json:"again,omitzero"`        // from its start until claims succeed again
	Promotion   Spread `json:"promotion,omitzero"`
	After       Spread `json:"after,omitzero"` // from the promotion until claims succeed again
}

// Spread is the median and the largest of some times, in milliseconds.
type Spread struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50_ms"`
	Max float64 `json:"max_ms"`
}

func spread(times []time.Duration) Spread {
	if len(times) == 0 {
		return Spread{}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return Spread{N: len(times), P50: ms(middle(times)), Max: ms(slices.Max(times))}
}

func (s Spread) String() string {
	if s.N == 0 {
		return "-\t-"
	}
	return fmt.Sprintf("%s\t%s", inShort(s.P50), inShort(s.Max))
}

func inShort(ms float64) string {
	if ms >= 1000 {
		return fmt.Sprintf("%.2fs", ms/1000)
	}
	return fmt.Sprintf("%.0fms", ms)
}

// fail notes why a group is not good.
func (g *Group) fail(format string, args ...any) {
	g.Failures = append(g.Failures, fmt.Sprintf(format, args...))
}

// mostUndecided is the share of fence domains, one in so many, about which the search for an order may come to no end. They
// prove nothing, for or against; one a run may be.
const mostUndecided = 200

// refusalsWanted is how many late writers PostgreSQL must have refused, for each second under faults; a third of what there
// are with few callers. With fewer its fence has proved nothing.
const refusalsWanted = 0.2

// Verdict is nil for a good run.
func (r *Report) Verdict() error {
	failures := len(r.Failures)
	for _, g := range r.Groups {
		failures += len(g.Failures)
	}
	if failures == 0 {
		return nil
	}
	return fmt.Errorf("%d failures; repeat the schedule with --seed %d; the histories are in %s", failures, r.Seed, r.Dir)
}

// Table writes the report for people.
func (r *Report) Table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, g := range r.Groups {
		replicas := ""
		if g.Replicas > 0 {
			replicas = fmt.Sprintf(", WithReplicas(%d)", g.Replicas)
		}
		fmt.Fprintf(w, "\n%s%s: %.0f s under faults, %d operations on %d fence domains\n", g.Name, replicas, g.Seconds, g.Events, g.Domains)
		if len(g.Faults) > 0 {
			fmt.Fprint(w, "  fault\ttimes\thits\tpromoted p50\tmax\tclaims again p50\tmax\tafter the promotion p50\tmax\n")
		}
		for _, f := range g.Faults {
			fmt.Fprintf(w, "  %s\t%d\t%d\t%v\t%v\t%v\n", f.Name, f.Times, f.Count, f.Promotion, f.Again, f.After)
		}
		_ = w.Flush()
		fmt.Fprint(w, "  check\tpromise\tseen\tat least\tviolations\n")
		for _, c := range g.Checks {
			fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%d\n", c.Name, c.Promise, c.Seen, c.Minimum, len(c.Violations))
		}
		_ = w.Flush()
		fmt.Fprint(w, wrapped(g.Counts))
		for _, f := range g.Failures {
			fmt.Fprintf(w, "  FAILED: %s\n", f)
		}
		_ = w.Flush()
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(out, "\nskipped: %s\n", s)
	}
	if len(r.Groups) > 1 {
		fmt.Fprintf(out, "\nall groups\n%s", wrapped(r.Counts))
	}
	for _, f := range r.Failures {
		fmt.Fprintf(out, "FAILED: %s\n", f)
	}
	fmt.Fprintf(out, "\nseed %d, %.0f s in all: ", r.Seed, r.Seconds)
	if r.OK {
		fmt.Fprintln(out, "OK")
	} else {
		fmt.Fprintln(out, "FAILED")
	}
	if r.Dir != "" {
		fmt.Fprintf(out, "histories: %s\n", r.Dir)
	}
}

// wrapped puts counts in as few lines as they need, by name.
func wrapped(counts map[string]int) string {
	const width = 120
	var b strings.Builder
	line := " "
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		part := fmt.Sprintf(" %s %d ·", name, counts[name])
		if len(line)+len(part) > width {
			b.WriteString(line + "\n")
			line = " "
		}
		line += part
	}
	return b.String() + strings.TrimSuffix(line, " ·") + "\n"
}

func (r *Report) end(begun time.Time) {
	r.Seconds, r.Counts = time.Since(begun).Seconds(), r.total()
	if n, all := r.Counts["undecided domains"], r.Counts["domains"]; n > max(1, all/mostUndecided) {
		r.Failures = append(r.Failures, fmt.Sprintf("the search for an order ran out of time or memory in %d of %d domains", n, all))
	}
	under := 0.0
	for _, g := range r.Groups {
		under += g.Seconds
	}
	if n, least := r.Counts["stale inserts refused"], int(refusalsWanted*under); n < least {
		r.Failures = append(r.Failures, fmt.Sprintf("PostgreSQL refused %d late writers, at least %d were wanted", n, least))
	}
	r.OK = r.Verdict() == nil
}

// total adds up the counts of all groups, but for the times among them.
func (r *Report) total() map[string]int {
	total := map[string]int{}
	for _, g := range r.Groups {
		for name, count := range g.Counts {
			if !strings.HasSuffix(name, " ms") {
				total[name] += count
			}
		}
	}
	return total
}
