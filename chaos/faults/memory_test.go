package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/history"
)

// records writes keys to all masters, and returns a function that tells how many of those in the slots are left, and
// of the others.
func records(t *testing.T, to *Target, name string) func([][2]int) (in, left, out, others int) {
	t.Helper()
	const n = 600
	d := direct(t, to)
	key := func(i int) string { return fmt.Sprint(name, i) }
	slots := make([]int, n)
	pipe := d.Pipeline()
	for i := range n {
		slots[i] = int(d.ClusterKeySlot(ctx, key(i)).Val())
		pipe.Set(ctx, key(i), strings.Repeat("r", 200), time.Minute)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	return func(concerned [][2]int) (in, left, out, others int) {
		pipe := d.Pipeline()
		for i := range n {
			pipe.Exists(ctx, key(i))
		}
		found, err := pipe.Exec(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i, cmd := range found {
			there := int(cmd.(*redis.IntCmd).Val())
			if within(concerned, slots[i]) {
				in, left = in+1, left+there
			} else {
				out, others = out+1, others+there
			}
		}
		return in, left, out, others
	}
}

// TestEvict: records that were there before are dropped, on one master.
func TestEvict(t *testing.T) {
	to := target(t, 0)
	count := records(t, to, "evict:")
	f := inject(t, to, "evict")
	in, left, out, others := count(f.Slots)
	t.Logf("%d of %d records are left, and %d of %d elsewhere", left, in, others, out)
	var theirs int
	if _, err := fmt.Sscanf(f.Detail, "%d keys of the callers", &theirs); err != nil || theirs < in-left {
		t.Errorf("%d records are gone: %s, %v", in-left, f.Detail, err)
	}
	if left >= in || others != out || f.Count < 100 || f.Effect != history.Wipe {
		t.Errorf("%+v", f)
	}
	for _, s := range to.Cluster.Nodes() {
		err := poll(bound(t), "the filling is gone", func() error { // of which a replica hears later
			keys, err := ask(ctx, s, "KEYS", "filler:*").StringSlice()
			if err == nil && len(keys) != 0 {
				err = fmt.Errorf("%d keys are left", len(keys))
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", s.Addr(), err)
		}
	}
}

// TestMemoryFull: writes are refused for a while, and everything stays.
func TestMemoryFull(t *testing.T) {
	to := target(t, 0)
	count := records(t, to, "full:")
	d := direct(t, to)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	refused := 0
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := d.Set(context.Background(), fmt.Sprint("full:more:", i), 1, time.Minute).Err(); err != nil && strings.HasPrefix(err.Error(), "OOM") {
				refused++
			}
		}
	})
	f := inject(t, to, "memory-full")
	cancel()
	wg.Wait()
	in, left, out, others := count(f.Slots)
	if left != in || others != out || f.Effect != history.NoLoss {
		t.Errorf("%d of %d are left, %d of %d elsewhere: %+v", left, in, others, out, f)
	}
	if refused < 10 || f.Count < int64(refused) {
		t.Errorf("%d writes were refused, %d are reported", refused, f.Count)
	}
	if err := d.Set(context.Background(), "full:after", 1, 0).Err(); err != nil {
		t.Error(err)
	}
}

func TestFlushNode(t *testing.T) {
	to := target(t, 0)
	count := records(t, to, "flush:")
	f := inject(t, to, "flush-node")
	in, left, out, others := count(f.Slots)
	if in == 0 || left != 0 || others != out || f.Count < int64(in) || f.Effect != history.Wipe {
		t.Errorf("%d of %d are left, %d of %d elsewhere: %+v", left, in, others, out, f)
	}
}

// TestMemoryComesBack: a run that ends meanwhile leaves no limit behind.
func TestMemoryComesBack(t *testing.T) {
	to := target(t, 0)
	for _, name := range []string{"evict", "memory-full"} {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := byName(t, name).Inject(short, to)
		cancel()
		if err != nil && !errors.Is(err, ErrNothing) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		whole(t, to)
	}
}
