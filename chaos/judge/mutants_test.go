package judge

import (
	"fmt"
	"testing"

	"github.com/onceward/coordinator/internal/model"
)

// A PostgreSQL that leaves out something is found out by the check of its sink, and by no other.
func TestCarelessTables(t *testing.T) {
	alone := conditions{keys: 1, callers: 5, visits: 6}
	forked, wiped := alone, alone
	forked.forks, wiped.wipes, wiped.steps = 2, true, true
	for _, careless := range []string{noMark, noLine, noRefusal, noReason} {
		for _, in := range []conditions{alone, forked, wiped} {
			t.Run(fmt.Sprintf("%s, forks %d, wipes %v", careless, in.forks, in.wipes), func(t *testing.T) {
				in.careless = careless
				const most = 300
				found := 0
				for seed := range uint64(most) {
					v := Judge(simulate(seed, 0, in), Options{Parallel: 1, Minimum: none, Undecided: 1})
					for i := range v.Checks {
						if c := &v.Checks[i]; c.Name == PostgresSink && !c.OK() {
							found++
						} else if !c.OK() {
							t.Errorf("seed %d: %s: %v", seed, c.Name, c.Violations[0])
						}
					}
				}
				if t.Logf("found in %d of %d histories", found, most); found == 0 {
					t.Error("it is not found")
				}
			})
		}
	}
}

// A server that leaves out a guard of the protocol is found out, by the check that stands for what the guard is for.
func TestMutants(t *testing.T) {
	alone, shared := conditions{keys: 1, callers: 5, visits: 6}, conditions{keys: 2, shared: true, callers: 5, visits: 6}
	wiped := alone
	wiped.wipes = true
	for _, m := range []struct {
		name    string
		without model.Without
		in      conditions
		check   string
	}{
		{"tokens count, without the clock", model.Without{TimeFloor: true}, wiped, Tokens},
		{"expire keeps the token", model.Without{ExpireRaise: true}, alone, Linearizable},
		{"ended grants can still write", model.Without{EndedCheck: true}, alone, Linearizable},
		{"ended grants can still write, seen in the results", model.Without{EndedCheck: true}, alone, Results},
		{"ended grants leave the fence held", model.Without{FenceClearing: true}, shared, Linearizable},
		{"ended grants leave the fence held, seen in the end", model.Without{FenceClearing: true}, shared, NothingHeld},
		{"two keys of a resource at a time", model.Without{FenceBlock: true}, shared, HolderKnows},
		{"live leases are resolved", model.Without{ResolveLapsed: true}, alone, HolderKnows},
		{"fingerprints are not compared", model.Without{Fingerprint: true}, alone, Linearizable},
		{"a completion overwrites a result", model.Without{SameOutcome: true}, shared, Results},
	} {
		t.Run(m.name, func(t *testing.T) {
			m.in.without = m.without
			const most = 300
			for seed := range uint64(most) {
				v := Judge(simulate(seed, 0, m.in), Options{Parallel: 1, Minimum: none, Undecided: 1})
				for i := range v.Checks {
					if c := &v.Checks[i]; c.Name == m.check && !c.OK() {
						t.Logf("seed %d: %v", seed, c.Violations[0])
						return
					}
				}
			}
			t.Errorf("the check %q has not found it in %d histories", m.check, most)
		})
	}
}
