package model

import (
	"reflect"
	"strings"
	"testing"
)

// mutants are the protocol with one guard left out: the promise that it breaks, and a scope small enough to see it.
// A check that no mutant makes fail would be one that cannot fail.
var mutants = []struct {
	guard   string
	promise string
	scope   string
}{
	{"OwnerCheck", "P3", "failover, one resource"},
	{"OwnerCheck", "P3", "failover, keys apart"},
	{"TimeFloor", "P2", "failover, keys apart"},
	{"TimeFloor", "P2", "retention and eviction"},
	{"LastPlusOne", "P2", "clock steps, one resource"},
	{"ExpireCondition", "P5", "operators, one resource"},
	{"ExpireRaise", "P5", "retention and eviction"},
	{"ReadOwner", "P5", "operators, failover"},
	{"EndOfRestoring", "P3", "failover, keys apart"},
	{"FenceOfRestoring", "P3", "eviction, one resource"},
	{"LapseCheck", "P5", "clock steps, one resource"},
	{"LifetimeLimit", "P8", "long leases"},
	{"EndedCheck", "P3", "failover, keys apart"},
	{"FenceClearing", "P3", "failover, one resource"},
	{"FencePair", "P3", "clock steps, one resource"},
	{"FenceBlock", "P1", "failover, one resource"},
	{"FenceToken", "P2", "clock steps, one resource"},
	{"OwnGrant", "P5", "failover, one resource"},
	{"OwnEnd", "P5", "operators, one resource"},
	{"GiveBackTombstone", "P5", "operators, one resource"},
	{"GivenBack", "P8", "old keys"},
	{"Fingerprint", "P4", "failover, keys apart"},
	{"SameOutcome", "P4", "operators, quarantine"},
	{"ResolveLapsed", "P1", "operators, quarantine"},
	{"ResolveCondition", "P5", "operators, quarantine"},
	{"BothEnds", "P8", "clock steps, one resource"},
	{"ClockCut", "P8", "clock steps, one resource"},
	{"TokenTime", "P2", "long leases"},
	{"Sequence", "P5", "long leases"},
}

func TestMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.guard+", "+m.scope, func(t *testing.T) {
			t.Parallel()
			var without Without
			reflect.ValueOf(&without).Elem().FieldByName(m.guard).SetBool(true)
			stats, bad, err := Explore(scopeOf(t, m.scope), without, mostStates)
			if err != nil || bad == nil {
				t.Fatalf("without %s nothing breaks in %d states (%v)", m.guard, stats.States, err)
			}
			t.Logf("found in state %d:\n%s", stats.States, bad)
			if !strings.Contains(bad.Broken, m.promise) {
				t.Errorf("it should be %s that breaks", m.promise)
			}
		})
	}
}

func TestEveryGuardHasAMutant(t *testing.T) {
	guards := reflect.TypeFor[Without]()
	for i := range guards.NumField() {
		found := false
		for _, m := range mutants {
			found = found || m.guard == guards.Field(i).Name
		}
		if !found {
			t.Errorf("no test leaves out %s", guards.Field(i).Name)
		}
	}
}
