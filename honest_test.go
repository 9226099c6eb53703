package coordinator

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/internal/wakeup"
)

// What calls tell their callers is so (P7), repeating them is safe, and they return in time (P5).

// Told that nothing was done, the caller would find the key taken, by himself; with ErrUnknown he can ask again.
func TestRefusalAfterALostReplyIsUnknown(t *testing.T) {
	for what, refusal := range map[string]error{
		"closed client": redis.ErrClosed,
		"no permission": commandError("NOPERM User default has no permissions to run the 'evalsha' command"),
		"full memory":   commandError("OOM command not allowed when used memory > 'maxmemory'."),
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				c := open(t, rdb)
				if err := c.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
				var claims atomic.Int32
				rdb.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
					if verb == "claim" {
						switch claims.Add(1) {
						case 1:
							_ = send(ctx)
							return io.EOF
						case 2:
							return refusal
						}
					}
					return send(ctx)
				}))
				key := newKey(t)
				_, err := c.Claim(t.Context(), key)
				wantError(t, err, ErrUnknown)
				wantError(t, err, refusal)
				var unknown *UnknownError
				if !errors.As(err, &unknown) {
					t.Fatal(err)
				}
				if l := mustClaim(t, c, key, Owner(unknown.Owner)); l.Attempt() != 1 {
					t.Errorf("asked again it is attempt %d", l.Attempt())
				}
			})
		})
	}
}

// An error of the user's that begins as one of the server's must not make anybody send his script again: it would run twice.
func TestFencedErrorsRunOnceAndArePassedOn(t *testing.T) {
	test := func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		l := mustClaim(t, c, newKey(t))
		f := c.Fence(l.Key())
		for _, text := range []string{
			"READONLY account is frozen", "LOADING the truck", "TRYAGAIN tomorrow", "CLUSTERDOWN for today", "MASTERDOWN again", "NOREPLICAS left",
			"MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1", "NOSCRIPT for this play", "ERR max number of clients reached", "OOM out of money",
			"NOAUTH needed", "NOPERM not yours", "MISCONF in court", "BUSY all seats are taken", "WRONGTYPE of blood",
		} {
			name := "runs " + text + f.Tag()
			err := f.Eval(t.Context(), l.Grant(), "redis.call('INCR', KEYS[1]) return redis.error_reply(ARGV[1])", []string{name}, text).Err()
			var told redis.Error
			if !errors.As(err, &told) || err.Error() != text {
				t.Fatalf("%q became %v", text, err)
			}
			if n := rdb.Get(t.Context(), name).Val(); n != "1" {
				t.Errorf("%q: the script ran %s times", text, n)
			}
		}
	}
	onServers(t, test)
	t.Run("cluster", func(t *testing.T) {
		onCluster(t, func(t *testing.T, _ *redistest.Cluster, rdb *redis.ClusterClient) { test(t, rdb) })
	})
	t.Run("Do", func(t *testing.T) {
		rdb := redistest.Run(t).Client(nil)
		defer rdb.Close()
		count := &commands{}
		rdb.AddHook(count)
		c := open(t, rdb)
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		l := mustClaim(t, c, newKey(t), ManualRenewal())
		f := c.Fence(l.Key())
		if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
			t.Fatal(err)
		}
		err := f.Do(t.Context(), l.Grant(), "append", "a"+f.Tag(), "x").Err()
		if !redis.HasErrorPrefix(err, "OOM") || errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if n := count.count("fence_do"); n != 1 {
			t.Errorf("the command was sent %d times", n)
		}
	})
}

// A buffer that its owner uses again once the call has returned must not change what a late request stores.
func TestBufferUsedAgainIsNotStored(t *testing.T) {
	const right, wrong = "what was meant", "something else"
	for verb, store := range map[string]struct {
		call   func(ctx context.Context, l *Lease, data []byte) error
		stored func(t *testing.T, rdb *redis.Client, l *Lease) string
	}{
		"complete": {
			func(ctx context.Context, l *Lease, data []byte) error { return l.Complete(ctx, data) },
			func(t *testing.T, _ *redis.Client, l *Lease) string {
				r, err := l.c.Result(t.Context(), l.Key(), nil)
				if err != nil {
					t.Error(err)
				}
				return string(r.Payload)
			},
		},
		"checkpoint": {
			func(ctx context.Context, l *Lease, data []byte) error { return l.SaveCheckpoint(ctx, data) },
			func(t *testing.T, _ *redis.Client, l *Lease) string {
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
				return string(mustClaim(t, l.c, l.Key()).Checkpoint())
			},
		},
		"fence_do": {
			func(ctx context.Context, l *Lease, data []byte) error {
				f := l.c.Fence(l.Key())
				return f.Do(ctx, l.Grant(), "set", "v"+f.Tag(), data).Err()
			},
			func(t *testing.T, rdb *redis.Client, l *Lease) string {
				return rdb.Get(t.Context(), "v"+l.c.Fence(l.Key()).Tag()).Val()
			},
		},
		"resolve": {
			func(ctx context.Context, l *Lease, data []byte) error {
				return l.c.Resolve(ctx, l.Key(), Resolution{Payload: data})
			},
			func(t *testing.T, _ *redis.Client, l *Lease) string {
				r, err := l.c.Result(t.Context(), l.Key(), nil)
				if err != nil {
					t.Error(err)
				}
				return string(r.Payload)
			},
		},
	} {
		t.Run(verb, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				goOn, sent := make(chan struct{}), make(chan error, 1)
				var held atomic.Bool
				rdb.AddHook(between(func(ctx context.Context, v string, send func(context.Context) error) error {
					if v != verb || !held.CompareAndSwap(false, true) {
						return send(ctx)
					}
					<-goOn // it goes out long after the call has returned
					err := send(context.WithoutCancel(ctx))
					sent <- err
					return err
				}))
				c := open(t, rdb)
				if err := c.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
				l := mustClaim(t, c, newKey(t), ManualRenewal())
				if verb == "resolve" {
					lapse(t, rdb, l.names.Record)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				data := []byte(right)
				wantError(t, store.call(ctx, l, data), ErrUnknown)
				copy(data, wrong)
				close(goOn)
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				if got := store.stored(t, rdb, l); got != right {
					t.Errorf("%q is stored", got)
				}
			})
		})
	}
}

// A request handler with a deadline must not be kept by the giving back of a claim that it does not get.
func TestUnconfirmedClaimsReturnWithTheirContexts(t *testing.T) {
	for what, claim := range map[string]func(ctx context.Context, t *testing.T, c *Coordinator) error{
		"Claim": func(ctx context.Context, t *testing.T, c *Coordinator) error {
			_, err := c.Claim(ctx, newKey(t))
			return err
		},
		"ClaimMany": func(ctx context.Context, t *testing.T, c *Coordinator) error {
			reqs := make([]ClaimRequest, 6)
			for i := range reqs {
				reqs[i].Key = newKey(t)
			}
			var all []error
			for _, r := range c.ClaimMany(ctx, reqs) {
				all = append(all, r.Err)
			}
			return errors.Join(all...)
		},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				rdb.AddHook(hanging("giveback"))
				c := open(t, rdb, WithReplicas(1, 50*time.Millisecond))
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				began := time.Now()
				wantError(t, claim(ctx, t, c), ErrNotReplicated)
				if took := time.Since(began); took > 300*time.Millisecond {
					t.Errorf("it took %v, its context 200ms", took)
				}
			})
		})
	}
}

// Do stores what was done also when its caller has gone, but keeps him for a second at most.
func TestDoStoresForASecondAtMost(t *testing.T) {
	for what, result := range map[string]error{"a result": nil, "a final error": Final(errors.New("no funds"))} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				rdb.AddHook(hanging("complete"))
				c := open(t, rdb)
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				began := time.Now()
				_, _, err := Do(ctx, c, newKey(t), func(context.Context, *Lease) (int, error) { return 1, result })
				wantError(t, err, ErrUnknown)
				if took := time.Since(began); took < time.Second || took > 1400*time.Millisecond {
					t.Errorf("it returned after %v, its context ended after 300ms", took)
				}
			})
		})
	}
}

// Do gives back a claim of unknown outcome by itself. An owner to ask again with would race with that: two would work.
func TestDoKeepsTheOwnerThatItGivesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		c := open(t, rdb)
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		defer close(over)
		var claims atomic.Int32
		rdb.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
			err := send(ctx)
			if verb == "claim" && claims.Add(1) == 1 {
				<-over // its reply never comes
			}
			return err
		}))
		key := newKey(t)
		work := func(context.Context, *Lease) (int, error) { return 1, nil }
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, _, err := Do(ctx, c, key, work)
		wantError(t, err, ErrUnknown)
		wantError(t, err, context.DeadlineExceeded)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || unknown.Key != key || unknown.Owner != "" {
			t.Errorf("%#v", err)
		}
		if v, replayed, err := Do(t.Context(), c, key, work, WaitUpTo(2*time.Second)); v != 1 || replayed || err != nil {
			t.Errorf("afterwards: %v, %v, %v", v, replayed, err)
		}
	})
}

// A connection that breaks while a server is asked for its version is as any other: the first claim after a start must not fail for it.
func TestLostConnectionOnFirstUseIsRetried(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		var asked atomic.Int32
		rdb.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
			if verb == "info" && asked.Add(1) == 1 {
				return io.EOF
			}
			return send(ctx)
		}))
		c := open(t, rdb)
		mustClaim(t, c, newKey(t))
		if asked.Load() != 2 {
			t.Errorf("the server was asked %d times", asked.Load())
		}
	})
}

// Nobody worked under a grant that came too late: it is neither uncertain, which would call an operator, nor an attempt.
func TestLateGrantIsNoAttempt(t *testing.T) {
	for what, opts := range map[string][]ClaimOption{"quarantine": {QuarantineLapsed()}, "takeover": nil} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				var claims atomic.Int32
				rdb.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
					err := send(ctx)
					if verb == "claim" && claims.Add(1) == 1 {
						time.Sleep(200 * time.Millisecond)
						return io.EOF
					}
					return err
				}))
				c := open(t, rdb)
				if err := c.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
				key := newKey(t)
				l := mustClaim(t, c, key, append(opts, LeaseFor(100*time.Millisecond))...)
				if l.Attempt() != 1 || claims.Load() < 2 {
					t.Errorf("attempt %d after %d claims", l.Attempt(), claims.Load())
				}
			})
		})
	}
}

// A waiter that cannot leave its mark, with the memory full for instance, polls; asking without a pause would finish off the server.
func TestWaiterWhoseMarkIsRefusedPolls(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		var sent, marks atomic.Int32
		rdb.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
			sent.Add(1)
			if verb == "mark" {
				marks.Add(1)
				return commandError("OOM command not allowed when used memory > 'maxmemory'.")
			}
			return send(ctx)
		}))
		c := open(t, rdb)
		key := newKey(t)
		mustClaim(t, c, key, LeaseFor(time.Minute))
		sent.Store(0)
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan error, 1)
		go func() { _, err := c.Await(ctx, key, nil); answer <- err }()
		eventually(t, 10*time.Second, "its mark is refused", func() bool { return marks.Load() > 0 })
		time.AfterFunc(300*time.Millisecond, cancel)
		wantError(t, <-answer, ErrInProgress)
		if sent.Load() > 20 {
			t.Errorf("a waiter sent %d commands in 300ms, %d marks among them", sent.Load(), marks.Load())
		}
	})
}

// Each release wakes the next waiter of the same process: a queue of them must not move at the pace of the slow poll.
func TestEveryHandOverIsAWakeUp(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		key := newKey(t)
		holder := mustClaim(t, c, key, LeaseFor(time.Minute))
		const queue = 4
		granted, failed := make(chan *Lease), make(chan error, queue)
		wait := func() {
			l, err := c.Claim(t.Context(), key, WaitUpTo(time.Minute), LeaseFor(time.Minute))
			if err != nil {
				failed <- err
				return
			}
			granted <- l
		}
		// The first one marks the record before the others look at it, so that all of them have seen its mark.
		marked := func() bool { return markOf(rdb, c.names(key).Record) == '1' }
		go wait()
		eventually(t, 10*time.Second, "the record is marked", marked)
		for range queue - 1 {
			go wait()
		}
		eventually(t, 10*time.Second, "all wait", func() bool { return waiters(c) == queue })
		for i := range queue {
			eventually(t, wakeup.SlowPoll/2, "the next in line has marked the record", marked)
			released := time.Now()
			if err := holder.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			select {
			case holder = <-granted:
			case err := <-failed:
				t.Fatal(err)
			}
			if took := time.Since(released); took > wakeup.SlowPoll/2 {
				t.Errorf("hand-over %d took %v", i, took)
			}
		}
	})
}

// A key that is twice in a batch is granted once, and at once: the second must not wait for a release that only the caller could
// make. So it is with two keys of one resource.
func TestClaimManyDoesNotWaitForItself(t *testing.T) {
	for _, keys := range [][2]Key{
		{{ID: "twice"}, {ID: "twice"}},
		{{ID: "first", Resource: "account/42"}, {ID: "second", Resource: "account/42"}},
	} {
		inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
			c := open(t, rdb)
			began := time.Now()
			results := c.ClaimMany(t.Context(), []ClaimRequest{
				{Key: keys[0], Options: []ClaimOption{WaitUpTo(time.Minute)}}, {Key: keys[1], Options: []ClaimOption{WaitUpTo(time.Minute)}},
			})
			if took := time.Since(began); took > time.Second {
				t.Errorf("%v: it waited for %v", keys, took)
			}
			if results[0].Err != nil {
				t.Error(results[0].Err)
			}
			wantError(t, results[1].Err, ErrInProgress)
		})
	}
}

// A batch's grants are held from the start: while one of its requests waits, nobody may get in on the others.
func TestClaimManyHoldsItsGrantsWhileOneWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		c, other := open(t, rdb), open(t, rdb)
		busy, free := newKey(t), newKey(t)
		busy.Resource = busy.ID
		l := mustClaim(t, c, busy)
		rdb.Del(t.Context(), l.names.Fence) // evicted: this owner's grant is over, and the record is in the way of the next
		meanwhile := make(chan error, 1)
		time.AfterFunc(5*time.Second, func() {
			_, err := other.Claim(context.Background(), free)
			meanwhile <- err
		})
		began := time.Now()
		results := c.ClaimMany(t.Context(), []ClaimRequest{
			{Key: busy, Options: []ClaimOption{Owner(l.Grant().Owner), WaitUpTo(10 * time.Second)}},
			{Key: free, Options: []ClaimOption{LeaseFor(3 * time.Second)}},
		})
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("nobody waited: %v after %v", results[0].Err, took)
		}
		wantError(t, <-meanwhile, ErrInProgress)
		if r := results[1]; r.Err != nil || r.Lease.Context().Err() != nil {
			t.Errorf("%+v", r)
		}
	})
}
