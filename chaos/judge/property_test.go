package judge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

var simulated = []struct {
	name string
	conditions
}{
	{"calm, a key alone", conditions{keys: 1, callers: 5, visits: 5}},
	{"calm, a resource", conditions{keys: 2, shared: true, callers: 5, visits: 5}},
	{"lost answers", conditions{keys: 1, callers: 4, visits: 5, drops: true}},
	{"lost answers, a resource", conditions{keys: 2, shared: true, callers: 4, visits: 4, drops: true}},
	{"late requests", conditions{keys: 1, callers: 4, visits: 5, drops: true, holds: true}},
	{"late requests, a resource", conditions{keys: 2, shared: true, callers: 4, visits: 4, holds: true}},
	{"lost records", conditions{keys: 1, callers: 4, visits: 5, wipes: true}},
	{"lost records, a resource", conditions{keys: 2, shared: true, callers: 4, visits: 5, wipes: true, drops: true}},
	{"steps", conditions{keys: 1, callers: 4, visits: 5, steps: true, drops: true}},
	{"failover", conditions{keys: 1, callers: 5, visits: 6, forks: 1}},
	{"failovers", conditions{keys: 1, callers: 5, visits: 6, forks: 2, drops: true}},
	{"failovers, a resource", conditions{keys: 2, shared: true, callers: 4, visits: 6, forks: 2, drops: true}},
	{"replicas", conditions{keys: 1, callers: 5, visits: 6, forks: 1, replicas: 1}},
	{"replicas, a resource", conditions{keys: 2, shared: true, callers: 5, visits: 6, forks: 1, replicas: 1, drops: true}},
}

// Whatever a correct server does under the faults that were noted is accepted.
func TestSimulated(t *testing.T) {
	for n, c := range simulated {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const runs = 60
			total := map[string]int{}
			for seed := range runs {
				h := simulate(uint64(n*runs+seed), 0, c.conditions)
				v := Judge(h, Options{Parallel: 1, Undecided: 1, Minimum: none, Timeout: 3 * time.Second})
				for name, count := range v.Counts {
					total[name] += count
				}
				if !v.OK {
					t.Fatalf("seed %d:\n%s\n%s", seed, strings.Join(v.Failures(), "\n"), dump(h))
				}
			}
			t.Log(total)
		})
	}
}

// none asks for no minimum.
var none = map[string]int{Linearizable: 0, Tokens: 0, SinkOrder: 0, PostgresSink: 0, Results: 0, HolderKnows: 0, NothingHeld: 0, Answers: 0}

func dump(h *history.History) string {
	var b strings.Builder
	for i := range h.Events {
		e := &h.Events[i]
		fmt.Fprintf(&b, "%8.3f %8.3f  %4d %s\n", float64(e.Call)/1e6, float64(e.Return)/1e6, e.Caller, tell(e))
	}
	for _, f := range h.Faults {
		fmt.Fprintf(&b, "%s %v to %v\n", f.Effect, time.Duration(f.Start), time.Duration(f.End))
	}
	return b.String()
}
