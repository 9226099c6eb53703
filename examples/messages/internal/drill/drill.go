// Package drill is the test that the consumers of every broker have to pass.
package drill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/redis/go-redis/v9"
)

// Wait is how long a broker waits in the drill before it delivers a message again that nobody has settled.
const Wait = 500 * time.Millisecond

// Handle makes the handler of a message.
type Handle func(id string) coordmsg.Handler

// Broker is what the drill needs of one.
type Broker interface {
	// Publish sends a message.
	Publish(t *testing.T, id string)
	// Consume lets one more consumer work until ctx ends.
	Consume(ctx context.Context, t *testing.T, name string, c *coordinator.Coordinator, handle Handle, opts ...coordmsg.Option)
	// Parked are the messages that were given up, by how often.
	Parked(t *testing.T) map[string]int
}

const (
	plain  = 60 // messages, beside the odd ones
	copies = 3  // of each
	inHand = 8  // by the two consumers that go, at most
)

// Run publishes messages three times each to three consumers. One of them dies in its work, one is stopped in good order, and a
// new one comes. Some messages take longer than the broker waits, some never work. Each has to take effect once.
func Run(t *testing.T, rdb redis.UniversalClient, broker Broker) {
	d := &drill{t: t, rdb: rdb, run: fmt.Sprint(time.Now().UnixNano()), wake: make(chan struct{})}
	ids := []string{"slow", "final", "poison"}
	for i := range plain {
		ids = append(ids, fmt.Sprint("plain-", i))
	}
	opts := []coordmsg.Option{
		coordmsg.MaxAttempts(3), coordmsg.RetryAfter(func(int) time.Duration { return 50 * time.Millisecond }),
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var all sync.WaitGroup
	consume := func(ctx context.Context, name string) *coordinator.Coordinator {
		c, err := coordinator.New(rdb, coordinator.WithLease(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { broker.Consume(ctx, t, name, c, d.handle(name, c), opts...) })
		return c
	}
	dying, die := context.WithCancel(ctx)
	defer die()
	dies := consume(dying, "dying")
	broker.Publish(t, ids[len(ids)-1]+"@"+d.run)
	d.until("the first consumer stands in its work", func() bool { return d.stuck.Load() != nil })
	leaving, leave := context.WithCancel(ctx)
	defer leave()
	stays, leaves := consume(ctx, "staying"), consume(leaving, "leaving")
	for range copies {
		for _, id := range ids {
			broker.Publish(t, id+"@"+d.run)
		}
	}
	// Dead: nothing is renewed any more, released or settled.
	if err := dies.Close(); err != nil {
		t.Error(err)
	}
	die()
	leave()
	comes := consume(ctx, "coming")
	d.until("every message is settled", func() bool { return d.effects() >= plain+1 && len(broker.Parked(t)) == 2 })
	stuck := *d.stuck.Load()
	d.until("the dead consumer's message is done by another", func() bool { return d.done(stuck) })
	close(d.wake) // it lives after all, and goes on where it stood
	d.until("its late write is refused", func() bool { return d.refused.Load() > 0 })
	stop()
	all.Wait()
	for _, c := range []*coordinator.Coordinator{stays, leaves, comes} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}

	for _, id := range ids {
		if parked := id == "final" || id == "poison"; d.done(id) == parked {
			t.Errorf("%s took effect: %v", id, !parked)
		}
	}
	parked := slices.Sorted(maps.Keys(broker.Parked(t)))
	if want := []string{"final@" + d.run, "poison@" + d.run}; !slices.Equal(parked, want) {
		t.Errorf("parked: %q", parked)
	}
	// What was in the hands of the two that went may have been begun twice; without coordination it were three times for all.
	if n := d.plain.Load(); n < plain || n > plain+inHand {
		t.Errorf("%d messages were worked on %d times", plain, n)
	}
	if n := d.poison.Load(); n < 1 || n > 3 {
		t.Errorf("the poisoned message was tried %d times; 3 were allowed", n)
	}
	if n := d.final.Load(); n < 1 || n > 2 {
		t.Errorf("the message that cannot be handled was tried %d times", n)
	}
}

type drill struct {
	t       *testing.T
	rdb     redis.UniversalClient
	run     string
	stuck   atomic.Pointer[string] // the message that the dying consumer works on
	wake    chan struct{}
	refused atomic.Int64
	// How often handlers ran.
	plain, poison, final atomic.Int64
}

func (d *drill) until(what string, holds func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			d.t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (d *drill) handle(consumer string, c *coordinator.Coordinator) Handle {
	return func(id string) coordmsg.Handler {
		name, run, _ := strings.Cut(id, "@")
		return func(ctx context.Context, lease *coordinator.Lease) error {
			switch {
			case run != d.run:
				return nil // of another drill on the same broker
			case name == "final":
				d.final.Add(1)
				return coordinator.Final(errors.New("no such account"))
			case name == "poison":
				d.poison.Add(1)
				return errors.New("cannot be read")
			case name == "slow":
				select {
				case <-time.After(3 * Wait): // others get it meanwhile, and are told to wait
				case <-ctx.Done():
					return ctx.Err()
				}
			case consumer == "dying" && d.stuck.CompareAndSwap(nil, &name):
				<-d.wake // whatever its context says: it stands still
				ctx = d.t.Context()
			}
			if strings.HasPrefix(name, "plain") {
				d.plain.Add(1)
			}
			err := d.effect(ctx, c, lease)
			if errors.Is(err, coordinator.ErrStaleToken) || errors.Is(err, coordinator.ErrClosed) {
				d.refused.Add(1)
			}
			return err
		}
	}
}

// once notes a message where nobody has. An attempt may die between its effect and its completion, and is repeated then: so what it
// does is done by the message's ID, in one step with the fence's check.
const once = `return redis.call('SET', KEYS[1], ARGV[1], 'NX') and 1 or 0`

// effect takes place behind the fence. The dead consumer's coordinator is closed, so that one writes by another.
func (d *drill) effect(ctx context.Context, c *coordinator.Coordinator, lease *coordinator.Lease) error {
	if lease.Context().Err() != nil {
		var err error
		if c, err = coordinator.New(d.rdb); err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
	}
	fence := c.Fence(lease.Key())
	name, run, _ := strings.Cut(lease.Key().ID, "@")
	effect := "effect:" + run + ":" + name + ":" + fence.Tag()
	return fence.Eval(ctx, lease.Grant(), once, []string{effect}, lease.Attempt()).Err()
}

// done says whether a message has taken effect.
func (d *drill) done(name string) bool { return len(d.keys("effect:"+d.run+":"+name+":*")) == 1 }

// effects is how many messages have taken effect.
func (d *drill) effects() int { return len(d.keys("effect:" + d.run + ":*")) }

func (d *drill) keys(pattern string) []string {
	keys, err := d.rdb.Keys(context.Background(), pattern).Result()
	if err != nil {
		d.t.Error(err)
	}
	return keys
}
