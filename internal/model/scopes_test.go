package model

import (
	"slices"
	"testing"
)

// mostStates keeps a scope that was made larger by mistake from running for hours.
const mostStates = 3_000_000

// scopes are what is explored. Times are in ticks: a lease is one tick long and has a grace of one more. The race
// detector makes an exploration ten times slower and has nothing to find in it, because it runs on one goroutine: with it, as
// with -short, each scope is smaller.
var scopes = []struct {
	Scope
	few      int      // ticks with -short or -race
	prompt   bool     // and nothing stays on its way
	mustMeet []string // situations without which an exploration proves little
}{
	{
		Scope: Scope{
			Name: "failover, one resource", Keys: 2, Shared: true, Callers: 3, Prints: [3]int32{1, 2, 1}, Settled: true,
			Ticks: 3, Claims: 3, Completes: 1, Writes: 1, Late: 1, InFlight: 1,
			Cuts: 1, Promotions: 1, Skew: []int64{0, -1}, Answers: 1,
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few: 2,
		mustMeet: []string{
			metTakeover, metFailoverTakeover, metLostGrant, metReplacedGrant, metEqualTokens, metReplay, metLateCopy,
		},
	},
	{
		Scope: Scope{
			Name: "failover, keys apart", Keys: 2, Callers: 3, Prints: [3]int32{1, 2, 1}, Settled: true,
			Ticks: 3, Claims: 3, Completes: 1, Late: 1, InFlight: 1,
			Cuts: 1, Promotions: 1, Skew: []int64{0, -1}, Answers: 1,
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few: 2,
		mustMeet: []string{
			metTakeover, metFailoverTakeover, metLostGrant, metReplacedGrant, metEqualTokens, metReplay, metRestored, metLateCopy,
		},
	},
	{
		Scope: Scope{
			Name: "operators, one resource", Keys: 2, Shared: true, Callers: 3, Prints: [3]int32{1, 2, 1}, Settled: true,
			Operate: [2]bool{true, false},
			Ticks:   2, Claims: 3, Completes: 2, GiveBacks: 1, Expires: 1, Resolves: 1, Late: 1, InFlight: 1, Lost: 1,
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few:      1,
		mustMeet: []string{metExpired, metTombstone},
	},
	{
		Scope: Scope{
			Name: "operators, quarantine", Keys: 1, Callers: 3, Prints: [3]int32{1, 1, 1}, Settled: true, Operate: [2]bool{true, false},
			Ticks: 3, Claims: 3, Renewals: 1, Completes: 2, GiveBacks: 1, Expires: 1, Resolves: 2, Late: 1, InFlight: 1, Quarantine: true,
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few:      2,
		mustMeet: []string{metExpired, metTombstone, metResolved, metReplay},
	},
	{
		Scope: Scope{
			Name: "old keys", Keys: 1, Callers: 3, Prints: [3]int32{1, 1, 1}, Settled: true, Operate: [2]bool{true, false}, Old: true,
			Ticks: 3, Claims: 3, Completes: 1, GiveBacks: 2, Expires: 1, Lost: 1, Late: 1, InFlight: 1, Evictions: 1,
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few:      2,
		mustMeet: []string{metTakeover, metExpired, metTombstone, metOldKey, metReplay},
	},
	{
		Scope: Scope{
			Name: "operators, failover", Keys: 1, Callers: 2, Prints: [3]int32{1, 1, 1}, Settled: true, Operate: [2]bool{true, false},
			Ticks: 2, Claims: 2, Completes: 1, Expires: 1, Resolves: 1, Late: 1, InFlight: 1,
			Cuts: 1, Promotions: 1, Skew: []int64{0, -1}, Answers: 1,
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few:      1,
		mustMeet: []string{metExpired, metLostGrant, metReplacedGrant, metEqualTokens},
	},
	{
		Scope: Scope{
			Name: "clock steps, one resource", Keys: 2, Shared: true, Callers: 3, Prints: [3]int32{1, 1, 1}, Settled: true,
			Ticks: 3, Claims: 4, Renewals: 1, Releases: 1, Lost: 1, Late: 1, InFlight: 1, Steps: 1, StepBy: []int64{-2, 2},
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few: 2, prompt: true,
		mustMeet: []string{metTakeover},
	},
	{
		Scope: Scope{
			Name: "a sink elsewhere", Keys: 1, Callers: 3, Prints: [3]int32{1, 1, 1}, Settled: true,
			Ticks: 3, Claims: 3, Admits: 3, Late: 1, InFlight: 1,
			Cuts: 1, Promotions: 1, Skew: []int64{0, -1}, Answers: 1,
			Length: 2, Lifetime: 4, Retention: 6, Burial: 6,
		},
		few:      3,
		mustMeet: []string{metTakeover, metFailoverTakeover, metLostGrant, metReplacedGrant, metEqualTokens},
	},
	{
		Scope: Scope{
			Name: "long leases", Keys: 1, Callers: 2, Prints: [3]int32{1, 1, 1}, Settled: true,
			Ticks: 7, Claims: 2, Renewals: 2, Saves: 2, Releases: 1, Late: 1, InFlight: 1, Floor: 7,
			Length: 2, Lifetime: 3, Retention: 4, Burial: 4,
		},
		few:      7,
		mustMeet: []string{metTakeover},
	},
	{
		Scope: Scope{
			Name: "eviction, one resource", Keys: 2, Shared: true, Callers: 3, Prints: [3]int32{1, 1, 1}, Settled: true,
			Ticks: 3, Claims: 3, Completes: 1, GiveBacks: 1, Late: 1, InFlight: 1, Evictions: 1,
			Length: 2, Lifetime: 4, Retention: 5, Burial: 5,
		},
		few:      2,
		mustMeet: []string{metTakeover, metRestored, metReplay},
	},
	{
		Scope: Scope{
			Name: "retention and eviction", Keys: 1, Callers: 3, Prints: [3]int32{1, 1, 2}, Settled: true, Operate: [2]bool{true, false},
			Ticks: 6, Claims: 3, Completes: 1, Expires: 1, Late: 1, InFlight: 1, Evictions: 1,
			Length: 2, Lifetime: 3, Retention: 4, Burial: 4,
		},
		few:      5,
		mustMeet: []string{metTakeover, metRestored, metExpired, metReplay},
	},
}

func scopeOf(t *testing.T, name string) Scope {
	t.Helper()
	for _, s := range scopes {
		if s.Name != name {
			continue
		}
		if raced || testing.Short() {
			s.Ticks = s.few
			if s.prompt {
				s.Late = 0
			}
		}
		return s.Scope
	}
	t.Fatalf("no scope %q", name)
	return Scope{}
}

// Every promise holds in every state of every scope.
func TestExplore(t *testing.T) {
	for _, s := range scopes {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			stats, bad, err := Explore(scopeOf(t, s.Name), Without{}, mostStates)
			t.Logf("%d states, %d moves between them, up to %d moves away", stats.States, stats.Moves, stats.Depth)
			t.Logf("met %v", stats.Seen)
			if err != nil {
				t.Error(err)
			}
			if bad != nil {
				t.Errorf("a promise is broken:\n%s", bad)
			}
			for _, what := range s.mustMeet {
				if stats.Seen[what] == 0 {
					t.Errorf("no state had %q: the scope is too small to show anything", what)
				}
			}
		})
	}
}

// The same numbers come out of every run: what a failure shows can be looked at again.
func TestExplorationsAreRepeatable(t *testing.T) {
	scope := scopeOf(t, "failover, one resource")
	scope.Ticks, scope.Claims = 1, 2
	first, _, _ := Explore(scope, Without{}, mostStates)
	again, _, _ := Explore(scope, Without{}, mostStates)
	if first.States != again.States || first.Moves != again.Moves || first.States < 1000 {
		t.Errorf("%d states and %d moves, then %d and %d", first.States, first.Moves, again.States, again.Moves)
	}
	var told [2]string
	for i := range told {
		_, bad, _ := Explore(scope, Without{OwnerCheck: true}, mostStates)
		if bad == nil {
			t.Fatal("nothing is broken")
		}
		told[i] = bad.String()
	}
	if told[0] != told[1] {
		t.Errorf("two histories:\n%s\n%s", told[0], told[1])
	}
}

func TestScopeThatIsTooLarge(t *testing.T) {
	if stats, _, err := Explore(scopes[0].Scope, Without{}, 100); err != ErrTooMany || stats.States <= 100 {
		t.Errorf("%d states, %v", stats.States, err)
	}
}

func TestScopesHaveDifferentNames(t *testing.T) {
	var names []string
	for _, s := range scopes {
		if slices.Contains(names, s.Name) {
			t.Errorf("two are called %q", s.Name)
		}
		names = append(names, s.Name)
	}
}
