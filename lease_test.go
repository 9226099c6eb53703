package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// inBubble runs a test with a fake clock: miniredis, its clients and the coordinator's timers all live by it, so
// that moments are exact and nothing is slept through.
func inBubble(t *testing.T, test func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := miniredis.NewMiniRedis()
		m.ClockTTL(true)
		rdb := redis.NewClient(&redis.Options{
			Addr:   "127.0.0.1:6379", // never dialled; a name would be looked up, outside of the bubble
			Dialer: func(context.Context, string, string) (net.Conn, error) { return buffered(m.Dial()) },
		})
		defer m.Close()
		defer rdb.Close()
		rdb.Ping(t.Context()) // miniredis begins with its first connection
		test(t, m, rdb)
	})
}

// buffered gives an in-memory connection what TCP has: room for a pipeline that is written before its
// replies are read.
func buffered(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	b := &bufferedConn{Conn: conn, out: make(chan []byte, 1<<16)}
	go func() {
		for p := range b.out {
			if _, err := conn.Write(p); err != nil {
				return
			}
		}
	}()
	return b, nil
}

type bufferedConn struct {
	net.Conn
	out  chan []byte
	once sync.Once
}

func (b *bufferedConn) Write(p []byte) (int, error) {
	b.out <- bytes.Clone(p)
	return len(p), nil
}

func (b *bufferedConn) Close() error {
	b.once.Do(func() { close(b.out) })
	return b.Conn.Close()
}

// notes is an Observer that keeps what it is told.
type notes struct {
	mu   sync.Mutex
	seen []Event
}

func (n *notes) Begin(ctx context.Context, _ string) (context.Context, func(Event)) {
	return ctx, n.Note
}
func (n *notes) Note(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, e)
}
func (n *notes) count(op, outcome string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.seen {
		if e.Op == op && e.Outcome == outcome {
			count += e.Count
		}
	}
	return count
}

func TestLeaseIsRenewedUntilItsMaximumLifetime(t *testing.T) {
	inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
		log := &notes{}
		c := open(t, rdb, WithLease(30*time.Second), WithMaxLifetime(5*time.Minute), WithObserver(log))
		began := time.Now()
		l := mustClaim(t, c, newKey(t))
		time.Sleep(4 * time.Minute) // the fake clock's
		if err := l.Context().Err(); err != nil {
			t.Fatalf("after 4 of 5 minutes: %v", context.Cause(l.Context()))
		}
		<-l.Context().Done()
		if lived := time.Since(began); lived > 5*time.Minute-2900*time.Millisecond || lived < 5*time.Minute-3100*time.Millisecond {
			t.Errorf("it lived %v: not until a grace of 3s before its maximum lifetime", lived)
		}
		if cause := context.Cause(l.Context()); cause != ErrLeaseLost {
			t.Errorf("the cause is %v", cause)
		}
		if n := log.count("renewal", "renewed"); n < 25 || n > 40 {
			t.Errorf("%d renewals in 5 minutes at a third of 30s", n)
		}
		synctest.Wait() // the observer is told beside us
		if log.count("lease", "lost") != 1 {
			t.Error("nobody was told that it was lost")
		}
		time.Sleep(time.Until(began.Add(5 * time.Minute)))
		mustClaim(t, c, l.Key()) // P8: Redis has not let it go on for longer either
	})
}

// P6: the context ends before Redis would grant the key to anybody else, by a grace, counted from before
// the claim was sent.
func TestContextEndsAGraceBeforeTheLease(t *testing.T) {
	for _, grace := range []time.Duration{0, 20 * time.Millisecond, 2 * time.Second} {
		inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
			opts := []Option{WithLease(10 * time.Second)}
			want := time.Second
			if grace > 0 {
				opts, want = append(opts, WithGrace(grace)), grace
			}
			var wait atomic.Int64
			rdb.AddHook(slowly{&wait})
			c := open(t, rdb, opts...)
			mustClaim(t, c, newKey(t)) // loads the script
			wait.Store(int64(600 * time.Millisecond))
			key := newKey(t)
			began := time.Now()
			l := mustClaim(t, c, key, ManualRenewal())
			if got := l.Deadline().Sub(began); got != 10*time.Second {
				t.Errorf("the deadline is %v after sending, not one lease", got)
			}
			<-l.Context().Done()
			wait.Store(0)
			ended := time.Now()
			_, err := c.Claim(t.Context(), key)
			var busy *InProgressError
			if !errors.As(err, &busy) {
				t.Fatalf("when the context ended, another claim got %v", err)
			}
			if busy.RetryAfter < want || busy.RetryAfter > want+600*time.Millisecond {
				t.Errorf("another one could come in %v after the context ended, the grace is %v", busy.RetryAfter, want)
			}
			time.Sleep(busy.RetryAfter)
			if _, err := c.Claim(t.Context(), key); err != nil {
				t.Errorf("%v after the context ended: %v", time.Since(ended), err)
			}
		})
	}
}

// slowly is a network that takes its time on the way there.
type slowly struct{ wait *atomic.Int64 }

func (slowly) DialHook(next redis.DialHook) redis.DialHook { return next }
func (slowly) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (s slowly) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		time.Sleep(time.Duration(s.wait.Load()))
		return next(ctx, cmd)
	}
}

func TestRenewalGoesOnThroughErrorsUntilTheDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
		log := &notes{}
		c := open(t, rdb, WithLease(30*time.Second), WithObserver(log))
		l := mustClaim(t, c, newKey(t))
		m.SetError("LOADING Redis is loading the dataset in memory")
		time.Sleep(25 * time.Second)
		m.SetError("")
		time.Sleep(25 * time.Second)
		if l.Context().Err() != nil {
			t.Fatalf("lost although the server was back in time: %v", context.Cause(l.Context()))
		}
		if log.count("renewal", "late") == 0 {
			t.Error("nobody was told that renewals were late")
		}
		m.SetError("LOADING Redis is loading the dataset in memory")
		deadline := l.Deadline()
		<-l.Context().Done()
		if off := time.Since(deadline); off < 0 || off > time.Millisecond {
			t.Errorf("the context ended %v off the deadline", off)
		}
	})
}

func TestHolderLearnsOfALossAtItsNextRenewal(t *testing.T) {
	for what, take := range map[string]func(t *testing.T, c *Coordinator, m *miniredis.Miniredis, key Key){
		"expire": func(t *testing.T, c *Coordinator, _ *miniredis.Miniredis, key Key) {
			if err := c.Expire(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		},
		"flush": func(_ *testing.T, _ *Coordinator, m *miniredis.Miniredis, _ Key) { m.FlushAll() },
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
				c := open(t, rdb, WithLease(30*time.Second))
				key := newKey(t)
				l := mustClaim(t, c, key)
				began := time.Now()
				take(t, c, m, key)
				<-l.Context().Done()
				if learned := time.Since(began); learned > 10*time.Second {
					t.Errorf("learned after %v, more than a third of the lease", learned)
				}
				if context.Cause(l.Context()) != ErrLeaseLost {
					t.Errorf("the cause is %v", context.Cause(l.Context()))
				}
				wantError(t, l.Renew(t.Context()), ErrLeaseLost)
				if what == "expire" {
					wantError(t, l.Complete(t.Context(), nil), ErrStaleToken)
				}
			})
		})
	}
}

func TestContextOfALease(t *testing.T) {
	type word struct{}
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), word{}, "value"))
		claim := func() *Lease {
			l, err := c.Claim(ctx, newKey(t))
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		completed, failed, released, open := claim(), claim(), claim(), claim()
		cancel()
		if open.Context().Err() != nil || open.Context().Value(word{}) != "value" {
			t.Error("the lease's context should have the claim's values and not its cancellation")
		}
		if g, ok := GrantFrom(open.Context()); !ok || g != open.Grant() {
			t.Errorf("it carries %v", g)
		}
		for what, err := range map[string]error{
			"complete": completed.Complete(t.Context(), nil), "fail": failed.Fail(t.Context(), nil), "release": released.Release(t.Context()),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, l := range []*Lease{completed, failed, released} {
			if context.Cause(l.Context()) != context.Canceled {
				t.Errorf("the cause is %v", context.Cause(l.Context()))
			}
		}
		_ = c.Close()
		if context.Cause(open.Context()) != ErrClosed {
			t.Errorf("after Close the cause is %v", context.Cause(open.Context()))
		}
		_, err := c.Claim(t.Context(), newKey(t))
		wantError(t, err, ErrClosed)
		wantError(t, open.Renew(t.Context()), ErrClosed)
	})
}

func TestAttemptsAndCheckpoints(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb, WithMaxPayload(64))
		key := newKey(t)
		var last Token
		for attempt := 1; attempt <= 4; attempt++ {
			l := mustClaim(t, c, key)
			if l.Attempt() != attempt || l.Token() <= last || l.Key() != key {
				t.Fatalf("attempt %d, token %d after %d", l.Attempt(), l.Token(), last)
			}
			last = l.Token()
			want := ""
			if attempt > 1 {
				want = fmt.Sprintf("saved by %d\x00", attempt-1)
			}
			if string(l.Checkpoint()) != want || attempt == 1 && l.Checkpoint() != nil {
				t.Fatalf("attempt %d found the checkpoint %q", attempt, l.Checkpoint())
			}
			for _, data := range []string{"first", fmt.Sprintf("saved by %d\x00", attempt)} {
				if err := l.SaveCheckpoint(t.Context(), []byte(data)); err != nil {
					t.Fatal(err)
				}
			}
			wantError(t, l.SaveCheckpoint(t.Context(), make([]byte, 65)), ErrTooLarge, "65", "64")
			if attempt%2 == 0 { // a crash
				lapse(t, rdb, c.names(key).Record)
				l.finish(ErrLeaseLost)
			} else if err := l.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestResume(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		here, there := open(t, rdb), open(t, rdb)
		key := newKey(t)
		l := mustClaim(t, here, key, Fingerprint([]byte("fp")))
		if err := l.SaveCheckpoint(t.Context(), []byte("half")); err != nil {
			t.Fatal(err)
		}
		g, err := ParseGrant(l.Grant().String())
		if err != nil {
			t.Fatal(err)
		}
		r, err := there.Resume(t.Context(), key, g, LeaseFor(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if r.Grant() != l.Grant() || r.Attempt() != 1 || string(r.Checkpoint()) != "half" || time.Until(r.Deadline()) < 50*time.Second {
			t.Errorf("resumed %v, attempt %d, checkpoint %q, until %v", r.Grant(), r.Attempt(), r.Checkpoint(), r.Deadline())
		}
		if err := r.SaveCheckpoint(t.Context(), []byte("more")); err != nil {
			t.Errorf("after resuming: %v", err)
		}
		wantError(t, l.SaveCheckpoint(t.Context(), []byte("old")), ErrStaleToken) // it does not overwrite the newer one
		if l.Context().Err() != nil {
			t.Error("but it is no loss of the lease")
		}
		if err := r.Complete(t.Context(), []byte("done")); err != nil {
			t.Fatal(err)
		}
		_, err = there.Resume(t.Context(), key, g)
		wantError(t, err, ErrStaleToken)
		_, err = there.Resume(t.Context(), newKey(t), g)
		wantError(t, err, ErrLeaseLost)
		_, err = there.Resume(t.Context(), key, g, WaitUpTo(time.Second))
		wantError(t, err, ErrInvalid, "WaitUpTo")
		_, err = there.Resume(t.Context(), key, Grant{Token: 1, Owner: "x"})
		wantError(t, err, ErrInvalid)
		if got, err := there.Result(t.Context(), key, []byte("fp")); err != nil || string(got.Payload) != "done" {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestReleaseUnderADeadContextStillReleases(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		key := newKey(t)
		l := mustClaim(t, c, key)
		dead, cancel := context.WithCancel(t.Context())
		cancel()
		wantError(t, l.Release(dead), ErrUnknown)
		eventually(t, time.Second, "the key is free again", func() bool {
			r, err := c.Inspect(t.Context(), key)
			return err == nil && r.State == StateReleased
		})
	})
}

// Who has not begun gives the lease back, and it is as if the attempt had not been.
func TestLeaseIsGivenBack(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		for _, resource := range []string{"", "account"} {
			key := newKey(t)
			key.Resource = resource
			l := mustClaim(t, c, key)
			if err := l.GiveBack(t.Context()); err != nil || l.Context().Err() == nil {
				t.Errorf("given back: %v, and the context ended: %v", err, l.Context().Err())
			}
			again := mustClaim(t, c, key)
			if again.Attempt() != 1 || again.Token() <= l.Token() {
				t.Errorf("attempt %d, token %d after %d", again.Attempt(), again.Token(), l.Token())
			}
			if err := l.GiveBack(t.Context()); err != nil { // changes nothing for the successor
				t.Error(err)
			}
			if err := again.Complete(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
	})
}

// The work's own context ends with the lease; a release under it goes through all the same.
func TestReleaseUnderTheWorksOwnContext(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		for range 20 {
			key := newKey(t)
			_, _, err := Do(t.Context(), c, key, func(ctx context.Context, lease *Lease) (int, error) {
				return 0, errors.Join(lease.Release(ctx), errors.New("not today"))
			})
			if err == nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) {
				t.Fatalf("the release: %v", err)
			}
			if there, err := c.Inspect(t.Context(), key); there.LeaseRemaining > 0 || err != nil {
				t.Fatalf("%+v, %v", there, err)
			}
		}
	})
}

// One goroutine renews any number of leases, and it ends with the last of them.
func TestManyLeasesShareOneGoroutineAndPipelines(t *testing.T) {
	inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
		pipelines := &pipelineSizes{}
		rdb.AddHook(pipelines)
		log := &notes{}
		c := open(t, rdb, WithLease(30*time.Second), WithObserver(log))
		many := 2000
		if raced {
			many = 1000
		}
		leases := make([]*Lease, many)
		for i := range leases {
			leases[i] = mustClaim(t, c, newKey(t))
		}
		time.Sleep(35 * time.Second) // longer than a lease and its grace
		for _, l := range leases {
			if l.Context().Err() != nil {
				t.Fatalf("lost: %v", context.Cause(l.Context()))
			}
		}
		if log.count("lease", "lost") > 0 {
			t.Error("leases were lost")
		}
		pipelines.mu.Lock()
		total, n := pipelines.commands, pipelines.pipelines
		pipelines.mu.Unlock()
		t.Logf("%d renewals in %d pipelines", total, n)
		if n == 0 || total/n < 100 {
			t.Errorf("%d renewals went out in %d pipelines", total, n)
		}
		for _, l := range leases {
			if err := l.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if left := c.schedule.Len(); left != 0 {
			t.Errorf("%d leases are left in the schedule", left)
		}
	})
}

type pipelineSizes struct {
	mu                  sync.Mutex
	pipelines, commands int
}

func (p *pipelineSizes) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (p *pipelineSizes) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (p *pipelineSizes) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		p.mu.Lock()
		if cmds[0].Name() == "evalsha" {
			p.pipelines++
			p.commands += len(cmds)
		}
		p.mu.Unlock()
		return next(ctx, cmds)
	}
}

// A claim that is asked again, by its caller or by the client under it, finds part of its lease gone already. It is renewed
// in what is left, not when a third of a whole lease would be over.
func TestGrantThatIsAskedForAgainIsRenewed(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		c := open(t, rdb, WithLease(30*time.Second))
		first := mustClaim(t, c, newKey(t), ManualRenewal())
		time.Sleep(25 * time.Second)
		l := mustClaim(t, c, first.Key(), Owner(first.Grant().Owner))
		if left := time.Until(l.Deadline()); l.Grant() != first.Grant() || left > 5*time.Second {
			t.Fatalf("it is another grant, or has %v left", left)
		}
		time.Sleep(time.Minute)
		if l.Context().Err() != nil {
			t.Errorf("it ended: %v", context.Cause(l.Context()))
		}
	})
}

// P6. A renewal whose reply comes after the deadline has prolonged what its holder was told is lost.
func TestRenewalThatIsAnsweredAfterTheDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		var wait atomic.Int64
		rdb.AddHook(slowly{&wait})
		c := open(t, rdb, WithLease(10*time.Second))
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		l := mustClaim(t, c, newKey(t), ManualRenewal())
		time.Sleep(9500 * time.Millisecond)
		wait.Store(int64(800 * time.Millisecond)) // Redis has it within the grace
		wantError(t, l.Renew(t.Context()), ErrLeaseLost)
		if over := time.Since(l.Deadline()); over < 0 {
			t.Errorf("its deadline is %v from now", -over)
		}
	})
}
