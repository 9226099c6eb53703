package faults

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

// clockOf asks a server for the time, and returns how far it is from ours.
func clockOf(ctx context.Context, s *redistest.Server) (time.Duration, error) {
	c := plain(s)
	defer c.Close()
	at, err := c.Time(ctx).Result()
	return time.Until(at), err
}

// watchClocks returns a function that ends the watching, and returns how far the clocks of some servers were ahead.
func watchClocks(t *testing.T, servers []*redistest.Server) (stop func() map[*redistest.Server][2]time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	seen := map[*redistest.Server][2]time.Duration{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, s := range servers {
				if d, err := clockOf(context.Background(), s); err == nil {
					seen[s] = [2]time.Duration{min(seen[s][0], d), max(seen[s][1], d)}
				}
			}
			pause(ctx, 10*time.Millisecond)
		}
	})
	t.Cleanup(cancel)
	return func() map[*redistest.Server][2]time.Duration {
		cancel()
		wg.Wait()
		return seen
	}
}

// TestClockSteps: one master's clock or all clocks are off by an hour and come back, and keys whose time comes thereby
// are gone.
func TestClockSteps(t *testing.T) {
	to := target(t, 0)
	for _, name := range []string{"clock-forward", "clock-back"} {
		seen := map[string]bool{}
		for range 2 {
			soon := records(t, to, name)
			stop := watchClocks(t, to.Cluster.Nodes())
			f := inject(t, to, name)
			moved := 0
			for s, d := range stop() {
				off := d[1]
				if f.Offset < 0 {
					off = d[0]
				}
				if (off - time.Duration(f.Offset)).Abs() < 5*time.Second {
					moved++
				} else if off.Abs() > time.Second {
					t.Errorf("the clock of %s was off by %v", s.Addr(), off)
				}
				if d, err := clockOf(ctx, s); err != nil || d.Abs() > time.Second {
					t.Errorf("the clock of %s is off by %v, %v", s.Addr(), d, err)
				}
			}
			if moved != int(f.Count) || f.Effect != history.Step || time.Duration(f.Offset).Abs() != time.Hour {
				t.Errorf("%d clocks were moved: %+v", moved, f)
			}
			slots := f.Slots
			if f.Count > 1 {
				slots = [][2]int{{0, 16383}}
			}
			in, left, out, others := soon(slots)
			if gone := f.Offset > 0; in == 0 || gone && left != 0 || !gone && left != in || others != out {
				t.Errorf("%d of %d keys are left, and %d of %d elsewhere", left, in, others, out)
			}
			if seen[f.Detail] = true; len(seen) == 2 {
				break
			}
		}
		if len(seen) != 2 {
			t.Errorf("%s: %v", name, seen)
		}
	}
}

// TestClockSkew: the keys of a shard see the clock step, and nothing is lost.
func TestClockSkew(t *testing.T) {
	to := target(t, 0)
	count := records(t, to, "skew:")
	before, err := to.Cluster.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stop := watchClocks(t, to.Cluster.Nodes())
	f := inject(t, to, "clock-skew")
	after, err := to.Cluster.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	promoted := 0
	seen := stop()
	for _, s := range after {
		old := false
		for _, b := range before {
			old = old || b == s
		}
		if old {
			continue
		}
		promoted++
		off := seen[s][1]
		if f.Offset < 0 {
			off = seen[s][0]
		}
		if (off - time.Duration(f.Offset)).Abs() > 50*time.Millisecond {
			t.Errorf("the clock of the new master was off by %v", off)
		}
	}
	in, left, out, others := count(f.Slots)
	if promoted != 1 || f.Promoted == 0 || time.Duration(f.Offset).Abs() != apart || f.Effect != history.Step {
		t.Errorf("%d promoted: %+v", promoted, f)
	}
	if in == 0 || left != in || others != out {
		t.Errorf("%d of %d keys are left, and %d of %d elsewhere", left, in, others, out)
	}
}

// TestWithoutClock: what the clock cannot do is said, and so is why there is none.
func TestWithoutClock(t *testing.T) {
	to := target(t, 0)
	bare := &Target{Cluster: to.Cluster, Lease: testLease, Grace: testGrace}
	for _, name := range []string{"clock-forward", "clock-back", "clock-skew", "isolate-master", "stop-holders", "kill-holders", "partition-callers"} {
		if all, err := byName(t, name).Inject(ctx, bare); !errors.Is(err, ErrUnsupported) || len(all) != 0 {
			t.Errorf("%s: %v, %v", name, all, err)
		}
	}
	t.Setenv("CC", "no-such-compiler")
	if _, err := NewClock(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "apt-get install gcc") {
		t.Errorf("no compiler: %v", err)
	}
	broken := filepath.Join(t.TempDir(), "cc")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho it is broken\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CC", broken)
	if _, err := NewClock(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "it is broken") {
		t.Errorf("a broken compiler: %v", err)
	}
}
