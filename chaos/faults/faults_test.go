package faults

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

func TestGroups(t *testing.T) {
	names := map[string]bool{}
	for _, f := range All() {
		if names[f.Name()] {
			t.Errorf("two faults are called %s", f.Name())
		}
		names[f.Name()] = true
		if !slices.Contains(Groups(), f.Group()) || f.Group() == Mixed {
			t.Errorf("%s is in the group %q", f.Name(), f.Group())
		}
	}
	seen := 0
	for _, group := range Groups() {
		lanes := Lanes(group)
		if len(lanes) == 0 {
			t.Errorf("the group %s has no lanes", group)
		}
		for _, lane := range lanes {
			for _, f := range lane {
				if group != Mixed {
					seen++
				}
				if group != Mixed && f.Group() != group || !names[f.Name()] {
					t.Errorf("%s of %s is in the group %s", f.Name(), f.Group(), group)
				}
			}
		}
	}
	if seen != len(names) {
		t.Errorf("%d of %d faults are in groups", seen, len(names))
	}
	if Lanes("none") != nil {
		t.Error("a group that does not exist has lanes")
	}
	if err := Run(ctx, &Target{}, "none", nil); err == nil {
		t.Error("a group that does not exist can be run")
	}
}

// TestEndOfRun ends the run while a fault is at work.
func TestEndOfRun(t *testing.T) {
	to := target(t, 2)
	populate(t, to)
	working(t, to)
	startLoad(t, to, 2)
	for _, name := range []string{
		"pause-master", "lose-suffix", "isolate-master", "partition-callers", "hold-requests", "slow-links", "move-slots",
		"clock-forward", "stop-holders", "kill-holders", "kill-postgres",
	} {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		all, err := byName(t, name).Inject(short, to)
		cancel()
		if err != nil && !errors.Is(err, ErrNothing) {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range all {
			if f.Start == 0 || f.End <= f.Start || f.Count < 1 {
				t.Errorf("%+v", f)
			}
		}
		whole(t, to)
	}
	for _, p := range to.Processes {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestRun has the faults of all lanes of a group at work at the same time.
func TestRun(t *testing.T) {
	to := target(t, 2)
	populate(t, to)
	working(t, to)
	startLoad(t, to, 4)
	var mu sync.Mutex
	counts := map[string]int64{}
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	err := Run(ctx, to, Mixed, func(f history.Fault) {
		mu.Lock()
		defer mu.Unlock()
		counts[f.Name] += f.Count
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, lane := range Lanes(Mixed) {
		if !slices.ContainsFunc(lane, func(f Fault) bool { return counts[f.Name()] > 0 }) {
			t.Errorf("none of the group %s happened", lane[0].Group())
		}
	}
	t.Log(counts)
	whole(t, to)
}
