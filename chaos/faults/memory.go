package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

func memories() []Fault {
	return []Fault{
		memory{name: "evict", effect: history.Wipe, do: evict},
		memory{name: "memory-full", effect: history.NoLoss, do: fill},
		memory{name: "flush-node", effect: history.Wipe, do: flushNode},
	}
}

// memory does something to the data of one master.
type memory struct {
	name   string
	effect history.Effect
	// do sets Count.
	do func(ctx context.Context, t *Target, master *redistest.Server, f *history.Fault) error
}

func (m memory) Name() string  { return m.name }
func (m memory) Group() string { return Memory }

func (m memory) Inject(ctx context.Context, t *Target) (_ []history.Fault, err error) {
	defer t.breakNodes()()
	s, err := t.pick(ctx)
	if err != nil {
		return nil, err
	}
	f := history.Fault{Name: m.name, Effect: m.effect, Start: history.Now()}
	if f.Slots, err = t.Cluster.SlotsOf(ctx, s.master); err != nil {
		return nil, err
	}
	err = m.do(ctx, t, s.master, &f)
	err = errors.Join(err, t.heal(ctx))
	f.Slots = t.moved.touching(f.Slots, f.Start, s.master, s.replica)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // what was asked when the run ended was not answered
	}
	if f.Count == 0 && err == nil {
		err = ErrNothing
	}
	return happened(f), err
}

// limit sets how much memory a master may use, and what it does at the limit. The function that it returns sets both
// to what they were.
func limit(ctx context.Context, master *redistest.Server, bytes int64, policy string) (func(context.Context) error, error) {
	old := map[string]string{}
	for _, name := range []string{"maxmemory", "maxmemory-policy"} {
		pair, err := ask(ctx, master, "CONFIG", "GET", name).StringSlice()
		if err != nil || len(pair) != 2 {
			return nil, fmt.Errorf("faults: CONFIG GET %s: %q, %w", name, pair, err)
		}
		old[name] = pair[1]
	}
	set := func(ctx context.Context, bytes, policy string) error {
		return ask(ctx, master, "CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", bytes).Err()
	}
	undo := func(ctx context.Context) error {
		ctx, cancel := detached(ctx)
		defer cancel()
		return set(ctx, old["maxmemory"], old["maxmemory-policy"])
	}
	if err := set(ctx, fmt.Sprint(bytes), policy); err != nil {
		return nil, errors.Join(err, undo(ctx))
	}
	return undo, nil
}

const (
	fillerSize  = 1 << 10
	fillerBatch = 50
	fillerTTL   = 20 * time.Second // should it not be deleted
)

const (
	// headroom is above what the replication backlog and the filling's own buffers take, which cannot be evicted.
	headroom = 2 << 20
	// evictions are enough to hit records among the filling.
	evictions = 500
)

// evict lets a master use little more memory than it does, and fills it until it has dropped a number of keys: those
// that were used least lately go first, so records do.
func evict(ctx context.Context, t *Target, master *redistest.Server, f *history.Fault) (err error) {
	evicted := func(ctx context.Context) (int64, error) { return info(ctx, master, "stats", "evicted_keys") }
	before, err := evicted(ctx)
	if err != nil {
		return err
	}
	used, err := info(ctx, master, "memory", "used_memory")
	if err != nil {
		return err
	}
	undo, err := limit(ctx, master, used+headroom, "allkeys-lru")
	if err != nil {
		return err
	}
	fill := newFiller(ctx, master, f.Slots)
	defer fill.client.Close()
	defer func() {
		lifted := undo(ctx) // first: nothing is to be evicted while it is counted
		after, counted := evicted(context.WithoutCancel(ctx))
		left, emptied := fill.empty(ctx)
		f.Count = after - before
		f.Detail = fmt.Sprintf("%d keys of the callers", f.Count-(fill.written-left))
		err = errors.Join(err, lifted, counted, emptied)
	}()
	const longest = 4 * time.Second
	for end := time.Now().Add(longest); time.Now().Before(end); {
		if err := fill.write(ctx); err != nil && !strings.HasPrefix(err.Error(), "OOM") {
			return err
		}
		now, err := evicted(ctx)
		if err != nil {
			return err
		}
		if now-before >= evictions {
			break
		}
	}
	// What the callers write goes on to push out other keys.
	pause(ctx, t.between(200*time.Millisecond, 500*time.Millisecond))
	return nil
}

// fill has a master refuse whatever needs memory, for a while.
func fill(ctx context.Context, t *Target, master *redistest.Server, f *history.Fault) (err error) {
	refused := func(ctx context.Context) (int64, error) { return info(ctx, master, "errorstats", "errorstat_OOM") }
	before, err := refused(ctx)
	if err != nil {
		return err
	}
	undo, err := limit(ctx, master, 1, "noeviction")
	if err != nil {
		return err
	}
	defer func() {
		after, counted := refused(context.WithoutCancel(ctx))
		f.Count = after - before
		f.Detail = fmt.Sprintf("%d commands answered OOM", f.Count)
		err = errors.Join(err, counted, undo(ctx))
	}()
	probe := newFiller(ctx, master, f.Slots)
	defer probe.client.Close()
	if err := probe.write(ctx); err == nil {
		return errors.New("faults: a write passes with memory full")
	} else if !strings.HasPrefix(err.Error(), "OOM") {
		return fmt.Errorf("faults: a write with memory full: %w", err)
	}
	pause(ctx, t.between(800*time.Millisecond, 1600*time.Millisecond))
	return nil
}

// flushNode empties a master, and so its replica.
func flushNode(ctx context.Context, _ *Target, master *redistest.Server, f *history.Fault) error {
	keys, err := ask(ctx, master, "DBSIZE").Int64()
	if err != nil {
		return err
	}
	if keys == 0 {
		return nil
	}
	f.Count = keys
	return ask(ctx, master, "FLUSHALL").Err()
}

// filler is keys that nobody asks for. They are in one slot, and deleted in the end.
type filler struct {
	client  *redis.Client
	tag     string
	value   string
	next    int
	written int64
}

func newFiller(ctx context.Context, master *redistest.Server, slots [][2]int) *filler {
	f := &filler{client: plain(master), value: strings.Repeat("x", fillerSize)}
	for i := 0; ; i++ {
		f.tag = fmt.Sprintf("filler:{%d}:", i)
		slot, err := f.client.ClusterKeySlot(ctx, f.tag).Result()
		if err != nil || within(slots, int(slot)) {
			return f // an error comes again when it is to write
		}
	}
}

func (f *filler) write(ctx context.Context) error {
	pipe := f.client.Pipeline()
	for range fillerBatch {
		pipe.Set(ctx, fmt.Sprint(f.tag, f.next), f.value, fillerTTL)
		f.next++
	}
	cmds, err := pipe.Exec(ctx)
	for _, cmd := range cmds {
		if cmd.Err() == nil {
			f.written++
		}
	}
	return err
}

// empty deletes the keys, and returns how many were left.
func (f *filler) empty(ctx context.Context) (left int64, err error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	pipe := f.client.Pipeline()
	for i := range f.next {
		pipe.Unlink(ctx, fmt.Sprint(f.tag, i))
	}
	if pipe.Len() == 0 {
		return 0, nil
	}
	cmds, err := pipe.Exec(ctx)
	for _, cmd := range cmds {
		if n, ok := cmd.(*redis.IntCmd); ok {
			left += n.Val()
		}
	}
	return left, err
}
