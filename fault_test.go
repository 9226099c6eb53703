package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/faultproxy"
	"github.com/onceward/coordinator/scripts"
)

// throughProxy runs a test behind a real proxy that loses, holds and cuts what passes. direct sees the server itself.
func throughProxy(t *testing.T, test func(t *testing.T, proxy *faultproxy.Proxy, c *Coordinator, direct redis.UniversalClient)) {
	run := func(t *testing.T, addr string) {
		proxy, err := faultproxy.New(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer proxy.Close()
		direct := redis.NewClient(&redis.Options{Addr: addr})
		defer direct.Close()
		rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
		defer rdb.Close()
		c := open(t, rdb)
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(t, proxy, c, direct)
		_ = c.Close()
	}
	t.Run("miniredis", func(t *testing.T) { run(t, miniredis.RunT(t).Addr()) })
	t.Run("redis", func(t *testing.T) { run(t, pool.Server(t).Addr()) })
}

var faults = []faultproxy.Action{faultproxy.DropReply, faultproxy.DropRequest, faultproxy.CutReply}

// A lost request and a lost reply look the same; every call asks again and gets what is true (P5).
func TestLostRepliesAndRequests(t *testing.T) {
	throughProxy(t, func(t *testing.T, proxy *faultproxy.Proxy, c *Coordinator, direct redis.UniversalClient) {
		ctx := t.Context()
		for _, fault := range faults {
			once := func() { proxy.SetRule(faultproxy.Once("EVALSHA", faultproxy.Verdict{Action: fault})) }
			key := newKey(t)
			once()
			l := mustClaim(t, c, key)
			if l.Attempt() != 1 {
				t.Errorf("%v: the client locked itself out: attempt %d", fault, l.Attempt())
			}
			once()
			if err := l.Renew(ctx); err != nil {
				t.Errorf("%v: renew: %v", fault, err)
			}
			once()
			if err := l.SaveCheckpoint(ctx, []byte("x")); err != nil {
				t.Errorf("%v: checkpoint: %v", fault, err)
			}
			once()
			if err := l.Complete(ctx, []byte("done")); err != nil {
				t.Errorf("%v: complete: %v", fault, err)
			}
			once()
			if err := c.Expire(ctx, key); err != nil {
				t.Errorf("%v: expire: %v", fault, err)
			}
			l = mustClaim(t, c, key)
			once()
			if err := l.Release(ctx); err != nil {
				t.Errorf("%v: release: %v", fault, err)
			}
			keys := []ClaimRequest{{Key: newKey(t)}, {Key: newKey(t)}, {Key: newKey(t)}}
			once()
			for i, r := range c.ClaimMany(ctx, keys) {
				if r.Err != nil || r.Lease.Attempt() != 1 {
					t.Errorf("%v: claim %d of many: %v", fault, i, r.Err)
				}
			}
			if proxy.Count(fault) == 0 {
				t.Errorf("%v never happened", fault)
			}
		}
	})
}

// The wrapper owns the retries: go-redis sends each command once.
func TestOneSendIsOneRun(t *testing.T) {
	throughProxy(t, func(t *testing.T, proxy *faultproxy.Proxy, c *Coordinator, direct redis.UniversalClient) {
		lease := mustClaim(t, c, newKey(t))
		fence := c.Fence(lease.Key())
		name := "n" + fence.Tag()
		for i, fault := range []faultproxy.Action{faultproxy.DropReply, faultproxy.CutReply} {
			proxy.SetRule(faultproxy.Once("EVALSHA", faultproxy.Verdict{Action: fault}))
			err := fence.Do(t.Context(), lease.Grant(), "incr", name).Err()
			wantError(t, err, ErrUnknown)
			var unknown *UnknownError
			if !errors.As(err, &unknown) || unknown.Owner != lease.Grant().Owner {
				t.Errorf("%v", err)
			}
			if got := direct.Get(t.Context(), name).Val(); got != fmt.Sprint(i+1) {
				t.Errorf("%v: INCR ran until %s", fault, got)
			}
			count := func() string { return direct.Get(t.Context(), name+"x").Val() }
			proxy.SetRule(nil)
			before, err := fence.Eval(t.Context(), lease.Grant(), "return redis.call('INCR', KEYS[1])", []string{name + "x"}).Int()
			if err != nil {
				t.Fatal(err) // now the server knows the script
			}
			proxy.SetRule(faultproxy.Once("EVALSHA", faultproxy.Verdict{Action: fault}))
			wantError(t, fence.Eval(t.Context(), lease.Grant(), "return redis.call('INCR', KEYS[1])", []string{name + "x"}).Err(), ErrUnknown)
			if got := count(); got != fmt.Sprint(before+1) {
				t.Errorf("%v: the fenced script ran until %s, before it was at %d", fault, got, before)
			}
		}
	})
}

// P7: when the context ends before the reply comes, the error says what is needed to ask again.
func TestUnknownOutcomes(t *testing.T) {
	throughProxy(t, func(t *testing.T, proxy *faultproxy.Proxy, c *Coordinator, direct redis.UniversalClient) {
		stalled := func(key Key) *UnknownError {
			t.Helper()
			proxy.SetRule(faultproxy.Once("EVALSHA", faultproxy.Verdict{Action: faultproxy.StallReply}))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := c.Claim(ctx, key)
			var unknown *UnknownError
			if !errors.As(err, &unknown) || unknown.Key != key || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
			proxy.SetRule(nil)
			proxy.Release()
			return unknown
		}
		key := newKey(t)
		unknown := stalled(key)
		_, err := c.Claim(t.Context(), key)
		wantError(t, err, ErrInProgress) // it had been granted
		l := mustClaim(t, c, key, Owner(unknown.Owner))
		if l.Attempt() != 1 || l.Grant().Owner != unknown.Owner {
			t.Errorf("asked again and got %v, attempt %d", l.Grant(), l.Attempt())
		}

		key = newKey(t)
		unknown = stalled(key)
		if err := c.GiveBack(t.Context(), key, unknown.Owner); err != nil {
			t.Fatal(err)
		}
		if l := mustClaim(t, c, key); l.Attempt() != 1 {
			t.Errorf("after giving back it is attempt %d", l.Attempt())
		}

		// Do gives back by itself.
		key = newKey(t)
		proxy.SetRule(faultproxy.Once("EVALSHA", faultproxy.Verdict{Action: faultproxy.StallReply}))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, _, err = Do(ctx, c, key, func(context.Context, *Lease) (int, error) { return 1, nil })
		wantError(t, err, ErrUnknown)
		eventually(t, 2*time.Second, "Do has given the key back", func() bool {
			r, err := c.Inspect(t.Context(), key)
			return err == nil && r.State == StateReleased
		})
		proxy.Release()

		// A completion whose outcome is unknown is asked for again, by the same call.
		l = mustClaim(t, c, newKey(t))
		proxy.SetRule(faultproxy.Once("EVALSHA", faultproxy.Verdict{Action: faultproxy.StallReply}))
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wantError(t, l.Complete(ctx, []byte("x")), ErrUnknown)
		proxy.SetRule(nil)
		proxy.Release()
		if err := l.Complete(t.Context(), []byte("x")); err != nil {
			t.Error(err)
		}
		wantError(t, l.Complete(t.Context(), []byte("y")), ErrCompleted)
	})
}

// A claim that was given up on arrives after everything else: it finds itself over and blocks nobody.
func TestRequestsThatArriveAfterTheirSuccessors(t *testing.T) {
	throughProxy(t, func(t *testing.T, proxy *faultproxy.Proxy, c *Coordinator, direct redis.UniversalClient) {
		for _, successor := range []string{"retry", "give back"} {
			key := newKey(t)
			var first atomic.Bool
			proxy.SetRule(func(r faultproxy.Request) faultproxy.Verdict {
				if r.Name == "EVALSHA" && first.CompareAndSwap(false, true) {
					return faultproxy.Verdict{Action: faultproxy.Hold}
				}
				return faultproxy.Verdict{}
			})
			if successor == "retry" {
				l := mustClaim(t, c, key) // its first copy is held, its second granted
				if err := l.Complete(t.Context(), []byte("done")); err != nil {
					t.Fatal(err)
				}
			} else {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				l, err := c.Claim(ctx, key, Owner(mine))
				if err != nil {
					t.Fatal(err)
				}
				if err := c.GiveBack(t.Context(), key, l.Grant().Owner); err != nil {
					t.Fatal(err)
				}
			}
			name := c.names(key).Record
			before := direct.Get(t.Context(), name).Val()
			if proxy.Held() != 1 {
				t.Fatalf("%d requests are held", proxy.Held())
			}
			proxy.Release()
			if after := direct.Get(t.Context(), name).Val(); after != before {
				t.Errorf("%s: the late claim changed the record\nfrom %q\nto   %q", successor, before, after)
			}
		}
	})
}

func TestRefusedConnectionIsKnownNotToHaveRun(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", DialerRetries: 1})
	defer rdb.Close()
	c := open(t, rdb, WithTimeout(300*time.Millisecond))
	began := time.Now()
	_, err := c.Claim(t.Context(), newKey(t))
	wantError(t, err, ErrUnavailable, "refused")
	if took := time.Since(began); took > defaultTimeout/2 {
		t.Errorf("WithTimeout(300ms) took %v", took)
	}
}

// A cluster's client looks at the topology once a minute by itself; after an error we see to it that it looks at once.
func TestTopologyIsLookedAtAfterAnError(t *testing.T) {
	gone, now := "127.0.0.1:1", miniredis.RunT(t).Addr()
	var looks atomic.Int32
	rdb := redis.NewClusterClient(&redis.ClusterOptions{DialerRetries: 1, ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
		addr := now
		if looks.Add(1) == 1 {
			addr = gone
		}
		return []redis.ClusterSlot{{End: 16383, Nodes: []redis.ClusterNode{{Addr: addr}}}}, nil
	}})
	defer rdb.Close()
	mustClaim(t, open(t, rdb, WithTimeout(3*time.Second)), newKey(t))
	if n := looks.Load(); n < 2 {
		t.Errorf("it looked %d times", n)
	}
}

// What may have run before a server began to refuse is not reported as not done (P7).
func TestRefusalAfterAnUnknownOutcome(t *testing.T) {
	throughProxy(t, func(t *testing.T, proxy *faultproxy.Proxy, c *Coordinator, direct redis.UniversalClient) {
		key := newKey(t)
		n := c.names(key)
		var dropped atomic.Bool
		proxy.SetRule(func(r faultproxy.Request) faultproxy.Verdict {
			if r.Name != "EVALSHA" {
				return faultproxy.Verdict{}
			}
			if dropped.CompareAndSwap(false, true) {
				return faultproxy.Verdict{Action: faultproxy.DropReply}
			}
			direct.Del(context.Background(), n.Record)
			direct.HSet(context.Background(), n.Record, "a", "b") // the second copy is answered, and corrupt is an answer
			return faultproxy.Verdict{}
		})
		_, err := c.Claim(t.Context(), key)
		wantError(t, err, ErrCorrupt)
		proxy.SetRule(nil)

		k := c.claimCall(&claim{key: key, names: c.names(newKey(t)), request: request{owner: mine, lease: time.Minute, grace: time.Second, lifetime: time.Hour}})
		k.MayHaveRun = true
		k.Script = &scripts.Script{Verb: "claim", Text: "return redis.error_reply('OOM no memory')", SHA: "0000000000000000000000000000000000000000"}
		c.run(t.Context(), k)
		wantError(t, k.Err, ErrUnknown, "maxmemory")
	})
}

// A release that does not get through leaves a lease that lapses, and is not renewed on.
func TestReleaseThatFailsEndsTheLease(t *testing.T) {
	throughProxy(t, func(t *testing.T, proxy *faultproxy.Proxy, c *Coordinator, direct redis.UniversalClient) {
		l := mustClaim(t, c, newKey(t))
		proxy.SetRule(func(faultproxy.Request) faultproxy.Verdict { return faultproxy.Verdict{Action: faultproxy.DropRequest} })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wantError(t, l.Release(ctx), ErrUnknown)
		if context.Cause(l.Context()) != context.Canceled || c.schedule.Has(l) {
			t.Errorf("the context ended with %v, or it is still renewed", context.Cause(l.Context()))
		}
		proxy.SetRule(nil)
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if r, err := c.Inspect(t.Context(), l.Key()); err != nil || r.State != StateReleased {
			t.Errorf("%v, %v", r.State, err)
		}

		proxy.SetRule(nil)
		key := newKey(t)
		_, _, err := Do(t.Context(), c, key, func(context.Context, *Lease) (int, error) {
			proxy.SetRule(func(faultproxy.Request) faultproxy.Verdict { return faultproxy.Verdict{Action: faultproxy.DropRequest} })
			c.carrier.Timeout = 200 * time.Millisecond
			return 1, nil
		})
		wantError(t, err, ErrUnknown)
		if c.schedule.Len() != 0 {
			t.Error("Do left a lease that is renewed on")
		}
	})
}
