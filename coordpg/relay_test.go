package coordpg

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
)

// broker takes events, and refuses some on the way.
type broker struct {
	mu     sync.Mutex
	events []Event
	refuse int
}

func (b *broker) publish(_ context.Context, events []Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse > 0 {
		b.refuse--
		b.events = append(b.events, events[:len(events)/2]...) // some got through
		return errors.New("refused")
	}
	b.events = append(b.events, events...)
	return nil
}

func (b *broker) seen() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Event(nil), b.events...)
}

func runRelay(t *testing.T, c *coordinator.Coordinator, pool *pgxpool.Pool, publish Publisher, opts ...RelayOption) (stop func()) {
	t.Helper()
	r, err := NewRelay(c, pool, publish, opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func emit(t *testing.T, c *coordinator.Coordinator, pool *pgxpool.Pool, account, text string) {
	t.Helper()
	_, _, err := Do(t.Context(), c, pool, newKey(account), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
		return 0, l.Emit(Event{Topic: "t", Payload: []byte(text + ".1")}, Event{Topic: "t", Payload: []byte(text + ".2")})
	})
	if err != nil {
		t.Error(err)
	}
}

// Every event at least once, those of a resource in order; one relay at a time; refusals are tried again.
func TestRelay(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	b := &broker{refuse: 3}
	failures := 0
	var mu sync.Mutex
	count := OnFailure(func(error) { mu.Lock(); failures++; mu.Unlock() })
	for range 3 {
		runRelay(t, newCoordinator(t, server.Addr()), pool, b.publish, Batch(7), PollEvery(time.Hour), count)
	}
	const resources, each = 4, 15
	var group sync.WaitGroup
	for r := range resources {
		group.Go(func() {
			for i := range each {
				emit(t, c, pool, fmt.Sprint(r), fmt.Sprintf("%03d", i))
			}
		})
	}
	group.Wait()
	distinct := func() map[int64]Event {
		all := map[int64]Event{}
		for _, e := range b.seen() {
			all[e.Seq] = e
		}
		return all
	}
	eventually(t, func() error {
		if n := len(distinct()); n != 2*resources*each {
			return fmt.Errorf("%d events", n)
		}
		if n := number(t, pool, `SELECT count(*) FROM coordinator.outbox`); n != 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	// The order of first appearances.
	last, seen := map[string]string{}, map[int64]bool{}
	for _, e := range b.seen() {
		if seen[e.Seq] {
			continue
		}
		seen[e.Seq] = true
		if e.Topic != "t" || e.Key.Scope != "transfers" || e.Token == 0 || e.CreatedAt.IsZero() {
			t.Errorf("%+v", e)
		}
		if string(e.Payload) <= last[e.Key.Resource] {
			t.Errorf("%s: %s after %s", e.Key.Resource, e.Payload, last[e.Key.Resource])
		}
		last[e.Key.Resource] = string(e.Payload)
	}
	if mu.Lock(); failures < 3 {
		t.Errorf("told of %d failures", failures)
	}
	mu.Unlock()
}

// A relay that stops gives way to the next at once, and one that was replaced while it stood still is refused.
func TestRelayIsReplaced(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t, coordinator.WithLease(shortLease))
	publishing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := func(ctx context.Context, events []Event) error {
		once.Do(func() { close(publishing) })
		<-goOn // does not look at its context
		return nil
	}
	stop := runRelay(t, c, pool, slow, PollEvery(20*time.Millisecond), PublishWithin(shortLease))
	emit(t, newCoordinator(t, server.Addr()), pool, "1", "a")
	<-publishing
	server.FlushAll() // the lease is lost, and the session stands still
	b := &broker{}
	runRelay(t, newCoordinator(t, server.Addr(), coordinator.WithLease(shortLease)), pool, b.publish, PollEvery(20*time.Millisecond))
	eventually(t, func() error {
		if n := len(b.seen()); n != 2 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	close(goOn)
	stop()
}

// What a relay does under a grant that was replaced is refused, before anything is published.
func TestRelayIsFenced(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	b := &broker{}
	r, err := NewRelay(c, pool, b.publish)
	if err != nil {
		t.Fatal(err)
	}
	emit(t, c, pool, "1", "a")
	if n, err := r.once(t.Context(), true, grant(8, 1)); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	emit(t, c, pool, "1", "b")
	if n, err := r.once(t.Context(), true, grant(7, 1)); n != 0 || !errors.Is(err, coordinator.ErrStaleToken) || len(b.seen()) != 2 {
		t.Errorf("%d, %v; %d events", n, err, len(b.seen()))
	}
	if n, err := r.once(t.Context(), true, grant(8, 1)); n != 2 || err != nil {
		t.Error(n, err)
	}
}

// The outbox is published while Redis is away.
func TestRelayWithoutRedis(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t, coordinator.WithTimeout(300*time.Millisecond))
	s := newStandby(t, c, pool, AwayFor(50*time.Millisecond), BackFor(time.Hour), Every(20*time.Millisecond))
	runStandby(t, s)
	b := &broker{}
	runRelay(t, c, pool, b.publish, RelayWithStandby(s), PollEvery(20*time.Millisecond))
	emit(t, c, pool, "1", "a")
	server.Close()
	_, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
		return 0, l.Emit(Event{Topic: "t", Payload: []byte("b")})
	}, WithStandby(s))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := len(b.seen()); n != 3 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
}

func TestRelayRefusesBadOptions(t *testing.T) {
	_, c := newRedis(t)
	b := &broker{}
	for name, opt := range map[string]RelayOption{"nil": nil, "batch": Batch(0), "poll": PollEvery(0), "within": PublishWithin(0), "within years": PublishWithin(1e5 * time.Hour), "failure": OnFailure(nil), "standby": RelayWithStandby(nil), "schema": InSchema("?")} {
		if _, err := NewRelay(c, nil, b.publish, opt); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewRelay(c, nil, nil); !errors.Is(err, coordinator.ErrInvalid) {
		t.Error(err)
	}
}

// A publisher that takes longer than a lease gets done, once, as the lease is renewed.
func TestSlowPublisher(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t, coordinator.WithLease(shortLease))
	b := &broker{}
	emit(t, c, pool, "1", "a")
	runRelay(t, c, pool, func(ctx context.Context, events []Event) error {
		time.Sleep(4 * shortLease)
		return errors.Join(context.Cause(ctx), b.publish(ctx, events))
	}, PollEvery(20*time.Millisecond), OnFailure(func(err error) { t.Error(err) }))
	eventually(t, func() error {
		if n := number(t, pool, `SELECT count(*) FROM coordinator.outbox`); n > 0 {
			return fmt.Errorf("%d are left, %d published", n, len(b.seen()))
		}
		return nil
	})
	if n := len(b.seen()); n != 2 {
		t.Errorf("%d events", n)
	}
}

// A publisher that takes too long is told before another relay takes its place, on either side.
func TestPublisherIsToldBeforeItIsReplaced(t *testing.T) {
	for _, alone := range []bool{false, true} {
		pool := newBank(t)
		_, c := newRedis(t)
		s := newStandby(t, c, pool)
		if alone {
			done, err := takeOver(t.Context(), s)
			switched(t, done, err)
		}
		if _, _, err := Do(t.Context(), c, pool, newKey("1"), withdraw("1", 1), Emit(Event{Topic: "t"}), WithStandby(s)); err != nil {
			t.Fatal(err)
		}
		told := make(chan time.Time, 1)
		publishing := make(chan struct{})
		var others atomic.Bool
		r, err := NewRelay(c, pool, func(ctx context.Context, events []Event) error {
			if others.Swap(true) {
				return nil
			}
			close(publishing)
			<-ctx.Done()
			told <- time.Now()
			<-t.Context().Done() // and goes on
			return context.Cause(ctx)
		}, PublishWithin(300*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = r.once(t.Context(), !alone, map[bool]coordinator.Grant{false: grant(7, 1), true: {Owner: "a"}}[alone])
		}()
		<-publishing
		n, err := r.once(t.Context(), !alone, map[bool]coordinator.Grant{false: grant(8, 2), true: {Owner: "b"}}[alone])
		replaced := time.Now()
		select {
		case at := <-told:
			if n != 1 || err != nil || !at.Before(replaced) {
				t.Errorf("alone %v: %d, %v", alone, n, err)
			}
		default:
			t.Errorf("alone %v: replaced, and not told", alone)
		}
	}
}

// An event that is locked holds up those behind it of its resource, and no others.
func TestRelayKeepsTheOrderOfAResource(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	for _, account := range []string{"1", "2", "1", ""} {
		emit(t, c, pool, account, account)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `SELECT FROM coordinator.outbox WHERE seq = 2 FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	b := &broker{}
	r, err := NewRelay(c, pool, b.publish)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[1 3 4 7 8]", "[1 3 4 7 8 2 5 6]"} {
		if _, err := r.once(t.Context(), true, grant(8, 1)); err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, e := range b.seen() {
			got = append(got, e.Seq)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%v, not %s", got, want)
		}
		if err := tx.Rollback(t.Context()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			t.Fatal(err)
		}
	}
}
