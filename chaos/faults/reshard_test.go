package faults

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/history"
)

// TestMoveSlots has callers at work on pairs of keys in the slots that are moved.
func TestMoveSlots(t *testing.T) {
	to := target(t, 1)
	both := redis.NewScript(`redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])`)
	d := direct(t, to)
	const tags = 6
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var acked [tags]int
	for i := range tags {
		tag := fmt.Sprintf("{pair%d}", i)
		to.Slots = append(to.Slots, int(d.ClusterKeySlot(ctx, tag).Val()))
		for n := range 20 {
			if err := d.Set(ctx, fmt.Sprint(tag, n), 0, 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		c := client(t, to.Networks[0])
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				// One key fails with TRYAGAIN as long as the other is elsewhere, and each by itself never.
				keys := []string{fmt.Sprint(tag, n%20), fmt.Sprint(tag, (n+7)%20)}
				if both.Eval(ctx, c, keys).Err() == nil {
					acked[i] += 2
				}
				if err := c.Get(ctx, keys[0]).Err(); err != nil {
					t.Errorf("a single key: %v", err)
				}
			}
		})
	}
	before := to.redirections(ctx)
	f := inject(t, to, "move-slots")
	close(stop)
	wg.Wait()
	after := to.redirections(ctx)
	for _, name := range []string{"ASK", "TRYAGAIN"} {
		if after[name] == before[name] {
			t.Errorf("nobody was told %s: %s", name, f.Detail)
		}
	}
	if f.Effect != history.NoLoss || f.Count < 6 || len(f.Slots) == 0 || !strings.Contains(f.Detail, " keys, ") {
		t.Errorf("%+v", f)
	}
	for i := range tags {
		sum := 0
		for n := range 20 {
			v, err := d.Get(ctx, fmt.Sprintf("{pair%d}%d", i, n)).Int()
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
		if sum != acked[i] {
			t.Errorf("tag %d: counted %d, acknowledged %d", i, sum, acked[i])
		}
	}
}

// TestMoveFoundSlots has nobody say which slots are in use.
func TestMoveFoundSlots(t *testing.T) {
	to := target(t, 0)
	records(t, to, "found:")
	masters, err := to.Cluster.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	slot, at, err := to.choose(ctx, masters)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ask(ctx, masters[at], "CLUSTER", "COUNTKEYSINSLOT", slot).Int(); n == 0 || err != nil {
		t.Errorf("slot %d has %d keys, %v", slot, n, err)
	}
}

func TestFlushScripts(t *testing.T) {
	to := target(t, 0)
	masters, err := to.Cluster.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sha := make([]string, len(masters))
	for i, m := range masters {
		if sha[i], err = ask(ctx, m, "SCRIPT", "LOAD", "return 1").Text(); err != nil {
			t.Fatal(err)
		}
	}
	f := inject(t, to, "flush-scripts")
	for i, m := range masters {
		if err := ask(ctx, m, "EVALSHA", sha[i], 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOSCRIPT") {
			t.Errorf("%s: %v", m.Addr(), err)
		}
	}
	if f.Count < int64(len(masters)) || f.Effect != history.NoLoss {
		t.Errorf("%+v", f)
	}
}

// TestMovesTouching: what was on its way when a node failed belongs to what failed.
func TestMovesTouching(t *testing.T) {
	to := target(t, 0)
	nodes := to.Cluster.Nodes()
	var m moves
	over := m.begin(7, nodes[0], nodes[1])
	m.over(over)
	m.begin(20, nodes[1], nodes[2])
	m.begin(11, nodes[2], nodes[0])
	now := history.Now()
	got := m.touching([][2]int{{0, 5}, {12, 15}}, now, nodes[0])
	if want := [][2]int{{0, 5}, {11, 15}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	got = m.touching([][2]int{{0, 5}}, over.end, nodes[0])
	if want := [][2]int{{0, 5}, {7, 7}, {11, 11}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
