package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// P1: of many that claim at once, one gets the key; and of a resource, one key.
func TestOneHolder(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		for _, resource := range []bool{false, true} {
			var granted atomic.Int64
			base := newKey(t)
			var group sync.WaitGroup
			for i := range 50 {
				group.Go(func() {
					key := base
					if resource {
						key.Resource, key.ID = base.ID, fmt.Sprint(base.ID, i%7)
					}
					if _, err := c.Claim(t.Context(), key); err == nil {
						granted.Add(1)
					} else if !errors.Is(err, ErrInProgress) {
						t.Error(err)
					}
				})
			}
			group.Wait()
			if granted.Load() != 1 {
				t.Errorf("resource %v: %d were granted", resource, granted.Load())
			}
		}
	})
}

// P2: tokens rise through whatever becomes of the record, and over the high-water mark of the resource itself.
func TestTokensRise(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		ctx := t.Context()
		for _, resource := range []string{"", "shared"} {
			key := newKey(t)
			if resource != "" {
				key.Resource = key.ID
			}
			n := c.names(key)
			var last Token
			for i, then := range []func(l *Lease) error{
				func(l *Lease) error { return l.Release(ctx) },
				func(l *Lease) error { return c.Expire(ctx, key) },
				func(l *Lease) error { lapse(t, rdb, n.Keys()...); return nil },
				func(l *Lease) error { return forget(ctx, rdb, c.prefix, n.Tag) }, // evicted, flushed, lost: with all that lies beside it
				func(l *Lease) error { return c.GiveBack(ctx, key, l.Grant().Owner) },
				func(l *Lease) error { return rdb.Del(ctx, n.Record).Err() },
				func(l *Lease) error { return errors.Join(l.Fail(ctx, nil), c.Expire(ctx, key)) },
				func(l *Lease) error {
					lapse(t, rdb, n.Keys()...)
					return c.Resolve(ctx, key, Resolution{Rerun: true})
				},
				func(*Lease) error { return nil },
			} {
				if n.Fence != "" && i == 6 {
					lapse(t, rdb, n.Fence) // the record was lost, its fence was not: it has to run out
				}
				l := mustClaim(t, c, key, ManualRenewal())
				if l.Token() <= last {
					t.Fatalf("resource %q: before step %d the token was %d, now it is %d", resource, i, last, l.Token())
				}
				last = l.Token()
				if err := then(l); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
		}
		mark := Token(time.Now().Add(time.Hour).UnixMicro())
		key := newKey(t)
		l := mustClaim(t, c, key, MinToken(mark))
		if l.Token() != mark+1 {
			t.Errorf("MinToken(%d) gave %d", mark, l.Token())
		}
		// Ahead of the clock, a token would fall if the record were forgotten before the clock has passed it.
		if err := l.Complete(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Expire(ctx, key); err != nil {
			t.Fatal(err)
		}
		again := mustClaim(t, c, key)
		if again.Token() <= l.Token() {
			t.Errorf("after %d came %d", l.Token(), again.Token())
		}
	})
}

// forget deletes every key under a tag, also those that nobody should have written.
func forget(ctx context.Context, rdb redis.UniversalClient, prefix, tag string) error {
	names, err := rdb.Keys(ctx, prefix+":{"+tag+"}*").Result()
	if err != nil {
		return err
	}
	return rdb.Del(ctx, names...).Err()
}

// A clock stepped back neither prolongs a lease beyond its own length (P8) nor lets a token fall while its record lives.
func TestClockSteppedBack(t *testing.T) {
	m := miniredis.RunT(t)
	m.ClockTTL(true)
	start := time.Now().Truncate(time.Second)
	m.SetTime(start)
	rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
	defer rdb.Close()
	c := open(t, rdb, WithLease(30*time.Second))
	for _, resource := range []string{"", "r"} {
		m.SetTime(start)
		key := newKey(t)
		if resource != "" {
			key.Resource = key.ID
		}
		l := mustClaim(t, c, key, ManualRenewal())
		m.SetTime(start.Add(-time.Hour))
		_, err := c.Claim(t.Context(), key)
		var busy *InProgressError
		if !errors.As(err, &busy) || busy.RetryAfter > 33*time.Second {
			t.Fatalf("an hour back: %v", err)
		}
		if resource != "" {
			// Another key's claim cuts the fence; the holder's own, asked again, must not believe the record's uncut end.
			other := key
			other.ID += "b"
			_, err := c.Claim(t.Context(), other)
			wantError(t, err, ErrInProgress)
			m.SetTime(start.Add(-time.Hour + 20*time.Second))
			again := mustClaim(t, c, key, Owner(l.Grant().Owner), ManualRenewal())
			if left := time.Until(again.Deadline()); left > 11*time.Second {
				t.Errorf("asked again 20s into a 30s lease that was cut, it lasts %v", left)
			}
		}
		m.SetTime(start.Add(-time.Hour + 34*time.Second))
		next, err := c.Claim(t.Context(), key)
		if err != nil {
			t.Fatalf("one lease later: %v", err)
		}
		if next.Token() <= l.Token() {
			t.Errorf("after %d came %d", l.Token(), next.Token())
		}
		m.SetTime(start)
	}
}

// P3: whoever is not current changes nothing behind the fence; equal tokens of another owner do not pass either.
func TestFence(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		ctx := t.Context()
		for _, resource := range []string{"", "shared"} {
			key := newKey(t)
			if resource != "" {
				key.Resource = key.ID
			}
			f := c.Fence(key)
			if resource != "" {
				f = c.Fence(Key{Resource: key.Resource})
			}
			name := "value" + f.Tag()
			old := mustClaim(t, c, key, ManualRenewal())
			if err := f.Do(ctx, old.Grant(), "SET", name, "first").Err(); err != nil {
				t.Fatal(err)
			}
			lapse(t, rdb, c.names(key).Keys()...)
			if err := f.Do(ctx, old.Grant(), "set", name, "late, but nobody came").Err(); err != nil {
				t.Errorf("lapsed, and nobody else was granted the key: %v", err)
			}
			current := mustClaim(t, c, key, ManualRenewal())
			if err := f.Do(ctx, current.Grant(), "set", name, []byte("second")).Err(); err != nil {
				t.Fatal(err)
			}
			forged := Grant{Token: current.Token(), Owner: old.Grant().Owner}
			for what, g := range map[string]Grant{"old": old.Grant(), "forged": forged, "higher": {current.Token() + 1, mine}} {
				for _, err := range []error{
					f.Do(ctx, g, "set", name, what).Err(),
					f.Eval(ctx, g, "return redis.call('SET', KEYS[1], ARGV[1])", []string{name}, what).Err(),
				} {
					var stale *StaleTokenError
					if !errors.As(err, &stale) || stale.Token != g.Token || stale.Current != current.Token() {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
			wantError(t, old.Renew(ctx), ErrStaleToken)
			wantError(t, old.SaveCheckpoint(ctx, []byte("x")), ErrStaleToken)
			wantError(t, old.Complete(ctx, []byte("x")), ErrStaleToken)
			if err := old.Release(ctx); err != nil {
				t.Errorf("releasing what is another's: %v", err)
			}
			if got := rdb.Get(ctx, name).Val(); got != "second" {
				t.Errorf("the value is %q", got)
			}
			if err := current.Complete(ctx, nil); err != nil {
				t.Fatal(err)
			}
			wantError(t, f.Do(ctx, current.Grant(), "set", name, "after the end").Err(), ErrStaleToken)
		}
	})
}

func TestFencedReplies(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		ctx := t.Context()
		l := mustClaim(t, c, newKey(t))
		f := c.Fence(l.Key())
		n := func(s string) string { return s + f.Tag() }
		do := func(args ...any) string {
			v, err := f.Do(ctx, l.Grant(), args...).Result()
			return fmt.Sprintf("%v %v", v, err)
		}
		eval := func(script string, keys []string, args ...any) string {
			v, err := f.Eval(ctx, l.Grant(), script, keys, args...).Result()
			return fmt.Sprintf("%v %v", v, err)
		}
		blob := string([]byte{0, 255, '\r', '\n', 0})
		for i, c := range []struct{ got, want string }{
			{do("get", n("none")), "<nil> redis: nil"},
			{do("set", n("a"), 1), "OK <nil>"},
			{do("get", []byte(n("a"))), "1 <nil>"},
			{do("set", n("a"), 1, "nx"), "<nil> redis: nil"},
			{do("incrby", n("a"), int64(41)), "42 <nil>"},
			{do("HSET", n("h"), "f", 1.5, "g", true), "2 <nil>"},
			{do("hgetall", n("h")), "[f 1.5 g 1] <nil>"},
			{do("hget", n("h"), "none"), "<nil> redis: nil"},
			{do("zadd", n("z"), 1.25, "m"), "1 <nil>"},
			{do("zscore", n("z"), "m"), "1.25 <nil>"},
			{do("set", n("b"), blob), "OK <nil>"},
			{do("get", n("b")), blob + " <nil>"},
			{do("mget", n("a")), "<nil> coordinator: invalid: Fence.Do does not take the command \"mget\": it takes data commands with one key, which comes first; use Fence.Eval for others"},
			{eval("return ARGV[1]", nil, "x"), "x <nil>"},
			{eval("return {#KEYS, #ARGV, KEYS[1], ARGV[2]}", []string{n("k")}, "x", "y"), "[1 2 " + n("k") + " y] <nil>"},
			{eval("return nil", nil), "<nil> redis: nil"},
			{eval("local x = 1 -- no return, a comment at the end", nil), "<nil> redis: nil"},
			{eval("return false", nil), "<nil> redis: nil"},
			{eval("return {ok = 'FINE'}", nil), "FINE <nil>"},
			{eval("return redis.error_reply('MINE it is')", nil), "<nil> MINE it is"},
			{eval("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])", []string{n("e")}, blob), blob + " <nil>"},
		} {
			if c.got != c.want {
				t.Errorf("%d: got %q, want %q", i, c.got, c.want)
			}
		}
		err := f.Do(ctx, l.Grant(), "incr", n("h")).Err()
		if !redis.HasErrorPrefix(err, "WRONGTYPE") || errors.Is(err, ErrCorrupt) {
			t.Errorf("the command's own error is passed on, not %v", err)
		}
	})
}

// P4: one answer for everybody, byte for byte, and for nobody else.
func TestSameAnswer(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		// Short records too: a real server's %s cuts those below 100 bytes at a NUL, and no longer ones.
		for size, width := range map[int]int{0: 64, 1: 2, 8: 2, 512: 64, 1 << 20: 64} {
			print := bytes.Repeat([]byte{0}, width)
			for _, fail := range []bool{false, true} {
				key := newKey(t)
				payload := bytes.Repeat([]byte{0, 255, 'x', '\n'}, size/4+1)[:size]
				l := mustClaim(t, c, key, Fingerprint(print))
				finish := l.Complete
				if fail {
					finish = l.Fail
				}
				if err := finish(t.Context(), payload, RetainFor(2*time.Hour)); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					_, err := c.Claim(t.Context(), key, Fingerprint(print))
					r, ok := ResultOf(err)
					if !ok || !bytes.Equal(r.Payload, payload) || r.Failed != fail || r.Token != l.Token() {
						t.Fatalf("%d bytes, failed %v: %v", size, fail, err)
					}
				}
				for _, other := range [][]ClaimOption{nil, {Fingerprint([]byte{0})}, {Fingerprint(print[1:])}} {
					_, err := c.Claim(t.Context(), key, other...)
					wantError(t, err, ErrMismatch)
				}
				if ttl := rdb.PTTL(t.Context(), c.names(key).Record).Val(); ttl > 2*time.Hour || ttl < time.Hour {
					t.Errorf("RetainFor(2h) keeps it for %v", ttl)
				}
			}
		}
	})
}

// A completion keeps its result for the retention, whichever way it takes.
func TestResultIsKeptForTheRetention(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		const grace, kept = 100 * time.Millisecond, 2 * time.Hour
		for name, test := range map[string]struct {
			claim       []ClaimOption
			resource    string
			lapsed      bool
			options     []CompleteOption
			least, most time.Duration
		}{
			"within the lease":  {least: kept + 30*time.Second, most: kept + time.Minute + grace},
			"with a resource":   {resource: "account", least: kept, most: kept},
			"other retention":   {options: []CompleteOption{RetainFor(3 * time.Hour)}, least: 3 * time.Hour, most: 3 * time.Hour},
			"shorter retention": {options: []CompleteOption{RetainFor(90 * time.Minute)}, least: 90 * time.Minute, most: 90 * time.Minute},
			"after the lease":   {lapsed: true, least: kept, most: kept},
			"with MinToken":     {claim: []ClaimOption{MinToken(Token(time.Now().Add(5 * time.Hour).UnixMicro()))}, least: 5 * time.Hour, most: 6 * time.Hour},
		} {
			lease := time.Minute
			if test.lapsed {
				lease = 300 * time.Millisecond
			}
			c := open(t, rdb, WithLease(lease), WithGrace(grace), WithRetention(kept))
			key := newKey(t)
			key.Resource = test.resource
			l := mustClaim(t, c, key, append(test.claim, ManualRenewal())...)
			if test.lapsed {
				over := l.Deadline().Add(grace + 200*time.Millisecond)
				eventually(t, 10*time.Second, "the lease has lapsed for a while", func() bool { return time.Now().After(over) })
			}
			before := time.Now()
			if err := l.Complete(t.Context(), []byte("result"), test.options...); err != nil {
				t.Fatal(err)
			}
			ttl := rdb.PTTL(t.Context(), c.names(key).Record).Val()
			took := time.Since(before)
			if ttl < test.least-took-2*time.Millisecond || ttl > test.most+time.Millisecond {
				t.Errorf("%s: kept for %v, want %v to %v", name, ttl, test.least, test.most)
			}
			r, err := c.Result(t.Context(), key, nil)
			if off := r.CompletedAt.Sub(before).Abs(); err != nil || off > took+time.Second {
				t.Errorf("%s: it finished %v off, %v", name, off, err)
			}
		}
	})
}

// A completion that the server gets only after the lease's end, because nothing was there to take it before, is kept for
// as long as any, whether its first sending would have been over within the lease or not.
func TestLateCompletionIsKeptForTheRetention(t *testing.T) {
	for _, lease := range []time.Duration{time.Second, 30 * time.Second} {
		inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
			cutOff := redis.NewClient(rdb.Options())
			defer cutOff.Close()
			var down atomic.Bool
			cutOff.AddHook(between(func(ctx context.Context, _ string, send func(context.Context) error) error {
				if down.Load() {
					return &net.OpError{Op: "dial", Err: io.EOF}
				}
				return send(ctx)
			}))
			const kept = 2 * time.Minute
			c := open(t, cutOff, WithLease(lease), WithMaxLifetime(time.Minute), WithRetention(kept))
			key := newKey(t)
			l := mustClaim(t, c, key, ManualRenewal())
			down.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- l.Complete(ctx, []byte("x")) }()
			time.Sleep(50 * time.Second)
			down.Store(false)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			r, err := c.Inspect(t.Context(), key)
			if age := time.Since(r.CompletedAt); err != nil || r.RetentionRemaining < kept-time.Second || age > time.Second {
				t.Errorf("with a lease of %v it is kept for %v, and was completed %v ago; %v", lease, r.RetentionRemaining, age, err)
			}
		})
	}
}

// P8: every key that we write has a TTL.
func TestEveryKeyHasATTL(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := fmt.Sprintf("ttl-%d", time.Now().UnixNano())
		c := open(t, rdb, WithPrefix(prefix))
		life := &lifetime{t: t, c: c, rdb: rdb, log: &recorder{}}
		for _, resource := range []string{"", "x"} {
			life.key = newKey(t)
			life.key.Resource = resource
			life.n = c.names(life.key)
			life.run()
		}
		mustClaim(t, c, newKey(t), ManualRenewal()) // as the first claim of a key leaves it
		names, err := rdb.Keys(t.Context(), prefix+"*").Result()
		if err != nil || len(names) < 4 {
			t.Fatalf("%v, %v", names, err)
		}
		for _, name := range names {
			if ttl := rdb.PTTL(t.Context(), name).Val(); ttl <= 0 {
				t.Errorf("%s has the TTL %v", name, ttl)
			}
		}
	})
}

// Close ends every goroutine, whatever is under way; and without leases and waiters there is none to begin with.
func TestNoGoroutineIsLeft(t *testing.T) {
	run := func() {
		m := miniredis.RunT(t)
		rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
		c, err := New(rdb, WithLease(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		key := newKey(t)
		for range 10 {
			mustClaim(t, c, newKey(t))
		}
		mustClaim(t, c, key)
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() { _, _ = c.Claim(t.Context(), key, WaitUpTo(time.Minute)) })
			group.Go(func() { _, _ = c.Await(t.Context(), key, nil) })
		}
		eventually(t, 5*time.Second, "they wait", func() bool { return waiters(c) == 20 })
		_ = c.Close()
		_ = c.Close()
		group.Wait()
		_ = rdb.Close()
		m.Close()
	}
	run()
	before := runtime.NumGoroutine()
	run()
	var stacks string
	eventuallyOr := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(eventuallyOr) {
			buf := make([]byte, 1<<20)
			stacks = string(buf[:runtime.Stack(buf, true)])
			break
		}
		runtime.Gosched()
	}
	if strings.Contains(stacks, "onceward/coordinator.(*") {
		t.Errorf("goroutines are left:\n%s", stacks)
	}
}

// A fresh operation costs two round trips: one write each on the connection.
func TestTwoRoundTrips(t *testing.T) {
	server := pool.Server(t)
	var writes atomic.Int64
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return countingConn{conn, &writes}, err
	}})
	defer rdb.Close()
	c := open(t, rdb)
	if err := c.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := writes.Load()
	l := mustClaim(t, c, newKey(t))
	if err := l.Complete(t.Context(), make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if n := writes.Load() - before; n != 2 {
		t.Errorf("a claim and its completion took %d round trips", n)
	}
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A lease that is over before its grant arrives is asked for again, but not in a hot loop.
func TestLeaseShorterThanTheWayToTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		var way atomic.Int64
		way.Store(int64(time.Millisecond))
		count := &commands{}
		rdb.AddHook(slowly{&way})
		rdb.AddHook(count)
		c := open(t, rdb, WithMaxLifetime(time.Second), WithGrace(999*time.Millisecond+900*time.Microsecond))
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := c.Claim(ctx, newKey(t)); err == nil {
			t.Error("granted, though the lease was over")
		}
		if n := count.count("claim"); n < 2 || n > 40 {
			t.Errorf("%d claims in half a second", n)
		}
	})
}
