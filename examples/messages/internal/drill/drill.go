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
)

// Run publishes messages three times each to three consumers. One of them dies in its work, before its effects, one is stopped in good
// order, and a new one comes. Some messages take longer than the broker waits, some never work. Each has to take effect once: the
// effect is one that would show a second time. (Were a consumer to die between an effect and its completion, the effect would have to be
// known by the message's ID: see docs/messages.md.)
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
		c, err := coordinator.New(rdb, coordinator.WithLease(2*time.Second))
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
	d.until("the first consumer stands in its work", func() bool { return d.stuck.Load() > 0 })
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
	close(d.wake) // it lives after all, and goes on where it stood, in each of the messages that others have done
	d.until("its late writes are refused", func() bool { return d.refused.Load() >= d.stuck.Load() })
	stop()
	all.Wait()
	for _, c := range []*coordinator.Coordinator{stays, leaves, comes} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}

	for _, id := range ids {
		want := "1"
		if id == "final" || id == "poison" {
			want = ""
		}
		if n := d.times(id); n != want {
			t.Errorf("%s took effect %q times, and not %q", id, n, want)
		}
	}
	parked := slices.Sorted(maps.Keys(broker.Parked(t)))
	if want := []string{"final@" + d.run, "poison@" + d.run}; !slices.Equal(parked, want) {
		t.Errorf("parked: %q", parked)
	}
	// A run that was broken off is made up for by another; without coordination there were three for each.
	if n, broken := d.plain.Load(), d.broken.Load(); n < plain || n > plain+broken {
		t.Errorf("%d messages were worked on %d times, of which %d were broken off", plain, n, broken)
	}
	if n := d.poison.Load(); n < 1 || n > 4 {
		t.Errorf("the poisoned message was tried %d times; 3 were allowed, and the last again if a shutdown broke it off", n)
	}
	if n := d.final.Load(); n < 1 || n > 2 {
		t.Errorf("the message that cannot be handled was tried %d times", n)
	}
}

type drill struct {
	t       *testing.T
	rdb     redis.UniversalClient
	run     string
	stuck   atomic.Int64 // the messages that the dying consumer works on
	wake    chan struct{}
	refused atomic.Int64
	// How often handlers ran, and how many of the plain ones' did not get to their end.
	plain, poison, final, broken atomic.Int64
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
			case consumer == "dying":
				d.stuck.Add(1)
				<-d.wake // whatever its context says: it stands still
			}
			// An effect that was begun is not broken off, or nobody would know whether it took place.
			err := d.effect(context.WithoutCancel(ctx), c, lease)
			if errors.Is(err, coordinator.ErrStaleToken) {
				d.refused.Add(1)
			}
			if strings.HasPrefix(name, "plain") {
				d.plain.Add(1)
				if err != nil || lease.Context().Err() != nil {
					d.broken.Add(1)
				}
			}
			return err
		}
	}
}

// effect counts behind the fence: a second one would show. The dead consumer's coordinator is closed, so that one writes by another.
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
	return fence.Do(ctx, lease.Grant(), "INCR", "effect:"+run+":"+name+":"+fence.Tag()).Err()
}

// times is how often a message took effect; empty for never.
func (d *drill) times(name string) string {
	var times []string
	for _, key := range d.keys("effect:" + d.run + ":" + name + ":*") {
		n, err := d.rdb.Get(context.Background(), key).Result()
		if err != nil {
			d.t.Error(err)
		}
		times = append(times, n)
	}
	return strings.Join(times, " and ")
}

// effects is how many messages have taken effect.
func (d *drill) effects() int { return len(d.keys("effect:" + d.run + ":*")) }

func (d *drill) keys(pattern string) []string {
	keys, err := d.rdb.Keys(context.Background(), pattern).Result()
	if err != nil {
		d.t.Error(err)
	}
	return keys
}
