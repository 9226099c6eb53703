package coordmsg_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
)

// queue delivers at least once: what is not acknowledged comes again, to whoever asks.
type queue struct {
	mu      sync.Mutex
	ready   []coordinator.Key
	open    int // delivered or to be delivered, and not acknowledged
	changed chan struct{}
}

// newQueue has every message so many times, in a random order.
func newQueue(keys []coordinator.Key, times int, random *rand.Rand) *queue {
	q := &queue{changed: make(chan struct{}, 1)}
	for range times {
		q.ready = append(q.ready, keys...)
	}
	random.Shuffle(len(q.ready), func(i, j int) { q.ready[i], q.ready[j] = q.ready[j], q.ready[i] })
	q.open = len(q.ready)
	return q
}

func (q *queue) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// next waits for a message; false when all are acknowledged, or ctx is over.
func (q *queue) next(ctx context.Context) (key coordinator.Key, ok bool) {
	for {
		q.mu.Lock()
		if n := len(q.ready); n > 0 {
			key, q.ready = q.ready[0], q.ready[1:]
			q.mu.Unlock()
			return key, true
		}
		open := q.open
		q.mu.Unlock()
		if open == 0 {
			q.wake() // the next one who waits
			return key, false
		}
		select {
		case <-q.changed:
		case <-ctx.Done():
			return key, false
		}
	}
}

func (q *queue) ack() {
	q.mu.Lock()
	q.open--
	q.mu.Unlock()
	q.wake()
}

// again delivers a message once more, before those that were never delivered.
func (q *queue) again(key coordinator.Key, after time.Duration) {
	time.AfterFunc(after, func() {
		q.mu.Lock()
		q.ready = append([]coordinator.Key{key}, q.ready...)
		q.mu.Unlock()
		q.wake()
	})
}

// site is what the consumers of a test share: the queue, and where messages take effect.
type site struct {
	queue   *queue
	sink    redis.UniversalClient
	crashes atomic.Int64
	amid    atomic.Int64 // those of the crashes that came between an effect and its completion
	stalls  atomic.Int64
	stale   atomic.Int64
	still   chan struct{} // has room for those who may stand still at once: were it all, nobody could take over
	naive   bool          // works without the coordinator
}

var errCrash = errors.New("crashed")

// consume takes messages until there are none, or it crashes. A crash leaves everything as it is: nothing is released, and
// nothing is acknowledged.
func (s *site) consume(ctx context.Context, c *coordinator.Coordinator, random *rand.Rand) error {
	for {
		key, ok := s.queue.next(ctx)
		if !ok {
			return nil
		}
		fate := random.IntN(1000)
		if s.naive {
			// What is written by hand: is it done? do it; note that it is done.
			if done, _ := s.sink.Exists(ctx, "done:"+key.ID).Result(); done == 0 {
				s.sink.Incr(ctx, "effect:{"+key.ID+"}")
				if fate < 3 {
					s.queue.again(key, 0)
					return errCrash
				}
				s.sink.Set(ctx, "done:"+key.ID, 1, 0)
			}
			s.queue.ack()
			continue
		}
		if fate < 6 { // dies with the lease in its hands, half of the time after the effect and before the completion
			s.crashes.Add(1)
			lease, err := c.Claim(ctx, key, coordinator.ManualRenewal())
			if err == nil && fate < 3 {
				s.amid.Add(1)
				err = s.effect(ctx, c, lease)
			}
			if err != nil && !errors.Is(err, coordinator.ErrCompleted) && !errors.Is(err, coordinator.ErrInProgress) {
				return err
			}
			s.queue.again(key, 0)
			return errCrash
		}
		var opts []coordmsg.Option
		stands := false // the process stands still, and wakes when another has its message
		if fate < 13 {
			select {
			case s.still <- struct{}{}:
				stands = true
				opts = append(opts, coordmsg.Claim(coordinator.ManualRenewal()))
			default:
			}
		}
		v := coordmsg.Handle(ctx, c, key, func(_ context.Context, lease *coordinator.Lease) error {
			if stands {
				s.stalls.Add(1)
				s.queue.again(key, 0) // the broker's patience is over
				s.queue.mu.Lock()
				s.queue.open++
				s.queue.mu.Unlock()
				for there := (coordinator.Record{}); there.Token <= lease.Token() && there.State != coordinator.StateCompleted; {
					var err error
					if there, err = c.Inspect(ctx, key); err != nil {
						return err
					}
					<-time.After(2 * time.Millisecond)
				}
			}
			err := s.effect(ctx, c, lease)
			if errors.Is(err, coordinator.ErrStaleToken) {
				s.stale.Add(1)
			}
			return err
		}, append(opts, coordmsg.RetryAfter(func(int) time.Duration { return time.Millisecond }))...)
		if stands {
			<-s.still
		}
		switch v.Action {
		case coordmsg.Ack:
			if fate > 995 { // dies between the completion and the acknowledgement
				s.crashes.Add(1)
				s.queue.again(key, 0)
				return errCrash
			}
			s.queue.ack()
		case coordmsg.Retry:
			s.queue.again(key, v.After)
		default:
			return v.Err
		}
	}
}

// booking is an effect that takes place once for each message: the fence refuses whoever has been overtaken, and who repeats what an
// attempt did that died before its completion finds that the message is booked. KEYS[3] counts what the fence alone lets pass.
const booking = `
redis.call('INCR', KEYS[3])
if redis.call('SET', KEYS[1], ARGV[1], 'NX') then redis.call('INCR', KEYS[2]) end
return 1`

func (s *site) effect(ctx context.Context, c *coordinator.Coordinator, lease *coordinator.Lease) error {
	fence := c.Fence(lease.Key())
	keys := []string{"booked:" + fence.Tag(), "effect:" + fence.Tag(), "passed:" + fence.Tag()}
	return fence.Eval(ctx, lease.Grant(), booking, keys, lease.Attempt()).Err()
}

// run lets consumers work until the queue is empty; one that has crashed is replaced.
func (s *site) run(t *testing.T, consumers int, coordinatorOf func() *coordinator.Coordinator, seed uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range consumers {
		all.Go(func() {
			c, random := coordinatorOf(), rand.New(rand.NewPCG(seed, uint64(i)))
			for {
				err := s.consume(ctx, c, random)
				if err == nil {
					return
				}
				if !errors.Is(err, errCrash) {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if s.queue.open != 0 {
		t.Fatalf("%d deliveries are left", s.queue.open)
	}
}

// effects counts what took effect: in all, and of the message with the most.
func (s *site) effects(t *testing.T, names []string) (sum, most int) {
	t.Helper()
	pipe := s.sink.Pipeline()
	for _, name := range names {
		pipe.Get(t.Context(), name)
	}
	cmds, err := pipe.Exec(t.Context())
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	for _, cmd := range cmds {
		if n, err := cmd.(*redis.StringCmd).Int(); err == nil {
			sum, most = sum+n, max(most, n)
		}
	}
	return sum, most
}

// Ten thousand messages, each delivered three times in a random order to eight consumers of which some crash, before, amid and after
// the work, and some stand still, have ten thousand effects. What is written by hand has more. So would what is behind a fence and not
// kept by the message's ID: an effect whose attempt died before its completion passes once more, with the next attempt's grant.
func TestTenThousandMessagesThreeTimes(t *testing.T) {
	const messages, times, consumers = 10_000, 3, 8
	const seed = 7
	p := onCluster(t)
	sink := p.client()
	defer func() { _ = sink.Close() }()
	prepare := func() (*site, []coordinator.Key) {
		keys := make([]coordinator.Key, messages)
		for i := range keys {
			keys[i] = message(t)
		}
		queue := newQueue(keys, times, rand.New(rand.NewPCG(seed, seed)))
		return &site{sink: sink, queue: queue, still: make(chan struct{}, consumers/2)}, keys
	}

	s, keys := prepare()
	s.run(t, consumers, func() *coordinator.Coordinator {
		return coordinatorOn(t, p.client(), coordinator.WithLease(500*time.Millisecond), coordinator.WithGrace(50*time.Millisecond))
	}, seed)
	fences := coordinatorOn(t, p.client())
	names, passed := make([]string, messages), make([]string, messages)
	for i, key := range keys {
		names[i], passed[i] = "effect:"+fences.Fence(key).Tag(), "passed:"+fences.Fence(key).Tag()
	}
	sum, most := s.effects(t, names)
	t.Logf("%d crashes, %d of them between effect and completion, %d stalls, %d late writes refused", s.crashes.Load(), s.amid.Load(), s.stalls.Load(), s.stale.Load())
	if sum != messages || most != 1 {
		t.Errorf("%d effects of %d messages, %d of one", sum, messages, most)
	}
	if all, _ := s.effects(t, passed); all != messages+int(s.amid.Load()) {
		t.Errorf("%d passed the fence; %d messages, and %d attempts that died after it", all, messages, s.amid.Load())
	}
	if s.crashes.Load() < 50 || s.amid.Load() < 10 || s.stalls.Load() < 20 || s.stale.Load() < 20 {
		t.Error("too little went wrong to show anything")
	}

	s, keys = prepare()
	s.naive = true
	s.run(t, consumers, func() *coordinator.Coordinator { return nil }, seed)
	for i, key := range keys {
		names[i] = "effect:{" + key.ID + "}"
	}
	sum, most = s.effects(t, names)
	t.Logf("by hand: %d effects of %d messages, %d of one", sum, messages, most)
	if sum <= messages {
		t.Errorf("by hand, %d effects of %d messages: the test shows nothing", sum, messages)
	}
}
