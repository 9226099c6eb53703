package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

func reshardings() []Fault { return []Fault{moveSlots{}, flushScripts{}} }

// moveSlots moves slots that are in use from master to master, one after the other, each with a stop half-way: there
// some keys are at the target and some still at the source.
type moveSlots struct{}

func (moveSlots) Name() string  { return "move-slots" }
func (moveSlots) Group() string { return Resharding }

func (m moveSlots) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	const (
		slots    = 6
		failures = 3
		longest  = 15 * time.Second // under other faults; a slot takes half a second
	)
	f := history.Fault{Name: m.Name(), Effect: history.NoLoss, Start: history.Now()}
	before := t.redirections(ctx)
	keys := 0
	var errs []error
	for end := time.Now().Add(longest); f.Count < slots && len(errs) < failures && ctx.Err() == nil && time.Now().Before(end); {
		calm := t.calm()
		one, n, err := t.moveOne(ctx)
		if err != nil {
			// While nodes fail a move may stop half-way. Healing ends it.
			expected := !calm() || ctx.Err() != nil
			if err := t.Heal(ctx); err != nil {
				return happened(f), err
			}
			t.moved.over(one)
			if one != nil {
				f.Slots = append(f.Slots, [2]int{one.slot, one.slot}) // it may have moved, or lost what had
			}
			t.logf("%s: %v", m.Name(), err)
			if !expected {
				errs = append(errs, err)
			}
			continue
		}
		f.Count++
		keys += n
		t.moved.over(one)
		f.Slots = append(f.Slots, [2]int{one.slot, one.slot})
	}
	after := t.redirections(ctx)
	f.Detail = fmt.Sprintf("%d keys", keys)
	for _, name := range redirecting {
		// A server that was started meanwhile has forgotten its own.
		f.Detail += fmt.Sprintf(", %d %s", max(0, after[name]-before[name]), name)
	}
	f.Slots = merged(f.Slots)
	if len(errs) < failures {
		errs = nil // somebody has cut the connection between two masters
	}
	err := errors.Join(append(errs, t.Heal(ctx))...)
	if f.Count == 0 && err == nil {
		return nil, ErrNothing
	}
	return happened(f), err
}

// moveOne moves one slot, and returns how many keys were in it. The move, which is nil if it was not begun, is not over
// before the caller has said so.
func (t *Target) moveOne(ctx context.Context) (one *move, keys int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	t.shape.Lock()
	defer t.shape.Unlock()
	masters, err := t.Cluster.Masters(ctx)
	if err != nil {
		return nil, 0, err
	}
	if len(masters) < 2 {
		return nil, 0, errors.New("faults: there is no master to move a slot to")
	}
	slot, at, err := t.choose(ctx, masters)
	if err != nil {
		return nil, 0, err
	}
	from, to := masters[at], masters[(at+1+t.number(len(masters)-1))%len(masters)]
	one = t.moved.begin(slot, from, to)
	if err := t.Cluster.BeginMove(ctx, slot, from, to); err != nil {
		return one, 0, err
	}
	there, err := ask(ctx, from, "CLUSTER", "COUNTKEYSINSLOT", slot).Int()
	if err != nil {
		return one, 0, err
	}
	if keys, err = t.Cluster.MoveKeys(ctx, slot, from, to, max(1, there/2)); err != nil {
		return one, 0, err
	}
	pause(ctx, t.between(100*time.Millisecond, 500*time.Millisecond))
	rest, err := t.Cluster.MoveKeys(ctx, slot, from, to, 0)
	if err != nil {
		return one, 0, err
	}
	return one, keys + rest, t.Cluster.EndMove(ctx, slot, from, to)
}

// choose returns a slot that is in use, and the number of the master that owns it.
func (t *Target) choose(ctx context.Context, masters []*redistest.Server) (slot, at int, err error) {
	if len(t.Slots) > 0 {
		slot = t.Slots[t.number(len(t.Slots))]
		for at, m := range masters {
			owned, err := t.Cluster.SlotsOf(ctx, m)
			if err != nil {
				return 0, 0, err
			}
			if within(owned, slot) {
				return slot, at, nil
			}
		}
		return 0, 0, fmt.Errorf("faults: no master owns slot %d", slot)
	}
	at = t.number(len(masters))
	key, err := ask(ctx, masters[at], "RANDOMKEY").Text()
	switch {
	case err == nil:
		slot, err = ask(ctx, masters[at], "CLUSTER", "KEYSLOT", key).Int()
		return slot, at, err
	case !errors.Is(err, redis.Nil):
		return 0, 0, err
	}
	owned, err := t.Cluster.SlotsOf(ctx, masters[at])
	if err != nil {
		return 0, 0, err
	}
	return owned[t.number(len(owned))][0], at, nil // it has no keys at all
}

func within(slots [][2]int, slot int) bool {
	for _, r := range slots {
		if r[0] <= slot && slot <= r[1] {
			return true
		}
	}
	return false
}

// redirecting are the errors that a move causes.
var redirecting = []string{"ASK", "TRYAGAIN", "MOVED"}

// redirections counts how often the live nodes have answered so.
func (t *Target) redirections(ctx context.Context) map[string]int64 {
	counts := map[string]int64{}
	for _, s := range t.Cluster.Nodes() {
		if s.PID() == 0 {
			continue
		}
		for _, name := range redirecting {
			if n, err := info(ctx, s, "errorstats", "errorstat_"+name); err == nil {
				counts[name] += n
			}
		}
	}
	return counts
}

// flushScripts has all masters forget the scripts, some times.
type flushScripts struct{}

func (flushScripts) Name() string  { return "flush-scripts" }
func (flushScripts) Group() string { return Resharding }

func (s flushScripts) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	const times = 4
	f := history.Fault{Name: s.Name(), Effect: history.NoLoss, Start: history.Now()}
	for range times {
		masters, err := t.Cluster.Masters(ctx)
		if err != nil {
			return happened(f), nil // a node failed meanwhile, which is another fault's doing
		}
		for _, m := range masters {
			if ask(ctx, m, "SCRIPT", "FLUSH").Err() == nil {
				f.Count++
			}
		}
		if !pause(ctx, t.between(50*time.Millisecond, 300*time.Millisecond)) {
			break
		}
	}
	return happened(f), nil
}
