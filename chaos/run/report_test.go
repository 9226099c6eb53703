package run

import (
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/faults"
	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/chaos/judge"
)

func TestVerdict(t *testing.T) {
	good := &Group{Name: "network", Checks: []judge.Check{{Name: judge.Tokens, Promise: "P2", Seen: 3, Minimum: 1}}}
	r := &Report{Seed: 7, OK: true, Groups: []*Group{good}, Dir: "there"}
	if err := r.Verdict(); err != nil {
		t.Error(err)
	}
	bad := &Group{Name: "memory"}
	bad.fail("%s happened %d times", "evict", 0)
	r.Groups = append(r.Groups, bad)
	err := r.Verdict()
	if err == nil || !strings.Contains(err.Error(), "--seed 7") || !strings.Contains(err.Error(), "there") {
		t.Errorf("Verdict() = %v", err)
	}
	var text strings.Builder
	r.Table(&text)
	for _, want := range []string{"network: ", "tokens", "FAILED: evict happened 0 times"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, &text)
		}
	}
}

func TestSlowTakeoverFails(t *testing.T) {
	g := &Group{Faults: []*FaultTimes{{Name: killMaster, After: Spread{N: 3, P50: 1001, Max: 1500}}}}
	if g.judgeTimes(); len(g.Failures) != 1 {
		t.Errorf("%v", g.Failures)
	}
	g = &Group{Faults: []*FaultTimes{{Name: killMaster, After: Spread{N: 3, P50: 999, Max: 1500}}}}
	if g.judgeTimes(); len(g.Failures) != 0 {
		t.Errorf("%v", g.Failures)
	}
}

// TestTooFewRefusals checks that a run fails in which hardly anybody came too late.
func TestTooFewRefusals(t *testing.T) {
	for _, test := range []struct {
		refused int
		want    bool
	}{{11, false}, {12, true}} {
		r := &Report{Groups: []*Group{{Seconds: 40, Counts: map[string]int{"stale inserts refused": 5}}, {Seconds: 20, Counts: map[string]int{"stale inserts refused": test.refused - 5}}}}
		if r.end(time.Now()); r.OK != test.want {
			t.Errorf("%d refused: %v, %v", test.refused, r.OK, r.Failures)
		}
	}
}

// TestMissing checks that a fault which never happened is named: in the mixed group one of each lane is enough.
func TestMissing(t *testing.T) {
	for _, test := range []struct {
		each bool
		want int
	}{{true, len(faults.Lanes(faults.Networking)[0]) - 1}, {false, 0}} {
		s := &storm{lanes: faults.Lanes(faults.Networking), each: test.each, least: 1, times: map[string]int{}, unsupported: map[string]bool{}}
		if got := len(s.missing()); got != len(s.lanes[0]) {
			t.Errorf("at first %d are missing", got)
		}
		s.take(history.Fault{Name: s.lanes[0][0].Name(), Count: 1})
		if got := len(s.missing()); got != test.want {
			t.Errorf("each %v: %d are missing, want %d", test.each, got, test.want)
		}
	}
}

// TestLanes checks that the lanes which choose faults by name find them.
func TestLanes(t *testing.T) {
	for name, lanes := range map[string]struct {
		of   [][]faults.Fault
		want int
	}{"kills": {kills(), 1}, "durable": {durable(), 4}, Short: {short(), 15}} {
		if got := len(lanes.of[0]); got != lanes.want {
			t.Errorf("%s has %d faults, want %d", name, got, lanes.want)
		}
	}
	for _, s := range specs() {
		for _, lane := range s.lanes() {
			if len(lane) == 0 {
				t.Errorf("group %s has a lane without faults", s.name)
			}
		}
	}
}
