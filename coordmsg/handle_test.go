package coordmsg_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/onceward/coordinator/coordtest"
)

// expect checks what a consumer acts on.
func expect(t testing.TB, got coordmsg.Verdict, action coordmsg.Action, reason coordmsg.Reason, replayed bool, attempt int) {
	t.Helper()
	if got.Action != action || got.Reason != reason || got.Replayed != replayed || got.Attempt != attempt {
		t.Fatalf("%v, replayed %v; want %v (%s), replayed %v, attempt %d", got, got.Replayed, action, reason, replayed, attempt)
	}
	if (got.Action == coordmsg.Retry) != (got.After > 0) {
		t.Fatalf("%v: After is %v", got, got.After)
	}
	if (got.Err == nil) != (got.Action == coordmsg.Ack) {
		t.Fatalf("%v: the error is %v", got, got.Err)
	}
}

func never(t testing.TB) coordmsg.Handler {
	return func(context.Context, *coordinator.Lease) error {
		t.Error("the handler ran")
		return nil
	}
}

func fails(err error) coordmsg.Handler {
	return func(context.Context, *coordinator.Lease) error { return err }
}

func TestDoneOnceAndForAll(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		runs := 0
		v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
			runs++
			if g, there := coordinator.GrantFrom(ctx); !there || g != lease.Grant() {
				t.Error("the context does not carry the grant")
			}
			return nil
		})
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Ack, coordmsg.Done, true, 0)
		if runs != 1 {
			t.Errorf("%d runs", runs)
		}
	})
}

func TestHandlersOwnResult(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
			return lease.Complete(ctx, []byte("invoice 7"))
		})
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
		again := coordmsg.Handle(t.Context(), c, key, never(t))
		expect(t, again, coordmsg.Ack, coordmsg.Done, true, 0)
		if string(v.Result) != "invoice 7" || string(again.Result) != "invoice 7" {
			t.Errorf("results %q, then %q", v.Result, again.Result)
		}
		// What failed for good without this package's help is parked as well.
		key = message(t)
		v = coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
			return lease.Fail(ctx, []byte("no such account"))
		})
		if v.Action != coordmsg.Park || v.Reason != coordmsg.Final || v.Replayed || string(v.Result) != "no such account" {
			t.Errorf("%v %q", v, v.Result)
		}
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Park, coordmsg.Final, true, 0)
		// One that gave the key up and says that all is well is not believed.
		v = coordmsg.Handle(t.Context(), c, message(t), func(ctx context.Context, lease *coordinator.Lease) error { return lease.Release(ctx) })
		expect(t, v, coordmsg.Retry, coordmsg.Lost, false, 1)
	})
}

func TestInProgress(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t, coordinator.WithLease(8*time.Second)), message(t)
		v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, _ *coordinator.Lease) error {
			busy := coordmsg.Handle(ctx, c, key, never(t))
			expect(t, busy, coordmsg.Retry, coordmsg.InProgress, false, 1)
			if busy.After > 9*time.Second || busy.After < 7*time.Second {
				t.Errorf("after %v, of a lease of 8 s", busy.After)
			}
			return nil
		})
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
	})
}

func TestFailuresAreTriedAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		failure := errors.New("no connection")
		for attempt, after := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			v := coordmsg.Handle(t.Context(), c, key, fails(failure))
			expect(t, v, coordmsg.Retry, coordmsg.Failed, false, attempt+1)
			if v.After != after || !errors.Is(v.Err, failure) {
				t.Errorf("after %v: %v", v.After, v.Err)
			}
		}
		expect(t, coordmsg.Handle(t.Context(), c, key, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 4)
	})
}

func TestFinal(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
			if err := lease.SaveCheckpoint(ctx, []byte("page 3")); err != nil {
				t.Error(err)
			}
			return coordinator.Final(errors.New("no such customer"))
		})
		expect(t, v, coordmsg.Park, coordmsg.Final, false, 1)
		again := coordmsg.Handle(t.Context(), c, key, never(t))
		expect(t, again, coordmsg.Park, coordmsg.Final, true, 1)
		for _, v := range []coordmsg.Verdict{v, again} {
			if v.Err.Error() != "no such customer" || string(v.Checkpoint) != "page 3" {
				t.Errorf("%v, with checkpoint %q", v, v.Checkpoint)
			}
		}
		if !errors.Is(again.Err, coordinator.ErrCompleted) {
			t.Errorf("%v is not ErrCompleted", again.Err)
		}
	})
}

func TestPoisonedByErrors(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		most := coordmsg.MaxAttempts(3)
		save := func(ctx context.Context, lease *coordinator.Lease) error {
			if err := lease.SaveCheckpoint(ctx, append(lease.Checkpoint(), 'x')); err != nil {
				t.Error(err)
			}
			return errors.New("cannot parse")
		}
		expect(t, coordmsg.Handle(t.Context(), c, key, save, most), coordmsg.Retry, coordmsg.Failed, false, 1)
		expect(t, coordmsg.Handle(t.Context(), c, key, save, most), coordmsg.Retry, coordmsg.Failed, false, 2)
		v := coordmsg.Handle(t.Context(), c, key, save, most)
		expect(t, v, coordmsg.Park, coordmsg.Poisoned, false, 3)
		again := coordmsg.Handle(t.Context(), c, key, never(t), most)
		expect(t, again, coordmsg.Park, coordmsg.Poisoned, true, 3)
		for _, v := range []coordmsg.Verdict{v, again} {
			if v.Err.Error() != "cannot parse" || string(v.Checkpoint) != "xxx" {
				t.Errorf("%v, with checkpoint %q", v, v.Checkpoint)
			}
		}
		// An operator who has mended the cause has it done after all.
		if err := c.Expire(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		expect(t, coordmsg.Handle(t.Context(), c, key, fails(nil), most), coordmsg.Ack, coordmsg.Done, false, 1)
	})
}

// A crash leaves a lease that lapses; here it is one that nobody renews or gives back.
func crash(t testing.TB, c *coordinator.Coordinator, key coordinator.Key) {
	t.Helper()
	_, err := c.Claim(t.Context(), key, coordinator.ManualRenewal(), coordinator.LeaseFor(100*time.Millisecond), coordinator.WaitUpTo(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
}

func whenFree(t testing.TB, handle func() coordmsg.Verdict) (v coordmsg.Verdict) {
	t.Helper()
	eventually(t, "the lease lapses", func() bool {
		v = handle()
		return v.Reason != coordmsg.InProgress
	})
	return v
}

func TestPoisonedByCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		crash(t, c, key)
		crash(t, c, key)
		v := whenFree(t, func() coordmsg.Verdict {
			return coordmsg.Handle(t.Context(), c, key, never(t), coordmsg.MaxAttempts(2))
		})
		expect(t, v, coordmsg.Park, coordmsg.Poisoned, false, 2) // as many as have run
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Park, coordmsg.Poisoned, true, 2)
	})
}

func TestUncertain(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		crash(t, c, key)
		v := whenFree(t, func() coordmsg.Verdict {
			return coordmsg.Handle(t.Context(), c, key, never(t), coordmsg.Claim(coordinator.QuarantineLapsed()))
		})
		expect(t, v, coordmsg.Park, coordmsg.Uncertain, false, 1)
		if err := c.Resolve(t.Context(), key, coordinator.Resolution{}); err != nil {
			t.Fatal(err)
		}
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Ack, coordmsg.Done, true, 0)
	})
}

// A handler that lost its lease and stops does not free a key that is in quarantine: what it did is not known.
func TestUncertainAfterALostLease(t *testing.T) {
	quarantine := coordmsg.Claim(coordinator.QuarantineLapsed(), coordinator.LeaseFor(300*time.Millisecond))
	for name, end := range map[string]func(ctx context.Context) error{
		"it stops":  func(ctx context.Context) error { return ctx.Err() },
		"it panics": func(context.Context) error { panic("bad bytes") },
	} {
		t.Run(name, func(t *testing.T) {
			env, key := coordtest.New(t), message(t)
			func() {
				defer func() { _ = recover() }()
				v := coordmsg.Handle(t.Context(), env.Coordinator, key, func(ctx context.Context, _ *coordinator.Lease) error {
					env.Lapse(key)
					<-ctx.Done()
					return end(ctx)
				}, quarantine)
				expect(t, v, coordmsg.Retry, coordmsg.Lost, false, 1)
			}()
			v := coordmsg.Handle(t.Context(), env.Coordinator, key, never(t), quarantine)
			expect(t, v, coordmsg.Park, coordmsg.Uncertain, false, 1)
		})
	}
}

func TestRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		body := func(b string) coordmsg.Option { return coordmsg.Claim(coordinator.Fingerprint([]byte(b))) }
		expect(t, coordmsg.Handle(t.Context(), c, key, fails(nil), body("a")), coordmsg.Ack, coordmsg.Done, false, 1)
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t), body("b")), coordmsg.Park, coordmsg.Reused, false, 0)
		old := coordmsg.Claim(coordinator.IssuedAt(time.Now().Add(-40 * 24 * time.Hour)))
		expect(t, coordmsg.Handle(t.Context(), c, message(t), never(t), old), coordmsg.Park, coordmsg.Expired, false, 0)
		expect(t, coordmsg.Handle(t.Context(), c, coordinator.Key{}, never(t)), coordmsg.Park, coordmsg.Invalid, false, 0)
		for name, opt := range map[string]coordmsg.Option{
			"none": nil, "attempts": coordmsg.MaxAttempts(0), "after": coordmsg.RetryAfter(nil), "workers": coordmsg.Workers(0),
		} {
			v := coordmsg.Handle(t.Context(), c, message(t), never(t), opt)
			expect(t, v, coordmsg.Retry, coordmsg.Misused, false, 0)
			if !errors.Is(v.Err, coordinator.ErrInvalid) {
				t.Errorf("%s: %v", name, v.Err)
			}
		}
		expect(t, coordmsg.Handle(t.Context(), c, message(t), nil), coordmsg.Retry, coordmsg.Misused, false, 0)
	})
}

// An option that cannot be used is refused for every message: it must not send a queue to the dead letters. What only one message
// has wrong parks that one.
func TestWhoIsToBlame(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		claim := func(opts ...coordinator.ClaimOption) coordmsg.Option { return coordmsg.Claim(opts...) }
		for name, one := range map[string]struct {
			opts   []coordmsg.Option
			reason coordmsg.Reason
			says   string
		}{
			"visible too long": {[]coordmsg.Option{coordmsg.VisibilityTimeout(12 * time.Hour)}, coordmsg.Misused, "raise WithMaxLifetime"},
			"never visible":    {[]coordmsg.Option{coordmsg.VisibilityTimeout(0)}, coordmsg.Misused, "VisibilityTimeout takes"},
			"a longer lease": {
				[]coordmsg.Option{coordmsg.VisibilityTimeout(10 * time.Second), claim(coordinator.LeaseFor(30 * time.Second))}, coordmsg.Misused, "LeaseFor",
			},
			"no fingerprint": {[]coordmsg.Option{claim(coordinator.Fingerprint(nil))}, coordmsg.Misused, "Fingerprint"},
			"of the future":  {[]coordmsg.Option{claim(coordinator.IssuedAt(time.Now().Add(2 * time.Hour)))}, coordmsg.Invalid, "IssuedAt"},
			"a future token": {[]coordmsg.Option{claim(coordinator.MinToken(1 << 52))}, coordmsg.Invalid, "MinToken"},
		} {
			key := message(t)
			for _, v := range []coordmsg.Verdict{
				coordmsg.Handle(t.Context(), c, key, never(t), one.opts...),
				coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{{Key: key, Run: never(t)}}, one.opts...)[0],
			} {
				action := coordmsg.Retry
				if one.reason == coordmsg.Invalid {
					action = coordmsg.Park
				}
				expect(t, v, action, one.reason, false, 0)
				if !errors.Is(v.Err, coordinator.ErrInvalid) || !strings.Contains(v.Err.Error(), one.says) {
					t.Errorf("%s: %v", name, v.Err)
				}
			}
		}
	})
}

func TestCorrupt(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		expect(t, coordmsg.Handle(t.Context(), c, key, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 1)
		rdb := p.client()
		defer func() { _ = rdb.Close() }()
		spoil := func(ctx context.Context, node redis.UniversalClient) error {
			for keys := node.Scan(ctx, 0, "*", 1000).Iterator(); keys.Next(ctx); {
				if strings.Contains(keys.Val(), key.ID) {
					if err := node.Set(ctx, keys.Val(), "rubbish", 0).Err(); err != nil {
						return err
					}
				}
			}
			return nil
		}
		var err error
		if cluster, ok := rdb.(*redis.ClusterClient); ok {
			err = cluster.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error { return spoil(ctx, node) })
		} else {
			err = spoil(t.Context(), rdb)
		}
		if err != nil {
			t.Fatal(err)
		}
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Park, coordmsg.Corrupt, false, 0)
	})
}

func TestRedisAway(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t, coordinator.WithTimeout(time.Second)), message(t)
		p.kill(t)
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Retry, coordmsg.Unavailable, false, 0)
	})
}

// Redis goes away while the handler works: the work is done, so its outcome is kept until Redis is back.
func TestRedisAwayForAMoment(t *testing.T) {
	p := onFake(t)
	c, key := p.coordinator(t, coordinator.WithTimeout(200*time.Millisecond), coordinator.WithLease(20*time.Second)), message(t)
	working, away := make(chan struct{}), make(chan struct{})
	verdict := make(chan coordmsg.Verdict)
	go func() {
		verdict <- coordmsg.Handle(t.Context(), c, key, func(context.Context, *coordinator.Lease) error {
			close(working)
			<-away
			return nil
		})
	}()
	<-working
	p.kill(t)
	close(away)
	select {
	case v := <-verdict:
		t.Fatalf("%v, while Redis was away", v)
	case <-time.After(700 * time.Millisecond): // longer than a call takes
	}
	p.back(t)
	expect(t, <-verdict, coordmsg.Ack, coordmsg.Done, false, 1)
	expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Ack, coordmsg.Done, true, 0)
}

// It stays away: the verdict comes when the lease ends, not never.
func TestRedisStaysAway(t *testing.T) {
	p := onFake(t)
	c, key := p.coordinator(t, coordinator.WithTimeout(200*time.Millisecond), coordinator.WithLease(time.Second)), message(t)
	v := coordmsg.Handle(t.Context(), c, key, func(context.Context, *coordinator.Lease) error {
		p.kill(t)
		return nil
	})
	if v.Action != coordmsg.Retry || v.Attempt != 1 || v.Err == nil {
		t.Fatalf("%v", v)
	}
}

// A consumer is shut down while Redis cannot take the outcome: it does not wait, and the outcome is stored all the same, or the key
// were in progress for as long as its lease is renewed.
func TestRedisRefusesAtShutdown(t *testing.T) {
	server := miniredis.RunT(t)
	c := coordinatorOn(t, redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1}),
		coordinator.WithLease(6*time.Second), coordinator.WithTimeout(300*time.Millisecond))
	for name, result := range map[string]error{"done": nil, "final": coordinator.Final(errors.New("no such account"))} {
		t.Run(name, func(t *testing.T) {
			key := message(t)
			ctx, shutdown := context.WithCancel(t.Context())
			v := coordmsg.Handle(ctx, c, key, func(context.Context, *coordinator.Lease) error {
				server.SetError("OOM command not allowed when used memory > 'maxmemory'.")
				shutdown()
				return result
			})
			server.SetError("")
			expect(t, v, coordmsg.Retry, coordmsg.Unavailable, false, 1)
			eventually(t, "the outcome is stored", func() bool {
				v = coordmsg.Handle(t.Context(), c, key, never(t))
				return v.Reason != coordmsg.InProgress
			})
			if !v.Replayed || v.Action == coordmsg.Retry {
				t.Errorf("%v", v)
			}
		})
	}
}

// What will never be stored is not renewed up to its maximum lifetime.
func TestOutcomeThatCannotBeStored(t *testing.T) {
	server := miniredis.RunT(t)
	c := coordinatorOn(t, redis.NewClient(&redis.Options{Addr: server.Addr()}))
	var lease *coordinator.Lease
	v := coordmsg.Handle(t.Context(), c, message(t), func(_ context.Context, l *coordinator.Lease) error {
		lease = l
		for _, name := range server.Keys() {
			if err := server.Set(name, "rubbish"); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	expect(t, v, coordmsg.Park, coordmsg.Corrupt, false, 1)
	if lease.Context().Err() == nil {
		t.Error("the lease goes on")
	}
}

// A claim whose reply is lost does not keep the next delivery out.
func TestLostReply(t *testing.T) {
	env, key := coordtest.New(t), message(t)
	env.DropNext("claim")
	v := coordmsg.Handle(t.Context(), env.Coordinator, key, never(t))
	expect(t, v, coordmsg.Retry, coordmsg.Unavailable, false, 0)
	if !errors.Is(v.Err, coordinator.ErrUnknown) {
		t.Errorf("%v", v.Err)
	}
	v = whenFree(t, func() coordmsg.Verdict { return coordmsg.Handle(t.Context(), env.Coordinator, key, fails(nil)) })
	expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
}

// Claims whose replies are lost are no attempts: however many there are, the message is not parked before its handler has run.
func TestLostRepliesDoNotPoison(t *testing.T) {
	env, key := coordtest.New(t), message(t)
	for range 3 {
		env.DropNext("claim")
		coordmsg.Handle(t.Context(), env.Coordinator, key, never(t), coordmsg.MaxAttempts(2))
		eventually(t, "it is given back", func() bool { return env.Record(key).State == coordinator.StateReleased })
	}
	expect(t, coordmsg.Handle(t.Context(), env.Coordinator, key, fails(nil), coordmsg.MaxAttempts(2)), coordmsg.Ack, coordmsg.Done, false, 1)
}

// hung is a Redis that takes connections and says nothing.
func hung(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
	}()
	return listener.Addr().String()
}

// Giving back what may have been claimed does not hold up the verdicts, nor what was granted beside it.
func TestGivingBackIsNotWaitedFor(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: hung(t), MaxRetries: -1})
	c := coordinatorOn(t, rdb, coordinator.WithTimeout(500*time.Millisecond))
	begun := time.Now()
	expect(t, coordmsg.Handle(t.Context(), c, message(t), never(t)), coordmsg.Retry, coordmsg.Unavailable, false, 0)
	batch := make([]coordmsg.Message, 80)
	for i := range batch {
		batch[i] = coordmsg.Message{Key: message(t), Run: never(t)}
	}
	for _, v := range coordmsg.HandleBatch(t.Context(), c, batch) {
		expect(t, v, coordmsg.Retry, coordmsg.Unavailable, false, 0)
	}
	if took := time.Since(begun); took > 2*time.Second { // 500ms twice, and no second for each give-back
		t.Errorf("it took %v", took)
	}
}

// A consumer that is shut down does not wait for Redis, and what it broke off is not the message's fault.
func TestShutdown(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		ctx, shutdown := context.WithCancel(t.Context())
		v := coordmsg.Handle(ctx, c, key, func(ctx context.Context, _ *coordinator.Lease) error {
			shutdown()
			<-ctx.Done()
			return ctx.Err()
		}, coordmsg.MaxAttempts(1))
		expect(t, v, coordmsg.Retry, coordmsg.Failed, false, 1)
		// The key is free at once, and the last attempt that was allowed is made again. One that has finished when the end comes is done.
		ctx, shutdown = context.WithCancel(t.Context())
		v = coordmsg.Handle(ctx, c, key, func(context.Context, *coordinator.Lease) error {
			shutdown()
			return nil
		}, coordmsg.MaxAttempts(1))
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
	})
}

func TestPanicFreesTheKey(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t), message(t)
		func() {
			defer func() {
				if recover() != "bad bytes" {
					t.Error("the panic did not go on")
				}
			}()
			coordmsg.Handle(t.Context(), c, key, func(context.Context, *coordinator.Lease) error { panic("bad bytes") })
		}()
		expect(t, coordmsg.Handle(t.Context(), c, key, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 2)
	})
}

// A handler whose lease is gone is told at the next renewal.
func TestHandlerHearsOfItsLostLease(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t, coordinator.WithLease(500*time.Millisecond)), message(t)
		v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, _ *coordinator.Lease) error {
			if err := c.Expire(t.Context(), key); err != nil {
				t.Error(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
				t.Error("the context does not end")
			}
			return context.Cause(ctx)
		})
		expect(t, v, coordmsg.Retry, coordmsg.Lost, false, 1)
		if !errors.Is(v.Err, coordinator.ErrLeaseLost) {
			t.Errorf("the handler was told %v", v.Err)
		}
	})
}

// A handler that outlives its message's visibility timeout is told, and fenced; the next delivery begins at once.
func TestVisibilityTimeout(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t, coordinator.WithLease(500*time.Millisecond)), message(t)
		visible := coordmsg.VisibilityTimeout(time.Second)
		sink := func(ctx context.Context, g coordinator.Grant, text string) error {
			fence := c.Fence(key)
			return fence.Do(ctx, g, "APPEND", "sink:"+fence.Tag(), text).Err()
		}
		var late error
		slow := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
				t.Error("the context does not end")
			}
			if !errors.Is(context.Cause(ctx), coordinator.ErrLeaseLost) {
				t.Errorf("the context ended by %v", context.Cause(ctx))
			}
			v := whenFree(t, func() coordmsg.Verdict {
				return coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
					return sink(ctx, lease.Grant(), "second")
				}, visible)
			})
			expect(t, v, coordmsg.Ack, coordmsg.Done, false, 2)
			late = sink(t.Context(), lease.Grant(), "first")
			return late
		}, visible)
		expect(t, slow, coordmsg.Retry, coordmsg.Lost, false, 1)
		if !errors.Is(late, coordinator.ErrStaleToken) {
			t.Errorf("the late write: %v", late)
		}
		// One that does not ask its fence and says that it is done is not believed either: the message is as the other has left it.
		expect(t, coordmsg.Handle(t.Context(), c, key, never(t)), coordmsg.Ack, coordmsg.Done, true, 0)
		rdb := p.client()
		defer func() { _ = rdb.Close() }()
		if text, err := rdb.Get(t.Context(), "sink:"+c.Fence(key).Tag()).Result(); text != "second" || err != nil {
			t.Errorf("the sink has %q, %v", text, err)
		}
	})
}

// The visibility timeout counts from the call, as the broker's does, and not from the grant that the call has waited for.
func TestVisibilityTimeoutCountsFromTheCall(t *testing.T) {
	p := onFake(t)
	c := p.coordinator(t)
	holder := func(key coordinator.Key, d time.Duration) {
		lease, err := c.Claim(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(d, func() { _ = lease.Release(context.Background()) })
	}
	wait := coordmsg.Claim(coordinator.WaitUpTo(10 * time.Second))
	key := message(t)
	holder(key, 1500*time.Millisecond)
	called := time.Now()
	v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, _ *coordinator.Lease) error {
		<-ctx.Done()
		if took := time.Since(called); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("the context ended %v after the call", took)
		}
		if !errors.Is(context.Cause(ctx), coordinator.ErrLeaseLost) {
			t.Errorf("it ended by %v", context.Cause(ctx))
		}
		return ctx.Err()
	}, wait, coordmsg.VisibilityTimeout(2*time.Second))
	expect(t, v, coordmsg.Retry, coordmsg.Lost, false, 2)

	for _, batch := range []bool{false, true} {
		key = message(t)
		holder(key, time.Second)
		opts := []coordmsg.Option{wait, coordmsg.VisibilityTimeout(200 * time.Millisecond)}
		if batch {
			v = coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{{Key: key, Run: never(t)}}, opts...)[0]
		} else {
			v = coordmsg.Handle(t.Context(), c, key, never(t), opts...)
		}
		expect(t, v, coordmsg.Retry, coordmsg.Lost, false, 1)
		v = whenFree(t, func() coordmsg.Verdict { return coordmsg.Handle(t.Context(), c, key, fails(nil)) })
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 2)
	}
}

// A long handler is renewed, so that its key is not given away.
func TestLongHandlersAreRenewed(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c, key := p.coordinator(t, coordinator.WithLease(2*time.Second)), message(t)
		v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
			begun := lease.Deadline()
			eventually(t, "two renewals", func() bool { return lease.Deadline().Sub(begun) > time.Second })
			expect(t, coordmsg.Handle(ctx, c, key, never(t)), coordmsg.Retry, coordmsg.InProgress, false, 1)
			return ctx.Err()
		})
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
	})
}

func TestWhatIsTooLargeToBeStored(t *testing.T) {
	p := onFake(t)
	c, key := p.coordinator(t, coordinator.WithMaxPayload(2048)), message(t)
	checkpoint := bytes.Repeat([]byte("c"), 2000)
	v := coordmsg.Handle(t.Context(), c, key, func(ctx context.Context, lease *coordinator.Lease) error {
		if err := lease.SaveCheckpoint(ctx, checkpoint); err != nil {
			t.Error(err)
		}
		return coordinator.Final(errors.New(strings.Repeat("é", 4000)))
	})
	expect(t, v, coordmsg.Park, coordmsg.Final, false, 1)
	if !bytes.Equal(v.Checkpoint, checkpoint) || len(v.Err.Error()) != 8000 {
		t.Errorf("the verdict has %d bytes of the checkpoint and %d of the error", len(v.Checkpoint), len(v.Err.Error()))
	}
	again := coordmsg.Handle(t.Context(), c, key, never(t))
	expect(t, again, coordmsg.Park, coordmsg.Final, true, 1)
	if again.Checkpoint != nil || !strings.Contains(again.Err.Error(), "too large") {
		t.Errorf("%v", again)
	}
}
