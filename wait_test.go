package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/wakeup"
)

// commands counts what a client sends, by script.
type commands struct {
	recorder
}

func (c *commands) count(verb string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, args := range c.sent {
		if verbOf(args) == verb {
			n++
		}
	}
	return n
}

func (c *commands) all() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sent)
}

func waiters(c *Coordinator) int { return c.waits.Waiting() }

func listening(c *Coordinator, name string) bool { return c.waits.Listening(name) }

func markOf(rdb redis.UniversalClient, name string) byte {
	s, _ := rdb.Get(context.Background(), name).Result()
	r, err := protocol.DecodeRecord(s, true)
	if err != nil {
		return 0
	}
	return r.Mark
}

func TestManyWaitersShareOneResult(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		count := &commands{}
		rdb.AddHook(count)
		log := &notes{}
		c := open(t, rdb, WithObserver(log))
		key := newKey(t)
		lease := mustClaim(t, c, key, Fingerprint([]byte("fp")), LeaseFor(time.Minute))
		const many = 200
		answers := make([]error, many)
		var group sync.WaitGroup
		for i := range many {
			group.Go(func() {
				fp := []byte("fp")
				if i%10 == 9 {
					fp = nil // it is told so at once, as the first is in progress
				}
				opts := []ClaimOption{WaitUpTo(time.Minute)}
				if fp != nil {
					opts = append(opts, Fingerprint(fp))
				}
				_, answers[i] = c.Claim(t.Context(), key, opts...)
			})
		}
		eventually(t, 10*time.Second, "all wait, and their record is marked", func() bool {
			return waiters(c) == many*9/10 && markOf(rdb, c.names(key).Record) == '1'
		})
		if n := log.count("wait", "waiting"); n != many*9/10 {
			t.Errorf("the observer counts %d waiters", n)
		}
		claims := count.count("claim")
		if err := lease.Complete(t.Context(), []byte("result")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		group.Wait()
		if took := time.Since(began); took > wakeup.SlowPoll/2 {
			t.Errorf("the waiters were answered after %v: the wake-up was lost", took)
		}
		for i, err := range answers {
			if i%10 == 9 {
				wantError(t, err, ErrMismatch)
			} else if r, ok := ResultOf(err); !ok || string(r.Payload) != "result" {
				t.Errorf("%d: %v", i, err)
			}
		}
		if n := count.count("claim") - claims; n > 3 {
			t.Errorf("%d claims for one wake", n)
		}
		if n := log.count("wait", "waiting"); n != 0 {
			t.Errorf("the observer still counts %d waiters", n)
		}
		if n := waiters(c); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
		eventually(t, 5*time.Second, "the subscription ends with the last waiter", func() bool { return !listening(c, c.names(key).Record) })
	})
}

// After a release each waiter gets its turn, one after the other, and never two at once (P1).
func TestWaitersTakeTurns(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		for _, resource := range []string{"", "shared"} {
			c := open(t, rdb)
			base := newKey(t)
			if resource != "" {
				base.Resource = base.ID
			}
			var working, most, ran atomic.Int64
			var group sync.WaitGroup
			for i := range 20 {
				group.Go(func() {
					key := base
					if resource != "" {
						key.ID = fmt.Sprint(key.ID, i) // other keys of the same resource
					}
					l, err := c.Claim(t.Context(), key, WaitUpTo(time.Minute))
					if err != nil {
						t.Errorf("%d: %v", i, err)
						return
					}
					most.Store(max(most.Load(), working.Add(1)))
					ran.Add(1)
					working.Add(-1)
					if resource != "" && i%2 == 0 {
						err = l.Complete(t.Context(), nil)
					} else {
						err = l.Release(t.Context())
					}
					if err != nil {
						t.Errorf("%d: %v", i, err)
					}
				})
			}
			began := time.Now()
			group.Wait()
			if ran.Load() != 20 || most.Load() != 1 {
				t.Errorf("resource %q: %d ran, %d at once", resource, ran.Load(), most.Load())
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("resource %q: twenty turns took %v: wake-ups were lost", resource, took)
			}
		}
	})
}

func TestWaitEnds(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		key := newKey(t)
		mustClaim(t, c, key, LeaseFor(time.Minute))

		began := time.Now()
		_, err := c.Claim(t.Context(), key, WaitUpTo(150*time.Millisecond))
		wantError(t, err, ErrInProgress)
		if took := time.Since(began); took < 150*time.Millisecond || took > wakeup.SlowPoll/2 {
			t.Errorf("WaitUpTo(150ms) took %v", took)
		}
		_, err = c.Claim(t.Context(), key, WaitUpTo(0))
		wantError(t, err, ErrInProgress)

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = c.Claim(ctx, key, WaitUpTo(time.Minute))
		wantError(t, err, ErrInProgress)
		wantError(t, err, context.DeadlineExceeded)

		closing := open(t, rdb)
		answer := make(chan error, 1)
		go func() { _, err := closing.Claim(t.Context(), key, WaitUpTo(time.Minute)); answer <- err }()
		eventually(t, 5*time.Second, "it waits", func() bool { return waiters(closing) == 1 })
		_ = closing.Close()
		wantError(t, <-answer, ErrClosed)

		// A lease that lapses wakes nobody: the timer at its end does, and waits for no poll.
		key = newKey(t)
		began = time.Now()
		lease := mustClaim(t, c, key, LeaseFor(time.Second), ManualRenewal())
		mustClaim(t, c, key, WaitUpTo(time.Minute))
		if took := time.Since(began); took < time.Second || took > wakeup.SlowPoll/2 {
			t.Errorf("taken over after %v, from a lease of 1s and a grace of 100ms", took)
		}
		wantError(t, lease.Complete(t.Context(), nil), ErrStaleToken)
	})
}

// Where time is the test's own, waits end to the moment: at their own end, at the lease's, and when the result is there.
func TestWaitsAreNoLongerThanTheyMust(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		c := open(t, rdb)
		key := newKey(t)
		began := time.Now()
		lease := mustClaim(t, c, key, LeaseFor(time.Second), ManualRenewal())
		took := func(what string, want time.Duration) {
			t.Helper()
			if took := time.Since(began); took < want || took > want+2*time.Millisecond {
				t.Errorf("%s: after %v, not %v", what, took, want)
			}
		}
		_, err := c.Claim(t.Context(), key, WaitUpTo(150*time.Millisecond))
		wantError(t, err, ErrInProgress)
		took("the wait is over", 150*time.Millisecond)
		next := mustClaim(t, c, key, WaitUpTo(time.Minute), LeaseFor(time.Minute))
		took("the lease has lapsed", 1100*time.Millisecond)
		wantError(t, lease.Complete(t.Context(), nil), ErrStaleToken)
		time.AfterFunc(7*time.Second, func() { _ = next.Complete(t.Context(), nil) })
		_, err = c.Claim(t.Context(), key, WaitUpTo(time.Minute))
		wantError(t, err, ErrCompleted)
		took("the result is there", 8100*time.Millisecond)
	})
}

// A wake-up that is lost costs a delay, not a hang.
func TestLostWakeUp(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		c := open(t, rdb)
		key := newKey(t)
		name := c.names(key).Record
		lease := mustClaim(t, c, key, LeaseFor(time.Minute))
		answer := make(chan error, 1)
		go func() { _, err := c.Await(t.Context(), key, nil); answer <- err }()
		eventually(t, 5*time.Second, "the record is marked", func() bool { return markOf(rdb, name) == '1' })
		s, _ := rdb.Get(t.Context(), name).Result()
		r, _ := protocol.DecodeRecord(s, true)
		r.Mark = '0'
		rdb.Set(t.Context(), name, r.Encode(), redis.KeepTTL)
		if err := lease.Complete(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		select {
		case err := <-answer:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * wakeup.SlowPoll):
		}
		if took := time.Since(began); took > wakeup.SlowPoll+200*time.Millisecond {
			t.Errorf("answered only after %v, or not at all", took)
		}
	})
}

// Waiting costs a process few commands, however many wait in it, and whether it is at work itself or not.
func TestCommandsWhileWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		other := redis.NewClient(rdb.Options())
		defer other.Close()
		processes := []struct {
			what  string
			c     *Coordinator
			least float64 // commands a second: a lost wake-up must be noticed
			count *commands
		}{
			{"at work", open(t, rdb), 0, &commands{}},
			{"waiting only", open(t, other), 1 / wakeup.SlowPoll.Seconds(), &commands{}},
		}
		rdb.AddHook(processes[0].count)
		other.AddHook(processes[1].count)
		key := newKey(t)
		mustClaim(t, processes[0].c, key)
		ctx, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		for _, p := range processes {
			for range 10 {
				callers.Go(func() { _, _ = p.c.Await(ctx, key, nil) })
			}
		}
		time.Sleep(wakeup.SlowPoll) // all of them listen
		before := []int{processes[0].count.all(), processes[1].count.all()}
		const long = 10 * time.Minute
		time.Sleep(long)
		for i, p := range processes {
			each := float64(p.count.all()-before[i]) / long.Seconds()
			t.Logf("%s: %.3f commands a second", p.what, each)
			if each > .2 || each < p.least {
				t.Errorf("%s: %.3f commands a second, want %.3f to 0.2", p.what, each, p.least)
			}
		}
		cancel()
		callers.Wait()
	})
}

func TestSubscriptionSurvivesItsConnection(t *testing.T) {
	rdb := pool.Server(t).Client(nil)
	defer rdb.Close()
	c := open(t, rdb)
	key := newKey(t)
	name := c.names(key).Record
	lease := mustClaim(t, c, key, LeaseFor(time.Minute))
	answer := make(chan error, 1)
	go func() { _, err := c.Claim(t.Context(), key, WaitUpTo(time.Minute)); answer <- err }()
	eventually(t, 5*time.Second, "the record is marked", func() bool { return markOf(rdb, name) == '1' })
	newest := func() (id int) { // of the connections that have subscribed
		list, err := rdb.Do(t.Context(), "client", "list", "type", "pubsub").Text()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(list) {
			var n int
			if _, err := fmt.Sscanf(line, "id=%d ", &n); err != nil {
				t.Fatal(err)
			}
			id = max(id, n)
		}
		return id
	}
	killed := newest()
	if err := rdb.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "it listens again", func() bool { return newest() > killed && listening(c, name) })
	if err := lease.Complete(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wantError(t, <-answer, ErrCompleted)
	if took := time.Since(began); took > wakeup.SlowPoll/2 {
		t.Errorf("woken only after %v", took)
	}
}

func TestResultAndAwait(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		key := newKey(t)
		fp := []byte("fp")
		_, err := c.Result(t.Context(), key, fp)
		wantError(t, err, ErrNotFound)
		answer := make(chan error, 2)
		await := func(fp []byte) {
			r, err := c.Await(t.Context(), key, fp)
			if err == nil && string(r.Payload) != "result" {
				err = fmt.Errorf("got %q", r.Payload)
			}
			answer <- err
		}
		go await(fp) // before anybody has claimed
		eventually(t, 5*time.Second, "it waits", func() bool { return waiters(c) == 1 })
		l := mustClaim(t, c, key, Fingerprint(fp))
		_, err = c.Result(t.Context(), key, fp)
		wantError(t, err, ErrInProgress)
		_, err = c.Result(t.Context(), key, nil)
		wantError(t, err, ErrMismatch)
		_, err = c.Await(t.Context(), key, []byte("other"))
		wantError(t, err, ErrMismatch)
		if err := l.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err = c.Result(t.Context(), key, fp)
		wantError(t, err, ErrNotFound)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = c.Await(ctx, key, fp)
		wantError(t, err, ErrNotFound)
		wantError(t, err, context.DeadlineExceeded)
		l = mustClaim(t, c, key, Fingerprint(fp))
		go await(fp)
		if err := l.Fail(t.Context(), []byte("result")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-answer; err != nil {
				t.Error(err)
			}
		}
		r, err := c.Result(t.Context(), key, fp)
		if err != nil || !r.Failed || r.Token != l.Token() || time.Since(r.CompletedAt) > time.Minute {
			t.Errorf("%+v, %v", r, err)
		}
		r.Payload[0] = 'X'
		if again, _ := c.Result(t.Context(), key, fp); string(again.Payload) != "result" {
			t.Errorf("the payload is not the caller's own copy")
		}
	})
}

func TestQuarantineAndResolve(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		for name, r := range map[string]Resolution{"rerun": {Rerun: true}, "done": {Payload: []byte("found done")}, "failed": {Failed: true, Payload: []byte("found undone")}} {
			key := newKey(t)
			old := mustClaim(t, c, key, ManualRenewal())
			wantError(t, c.Resolve(t.Context(), key, r), ErrInProgress)
			lapse(t, rdb, c.names(key).Record)
			_, err := c.Claim(t.Context(), key, QuarantineLapsed(), WaitUpTo(time.Minute))
			wantError(t, err, ErrUncertain, "Resolve")
			for range 2 { // again is nil
				if err := c.Resolve(t.Context(), key, r); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			wantError(t, old.Complete(t.Context(), []byte("late")), ErrStaleToken)
			l, err := c.Claim(t.Context(), key, QuarantineLapsed())
			if name == "rerun" {
				if err != nil || l.Attempt() != 2 {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			got, ok := ResultOf(err)
			if !ok || got.Failed != r.Failed || string(got.Payload) != string(r.Payload) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
			wantError(t, c.Resolve(t.Context(), key, Resolution{Payload: []byte("else")}), ErrCompleted)
			wantError(t, c.Resolve(t.Context(), key, Resolution{Rerun: true}), ErrCompleted)
		}
		wantError(t, c.Resolve(t.Context(), newKey(t), Resolution{Rerun: true}), ErrNotFound)
		wantError(t, c.Resolve(t.Context(), newKey(t), Resolution{Rerun: true, Failed: true}), ErrInvalid)
	})
}

func TestDo(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		ctx := t.Context()
		type answer struct{ N int }
		key := newKey(t)
		runs := 0
		work := func(ctx context.Context, l *Lease) (answer, error) {
			runs++
			if g, ok := GrantFrom(ctx); !ok || g != l.Grant() {
				t.Error("fn's context does not carry the grant")
			}
			return answer{runs}, nil
		}
		for i := range 3 {
			v, replayed, err := Do(ctx, c, key, work, Fingerprint([]byte("fp")))
			if err != nil || v.N != 1 || replayed != (i > 0) {
				t.Errorf("%d: %v, %v, %v", i, v, replayed, err)
			}
		}
		_, _, err := Do(ctx, c, key, work)
		wantError(t, err, ErrMismatch)

		key = newKey(t)
		oops := errors.New("oops")
		_, replayed, err := Do(ctx, c, key, func(context.Context, *Lease) (int, error) { return 0, oops })
		if err != oops || replayed {
			t.Errorf("%v, %v", replayed, err)
		}
		func() {
			defer func() {
				if r := recover(); r != "boom" {
					t.Errorf("recovered %v", r)
				}
				if r, err := c.Inspect(ctx, key); err != nil || r.State != StateReleased {
					t.Errorf("after a panic: %v, %v", r.State, err)
				}
			}()
			_, _, _ = Do(ctx, c, key, func(context.Context, *Lease) (int, error) { panic("boom") })
		}()
		var stored []Result
		for i := range 2 {
			_, replayed, err := Do(ctx, c, key, func(_ context.Context, l *Lease) (int, error) {
				if l.Attempt() != 3 {
					t.Errorf("attempt %d", l.Attempt())
				}
				return 0, fmt.Errorf("in the end: %w", Final(errors.New("no funds")))
			})
			r, ok := ResultOf(err)
			if !ok || !r.Failed || string(r.Payload) != "no funds" || replayed != (i > 0) {
				t.Errorf("%d: %v, %v", i, replayed, err)
			}
			stored = append(stored, r)
		}
		if fmt.Sprint(stored[0]) != fmt.Sprint(stored[1]) {
			t.Errorf("the first caller got %v, the second %v", stored[0], stored[1])
		}
		if Final(nil) != nil {
			t.Error("Final(nil)")
		}

		// The caller goes away while fn works: the result is stored all the same.
		key = newKey(t)
		gone, cancel := context.WithCancel(ctx)
		v, _, err := Do(gone, c, key, func(ctx context.Context, _ *Lease) (int, error) {
			cancel()
			<-ctx.Done()
			time.Sleep(tidyTime + 100*time.Millisecond) // fn takes its time all the same
			return 7, nil
		})
		if v != 7 || err != nil {
			t.Errorf("%v, %v", v, err)
		}
		if r, err := c.Result(ctx, key, nil); err != nil || string(r.Payload) != "7" {
			t.Errorf("%s, %v", r.Payload, err)
		}

		// The lease goes away while fn works: fn's context ends with the cause, and nothing is stored.
		key = newKey(t)
		_, _, err = Do(ctx, c, key, func(ctx context.Context, l *Lease) (int, error) {
			if err := c.Expire(context.WithoutCancel(ctx), key); err != nil {
				t.Error(err)
			}
			_ = l.Renew(ctx)
			<-ctx.Done()
			return 0, context.Cause(ctx)
		})
		wantError(t, err, ErrLeaseLost)
		_, _, err = Do(ctx, c, newKey(t), func(context.Context, *Lease) (chan int, error) { return nil, nil })
		wantError(t, err, ErrInvalid, "encode")
		_, _, err = Do(ctx, c, newKey(t), work, WithCodec(nil))
		wantError(t, err, ErrInvalid)
	})
}
