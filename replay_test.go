package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/internal/replaycache"
)

// Results at hand: what WithReplayCache answers without Redis is what Redis would, and for as long as it says.

// asked counts the requests that go out while fn runs.
func (r *recorder) asked(fn func()) int {
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.sent)
	}
	before := count()
	fn()
	return count() - before
}

// finish runs a key to its end.
func finish(t testing.TB, c *Coordinator, key Key, payload string, opts ...ClaimOption) {
	t.Helper()
	if err := mustClaim(t, c, key, opts...).Complete(t.Context(), []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

// P4. Whoever finished a key or was told of it replays it by himself, the same result that Redis has.
func TestReplayWithoutARoundTrip(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		plain, log := open(t, rdb), &recorder{}
		rdb.AddHook(log)
		ctx, print := t.Context(), Fingerprint([]byte("fp"))
		for _, size := range []int{0, 1, 64, 65, 512, 513, 5000} {
			for _, failed := range []bool{false, true} {
				for _, resource := range []string{"", "account"} {
					key := newKey(t)
					key.Resource = resource
					holder, reader, looker := open(t, rdb, cached), open(t, rdb, cached), open(t, rdb, cached)
					lease := mustClaim(t, holder, key, print)
					store := lease.Complete
					if failed {
						store = lease.Fail
					}
					if err := store(ctx, bytes.Repeat([]byte{0xff}, size)); err != nil {
						t.Fatal(err)
					}
					_, err := plain.Claim(ctx, key, print)
					want, _ := ResultOf(err)
					if _, err := looker.Result(ctx, key, []byte("fp")); err != nil {
						t.Fatal(err)
					}
					for c, requests := range map[*Coordinator]int{holder: 0, reader: 1, looker: 0} {
						var got [2]error
						n := log.asked(func() {
							for i := range got {
								_, got[i] = c.Claim(ctx, key, print)
							}
						})
						for _, err := range got {
							if r, ok := ResultOf(err); !ok || !reflect.DeepEqual(r, want) || err.(*CompletedError).Key != key {
								t.Errorf("%d bytes: %v %+v, and Redis has %+v", size, err, r, want)
							}
						}
						if n != requests {
							t.Errorf("two replays took %d requests, not %d", n, requests)
						}
						if n := log.asked(func() {
							for _, read := range []func(context.Context, Key, []byte) (Result, error){c.Result, c.Await} {
								if r, err := read(ctx, key, []byte("fp")); err != nil || !reflect.DeepEqual(r, want) {
									t.Errorf("%+v, %v", r, err)
								}
							}
						}); n != 0 {
							t.Errorf("Result and Await took %d requests", n)
						}
					}
				}
			}
		}
	})
}

var cached = WithReplayCache(1<<20, time.Minute)

// P4. The fingerprint decides first, then the outcome; what else a claim says does not change its answer, as in the script.
func TestReplayFromTheCacheHonoursTheClaim(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		log := &recorder{}
		c, plain := open(t, rdb, cached), open(t, rdb)
		rdb.AddHook(log)
		ctx := t.Context()
		with, without := newKey(t), newKey(t)
		finish(t, c, with, "result", Fingerprint([]byte("fp")))
		finish(t, c, without, "result")
		fp, other := Fingerprint([]byte("fp")), Fingerprint([]byte("fq"))
		for what, try := range map[string]struct {
			key  Key
			opts []ClaimOption
			want error
		}{
			"the same fingerprint":  {with, []ClaimOption{fp}, ErrCompleted},
			"another one":           {with, []ClaimOption{other}, ErrMismatch},
			"none":                  {with, nil, ErrMismatch},
			"none, as before":       {without, nil, ErrCompleted},
			"one for the first":     {without, []ClaimOption{fp}, ErrMismatch},
			"a token":               {with, []ClaimOption{fp, MinToken(1 << 52)}, ErrCompleted},
			"an old key":            {with, []ClaimOption{fp, IssuedAt(time.Unix(1, 0))}, ErrCompleted},
			"a key of the future":   {with, []ClaimOption{fp, IssuedAt(time.Now().Add(48 * time.Hour))}, ErrCompleted},
			"quarantine":            {with, []ClaimOption{fp, QuarantineLapsed()}, ErrCompleted},
			"an owner":              {with, []ClaimOption{fp, Owner(strings.Repeat("0", 32))}, ErrCompleted},
			"patience":              {with, []ClaimOption{fp, WaitUpTo(time.Minute)}, ErrCompleted},
			"a lease":               {with, []ClaimOption{fp, LeaseFor(time.Second), MaxLifetime(time.Minute), ManualRenewal()}, ErrCompleted},
			"a lease that is wrong": {with, []ClaimOption{fp, LeaseFor(1)}, ErrInvalid},
			"no option":             {with, []ClaimOption{nil}, ErrInvalid},
			"no key":                {Key{}, nil, ErrInvalid},
		} {
			_, redis := plain.Claim(ctx, try.key, try.opts...)
			wantError(t, redis, try.want)
			if n := log.asked(func() {
				_, err := c.Claim(ctx, try.key, try.opts...)
				wantError(t, err, try.want)
				if err != nil && redis != nil && err.Error() != redis.Error() {
					t.Errorf("%s: %q, and from Redis %q", what, err, redis)
				}
			}); n != 0 {
				t.Errorf("%s: %d requests", what, n)
			}
		}
		_, err := c.Result(ctx, with, nil)
		wantError(t, err, ErrMismatch)
		_, err = c.Await(ctx, without, []byte("fp"))
		wantError(t, err, ErrMismatch)
		_ = c.Close()
		_, err = c.Claim(ctx, without)
		wantError(t, err, ErrClosed)
	})
}

// P4. Each caller may do with his copy what he likes.
func TestReplaysFromTheCacheAreCopies(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	c := open(t, rdb, cached)
	for _, size := range []int{5, 300, 3000} {
		key, own := newKey(t), bytes.Repeat([]byte("x"), size)
		want := string(own)
		if err := mustClaim(t, c, key).Complete(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		clear(own)
		for range 3 {
			_, err := c.Claim(t.Context(), key)
			r, _ := ResultOf(err)
			if string(r.Payload) != want {
				t.Fatalf("%d bytes: %q", size, r.Payload)
			}
			clear(append(r.Payload, "more"...)[:size])
			clear(r.Payload)
			if r, _ = c.Result(t.Context(), key, nil); string(r.Payload) != want {
				t.Fatalf("%d bytes: %q", size, r.Payload)
			}
			clear(r.Payload)
		}
	}
}

// What another process expires is replayed for maxAge, counted from when the request went out, and no longer.
func TestReplayFromTheCacheIsNotOlderThanItsAge(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		const maxAge, way = time.Second, 100 * time.Millisecond
		elsewhere := open(t, rdb)
		slow := redis.NewClient(rdb.Options())
		defer slow.Close()
		slow.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
			err := send(ctx)
			if verb == "claim" {
				time.Sleep(way)
			}
			return err
		}))
		c := open(t, slow, WithReplayCache(1<<20, maxAge))
		key := newKey(t)
		finish(t, elsewhere, key, "result")
		_, err := c.Claim(t.Context(), key)
		wantError(t, err, ErrCompleted)
		if err := elsewhere.Expire(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(maxAge - way - time.Nanosecond)
		_, err = c.Claim(t.Context(), key)
		wantError(t, err, ErrCompleted)
		time.Sleep(time.Nanosecond)
		mustClaim(t, c, key)
	})
}

// Nothing is replayed beyond what its own completion, or Redis, has said of its retention.
func TestReplayFromTheCacheEndsWithTheRetention(t *testing.T) {
	inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
		const kept = 10 * time.Second
		opts := []Option{WithMaxLifetime(5 * time.Second), WithLease(time.Second), WithRetention(20 * time.Second)}
		c, looker, plain := open(t, rdb, append(opts, cached)...), open(t, rdb, append(opts, cached)...), open(t, rdb, opts...)
		key := newKey(t)
		if err := mustClaim(t, c, key).Complete(t.Context(), nil, RetainFor(kept)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(kept / 2)
		if _, err := looker.Result(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(kept/2 - time.Millisecond)
		for _, c := range []*Coordinator{c, looker, plain} {
			_, err := c.Claim(t.Context(), key)
			wantError(t, err, ErrCompleted)
		}
		time.Sleep(time.Millisecond)
		for _, c := range []*Coordinator{c, looker} {
			_, err := c.Result(t.Context(), key, nil)
			wantError(t, err, ErrNotFound)
		}
	})
}

// A coordinator sees its own Expire at once, also where the reply to an earlier claim is still on its way.
func TestOwnExpireIsSeenAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		arrive, slow := make(chan struct{}), redis.NewClient(rdb.Options())
		defer slow.Close()
		held := false
		slow.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
			err := send(ctx)
			if held && verb == "claim" {
				<-arrive
			}
			return err
		}))
		c, elsewhere := open(t, slow, cached), open(t, rdb)
		onTheWay, atHand := newKey(t), newKey(t)
		finish(t, elsewhere, onTheWay, "result")
		finish(t, c, atHand, "result")
		held = true
		late := make(chan error, 1)
		go func() {
			_, err := c.Claim(t.Context(), onTheWay)
			late <- err
		}()
		synctest.Wait()
		for _, key := range []Key{onTheWay, atHand} {
			if err := c.Expire(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		held = false
		close(arrive)
		wantError(t, <-late, ErrCompleted)
		for _, key := range []Key{onTheWay, atHand} {
			if _, err := c.Result(t.Context(), key, nil); !errors.Is(err, ErrNotFound) {
				t.Errorf("it was expired, and the result is %v", err)
			}
			finish(t, c, key, "another")
		}
		// Resolve and GiveBack change no result; what they are told of is looked up anew.
		time.Sleep(time.Millisecond)
		for what, act := range map[string]func(Key) error{
			"Resolve":  func(key Key) error { return c.Resolve(t.Context(), key, Resolution{Payload: []byte("result")}) },
			"GiveBack": func(key Key) error { return c.GiveBack(t.Context(), key, strings.Repeat("0", 32)) },
		} {
			key := newKey(t)
			finish(t, c, key, "result")
			if err := act(key); err != nil {
				t.Fatal(err)
			}
			if err := elsewhere.Expire(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Result(t.Context(), key, nil); !errors.Is(err, ErrNotFound) {
				t.Errorf("after %s: %v", what, err)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// A coordinator that holds a lease, or was told that another does, replays nothing of an earlier grant: neither what another caller
// has found at the same time, nor what a reply brings that is still on its way.
func TestLeaseThatWasSeenIsNotReplayedOver(t *testing.T) {
	for what, early := range map[string]bool{"the old reply comes first": true, "the old reply comes last": false} {
		for _, here := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, the lease is ours: %v", what, here), func(t *testing.T) {
				inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
					slow, elsewhere := redis.NewClient(rdb.Options()), open(t, rdb)
					defer slow.Close()
					arrive, claims := [2]chan struct{}{make(chan struct{}), make(chan struct{})}, 0
					slow.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
						err := send(ctx)
						if verb == "claim" {
							if claims++; claims <= len(arrive) {
								<-arrive[claims-1]
							}
						}
						return err
					}))
					c, key := open(t, slow, cached), newKey(t)
					finish(t, elsewhere, key, "old")
					var told [2]error
					ask := func(i int) {
						go func() { _, told[i] = c.Claim(t.Context(), key) }()
						time.Sleep(2 * longestHold) // it does not wait for the other one any more
						synctest.Wait()             // it is answered, and the reply on its way
					}
					ask(0)
					if err := elsewhere.Expire(t.Context(), key); err != nil {
						t.Fatal(err)
					}
					if !here {
						mustClaim(t, elsewhere, key)
					}
					ask(1)
					for _, i := range map[bool][]int{true: {0, 1}, false: {1, 0}}[early] {
						close(arrive[i])
						synctest.Wait()
					}
					wantError(t, told[0], ErrCompleted)
					if here && told[1] != nil {
						t.Fatal(told[1])
					} else if !here {
						wantError(t, told[1], ErrInProgress)
					}
					_, err := c.Claim(t.Context(), key)
					wantError(t, err, ErrInProgress)
				})
			})
		}
	}
}

// P7. What replicas have not confirmed is visible to Result, and no replay of it is made.
func TestUnconfirmedResultIsNotCached(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()}) // no replicas: none confirms anything
	defer rdb.Close()
	c, plain := open(t, rdb, cached, WithReplicas(1, time.Millisecond)), open(t, rdb)
	key := newKey(t)
	finish(t, plain, key, "result")
	for range 2 {
		if _, err := c.Result(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
		_, err := c.Claim(t.Context(), key)
		wantError(t, err, ErrNotReplicated)
	}
}

// With a replica: a completion that it did not confirm is not replayed, and one that it did is, without it.
func TestReplicasAndTheCache(t *testing.T) {
	primary := redistest.Run(t)
	replica := redistest.RunReplica(t, primary)
	rdb := primary.Client(nil)
	defer rdb.Close()
	c := open(t, rdb, cached, WithReplicas(1, 300*time.Millisecond))
	confirmed := func(call func() error) {
		t.Helper()
		eventually(t, 30*time.Second, "the replica confirms in time", func() bool {
			err := call()
			if err != nil && !errors.Is(err, ErrNotReplicated) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	var first, second *Lease
	key, other := newKey(t), newKey(t)
	confirmed(func() (err error) { first, err = c.Claim(t.Context(), key); return err })
	confirmed(func() (err error) { second, err = c.Claim(t.Context(), other); return err })
	confirmed(func() error { return second.Complete(t.Context(), []byte("result")) })
	acknowledged(t, rdb)
	if err := replica.Pause(); err != nil {
		t.Fatal(err)
	}
	wantError(t, first.Complete(t.Context(), []byte("result")), ErrNotReplicated)
	_, err := c.Claim(t.Context(), key)
	wantError(t, err, ErrNotReplicated)
	_, err = c.Claim(t.Context(), other)
	wantError(t, err, ErrCompleted)
	if err := replica.Resume(); err != nil {
		t.Fatal(err)
	}
	confirmed(func() error { return first.Complete(t.Context(), []byte("result")) })
	_, err = c.Claim(t.Context(), key)
	wantError(t, err, ErrCompleted)
}

// What is at hand and what is not come back in the order of the requests; only the latter are asked for.
func TestClaimManyFromTheCache(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		log, seen := &recorder{}, &notes{}
		c, elsewhere := open(t, rdb, cached, WithObserver(seen)), open(t, rdb)
		reqs := make([]ClaimRequest, 12)
		for i := range reqs {
			reqs[i].Key = newKey(t)
			switch i % 4 {
			case 0:
				finish(t, c, reqs[i].Key, fmt.Sprint("result ", i))
			case 1:
				finish(t, elsewhere, reqs[i].Key, fmt.Sprint("result ", i))
			case 2:
				finish(t, c, reqs[i].Key, "")
				reqs[i].Options = []ClaimOption{Fingerprint([]byte("fp"))}
			}
		}
		rdb.AddHook(log)
		var results []ClaimResult
		if n := log.asked(func() { results = c.ClaimMany(t.Context(), reqs) }); n != 6 {
			t.Errorf("%d claims went out", n)
		}
		for i, r := range results {
			switch i % 4 {
			case 0, 1:
				if got, ok := ResultOf(r.Err); !ok || string(got.Payload) != fmt.Sprint("result ", i) {
					t.Errorf("%d: %v", i, r.Err)
				}
			case 2:
				wantError(t, r.Err, ErrMismatch)
			case 3:
				if r.Err != nil || r.Lease.Key() != reqs[i].Key {
					t.Errorf("%d: %v", i, r.Err)
				}
			}
		}
		for outcome, want := range map[string]int{"replayed": 6, "mismatch": 3, "granted": 3, "ok": 12} {
			if n := seen.count("claim_many", outcome); n != want {
				t.Errorf("the observer was told of %d %s, not %d", n, outcome, want)
			}
		}
	})
}

// Do replays from the cache, and an observer is told the same as without one.
func TestReplaysFromTheCacheAreObserved(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	var told [2][]Event
	for i, opts := range [][]Option{nil, {cached}} {
		seen := &notes{}
		c := open(t, rdb, append(opts, WithObserver(seen))...)
		key := newKey(t)
		for n := range 3 {
			v, replayed, err := Do(t.Context(), c, key, func(context.Context, *Lease) (string, error) { return "v", nil })
			if v != "v" || replayed != (n > 0) || err != nil {
				t.Errorf("%v, %v, %v", v, replayed, err)
			}
		}
		for _, e := range seen.seen {
			if e.Duration < 0 || e.Key != (Key{}) && e.Key != key {
				t.Errorf("%+v", e)
			}
			told[i] = append(told[i], Event{Op: e.Op, Outcome: e.Outcome, Count: e.Count})
		}
	}
	if !reflect.DeepEqual(told[0], told[1]) {
		t.Errorf("without it %+v, with it %+v", told[0], told[1])
	}
}

// A claim that the cache answers allocates the payload and its error at once, or the two of them where the payload is long.
func TestAllocationsOfAReplayFromTheCache(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	c := open(t, rdb, cached)
	for size, want := range map[int]float64{0: 1, 64: 1, 512: 1, 513: 2} {
		key := newKey(t)
		finish(t, c, key, strings.Repeat("x", size))
		if n := testing.AllocsPerRun(100, func() {
			if _, err := c.Claim(t.Context(), key); !errors.Is(err, ErrCompleted) {
				t.Fatal(err)
			}
		}); n > want {
			t.Errorf("%d bytes: %v allocations, not %v", size, n, want)
		}
	}
}

// BenchmarkReplayFromTheCache is what a hit costs 64 callers; a thousand results of 512 bytes are asked for.
func BenchmarkReplayFromTheCache(b *testing.B) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // nobody asks it
	defer rdb.Close()
	c := open(b, rdb, WithReplayCache(64<<20, time.Minute))
	rec := protocol.Record{State: protocol.StateCompleted, Token: 1, Bound: true, Data: make([]byte, 512)}
	keys := make([]Key, 1000)
	for i := range keys {
		keys[i] = Key{Scope: "payments", ID: fmt.Sprintf("018cc251-f400-7000-8000-%012x", i)}
		c.cache.Put(replaycache.Key(keys[i]), time.Now(), unknownLife, &rec)
	}
	ctx := b.Context()
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Claim(ctx, keys[rand.N(len(keys))]); !errors.Is(err, ErrCompleted) {
				b.Error(err)
			}
		}
	})
}
