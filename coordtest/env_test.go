package coordtest_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordtest"
)

var key = coordinator.Key{Scope: "credits", ID: "payment-1"}

func claim(t *testing.T, env *coordtest.Env, key coordinator.Key, opts ...coordinator.ClaimOption) *coordinator.Lease {
	t.Helper()
	lease, err := env.Coordinator.Claim(t.Context(), key, opts...)
	if err != nil {
		t.Fatalf("Claim: %v", err)
	}
	return lease
}

func wantError(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}

func TestAdvanceMovesLeasesAndTTLs(t *testing.T) {
	t.Parallel()
	env := coordtest.New(t, coordinator.WithLease(30*time.Second), coordinator.WithRetention(2*time.Hour))
	began := env.Now()
	lease := claim(t, env, key)
	if r := env.Record(key); r.State != coordinator.StateInProgress || r.LeaseRemaining != 33*time.Second || r.RetentionRemaining != 2*time.Hour+33*time.Second {
		t.Errorf("at first: %+v", r)
	}
	env.Advance(32 * time.Second)
	if r := env.Record(key); r.LeaseRemaining != time.Second || r.RetentionRemaining != 2*time.Hour+time.Second {
		t.Errorf("after 32s: %+v", r)
	}
	env.Advance(time.Second)
	if r := env.Record(key); r.State != coordinator.StateLapsed {
		t.Errorf("after 33s: %+v", r)
	}
	if lease.Context().Err() != nil {
		t.Error("the holder has learned of it without asking")
	}
	wantError(t, "renewal", lease.Renew(t.Context()), coordinator.ErrLeaseLost)
	if lease.Context().Err() == nil {
		t.Error("the holder has not learned of it at its renewal")
	}
	env.Advance(2 * time.Hour)
	if r := env.Record(key); r.State != coordinator.StateAbsent || len(env.Stored()) != 0 {
		t.Errorf("after the retention: %+v, %v", r, env.Stored())
	}
	if moved := env.Now().Sub(began); moved != 2*time.Hour+33*time.Second {
		t.Errorf("the clock moved by %v", moved)
	}
	env.Advance(-time.Hour)
	if moved := env.Now().Sub(began); moved != time.Hour+33*time.Second {
		t.Errorf("stepped back, the clock is %v further", moved)
	}
}

func TestClockStandsStillByItself(t *testing.T) {
	t.Parallel()
	env := coordtest.New(t)
	claim(t, env, key)
	time.Sleep(20 * time.Millisecond)
	if r := env.Record(key); r.LeaseRemaining != 33*time.Second {
		t.Errorf("20ms later: %+v", r)
	}
}

func TestAdvanceWakesWaiters(t *testing.T) {
	t.Parallel()
	for _, lapse := range []func(*coordtest.Env){
		func(env *coordtest.Env) { env.Advance(time.Minute) },
		func(env *coordtest.Env) { env.Lapse(key) },
	} {
		env := coordtest.New(t)
		claim(t, env, key)
		began := time.Now()
		got := make(chan error, 1)
		go func() {
			_, err := env.Another().Coordinator.Claim(context.Background(), key, coordinator.WaitUpTo(time.Minute))
			got <- err
		}()
		time.Sleep(50 * time.Millisecond) // it listens by then; were it slower, it would look again within 2s
		lapse(env)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v to notice", took)
		}
	}
}

func TestLapseIsOfOneKey(t *testing.T) {
	t.Parallel()
	for _, resource := range []string{"", "account/42"} {
		env := coordtest.New(t)
		here, there := key, coordinator.Key{ID: "another"}
		here.Resource = resource
		late := claim(t, env, here)
		other := claim(t, env, there)
		env.Lapse(here)
		if r := env.Record(here); r.State != coordinator.StateLapsed {
			t.Errorf("resource %q: it is %+v", resource, r)
		}
		if r := env.Record(there); r.State != coordinator.StateInProgress {
			t.Errorf("the other one is %+v", r)
		}
		if late.Context().Err() != nil {
			t.Error("the holder knows already")
		}
		next := claim(t, env.Another(), here)
		if next.Attempt() != 2 || next.Token() <= late.Token() {
			t.Errorf("attempt %d, token %d after %d", next.Attempt(), next.Token(), late.Token())
		}
		wantError(t, "the late completion", late.Complete(t.Context(), nil), coordinator.ErrStaleToken)
		for what, err := range map[string]error{"complete": next.Complete(t.Context(), []byte("done")), "renew": other.Renew(t.Context())} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

func TestFailNext(t *testing.T) {
	t.Parallel()
	env := coordtest.New(t)
	env.FailNext("claim")
	_, err := env.Coordinator.Claim(t.Context(), key)
	wantError(t, "claim", err, coordinator.ErrUnavailable)
	wantError(t, "claim", err, coordtest.ErrFault)
	if r := env.Record(key); r.State != coordinator.StateAbsent {
		t.Errorf("a claim that failed left %+v", r)
	}
	lease := claim(t, env, key)
	fence := env.Coordinator.Fence(key)
	name := "v" + fence.Tag()
	for op, call := range map[string]func() error{
		"complete":   func() error { return lease.Complete(t.Context(), nil) },
		"checkpoint": func() error { return lease.SaveCheckpoint(t.Context(), nil) },
		"release":    func() error { return lease.Release(t.Context()) },
		"expire":     func() error { return env.Coordinator.Expire(t.Context(), key) },
		"inspect":    func() error { _, err := env.Coordinator.Inspect(t.Context(), key); return err },
		"fence_do":   func() error { return fence.Do(t.Context(), lease.Grant(), "set", name, "1").Err() },
		"fence_eval": func() error {
			return fence.Eval(t.Context(), lease.Grant(), "return redis.call('set', KEYS[1], 1)", []string{name}).Err()
		},
		"load": func() error { return env.Coordinator.Load(t.Context()) },
		"claim_many": func() error {
			return env.Coordinator.ClaimMany(t.Context(), []coordinator.ClaimRequest{{Key: coordinator.Key{ID: "many"}}})[0].Err
		},
	} {
		env.FailNext(op)
		err := call()
		wantError(t, op, err, coordinator.ErrUnavailable)
		wantError(t, op, err, coordtest.ErrFault)
		if errors.Is(err, coordinator.ErrUnknown) {
			t.Errorf("%s: %v; but it was not sent", op, err)
		}
	}
	if r := env.Record(key); r.State != coordinator.StateInProgress || len(env.Stored()) != 1 {
		t.Errorf("calls that failed left %+v, %v", r, env.Stored())
	}
	if err := lease.Complete(t.Context(), []byte("done")); err != nil {
		t.Errorf("the call after it: %v", err)
	}
}

func TestDropNext(t *testing.T) {
	t.Parallel()
	env := coordtest.New(t)
	began := time.Now()
	env.DropNext("claim")
	_, err := env.Coordinator.Claim(t.Context(), key)
	var unknown *coordinator.UnknownError
	if !errors.As(err, &unknown) || !errors.Is(err, coordtest.ErrFault) {
		t.Fatalf("a claim whose reply was dropped: %v", err)
	}
	if r := env.Record(key); r.State != coordinator.StateInProgress {
		t.Errorf("the server did not run it: %+v", r)
	}
	lease := claim(t, env, key, coordinator.Owner(unknown.Owner))
	if lease.Attempt() != 1 {
		t.Errorf("asked again with its owner it got attempt %d", lease.Attempt())
	}
	fence := env.Coordinator.Fence(key)
	env.DropNext("fence_do")
	wantError(t, "fence_do", fence.Do(t.Context(), lease.Grant(), "incr", "n"+fence.Tag()).Err(), coordinator.ErrUnknown)
	env.DropNext("fence_eval")
	wantError(t, "fence_eval", fence.Eval(t.Context(), lease.Grant(), "return redis.call('incr', KEYS[1])", []string{"n" + fence.Tag()}).Err(), coordinator.ErrUnknown)
	if n := env.Client.Get(t.Context(), "n"+fence.Tag()).Val(); n != "2" {
		t.Errorf("the fenced writes took place %s times", n)
	}
	env.DropNext("complete")
	wantError(t, "complete", lease.Complete(t.Context(), []byte("done")), coordinator.ErrUnknown)
	if r := env.Record(key); r.State != coordinator.StateCompleted {
		t.Errorf("the server did not run it: %+v", r)
	}
	if err := lease.Complete(t.Context(), []byte("done")); err != nil {
		t.Errorf("again: %v", err)
	}
	env.DropNext("expire")
	wantError(t, "expire", env.Coordinator.Expire(t.Context(), key), coordinator.ErrUnknown)
	if r := env.Record(key); r.State != coordinator.StateReleased {
		t.Errorf("the server did not run it: %+v", r)
	}
	env.DropNext("claim_many")
	many := env.Coordinator.ClaimMany(t.Context(), []coordinator.ClaimRequest{{Key: coordinator.Key{ID: "a"}}, {Key: coordinator.Key{ID: "b"}}})
	for _, r := range many {
		wantError(t, "claim_many", r.Err, coordinator.ErrUnknown)
	}
	if r := env.Record(coordinator.Key{ID: "b"}); r.State != coordinator.StateInProgress {
		t.Errorf("the server did not run it: %+v", r)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v: unknown outcomes should come at once", took)
	}
}

func TestFaultsAreOfOneProcess(t *testing.T) {
	t.Parallel()
	here := coordtest.New(t)
	there := here.Another()
	here.FailNext("claim")
	claim(t, there, key)
	_, err := here.Coordinator.Claim(t.Context(), key)
	wantError(t, "claim", err, coordtest.ErrFault)
}

func TestStored(t *testing.T) {
	t.Parallel()
	env := coordtest.New(t, coordinator.WithPrefix("app"))
	resourceful := coordinator.Key{Scope: "s", ID: "1", Resource: "account/42"}
	lease := claim(t, env, resourceful)
	tag := env.Coordinator.Fence(resourceful).Tag()
	env.Client.HSet(t.Context(), "hash"+tag, "f", 1)
	stored := env.Stored()
	if len(stored) != 3 {
		t.Fatalf("stored: %v", stored)
	}
	for i, name := range []string{"app:" + tag + ":f", "app:" + tag + ":r:s:1", "hash" + tag} {
		if stored[i].Name != name {
			t.Errorf("entry %d is %q, not %q", i, stored[i].Name, name)
		}
	}
	if e := stored[1]; e.TTL <= 24*time.Hour || e.Type != "string" || !strings.Contains(e.Value, lease.Grant().Owner) {
		t.Errorf("the record is %+v", e)
	}
	if e := stored[2]; e.TTL != 0 || e.Type != "hash" || e.Value != "" {
		t.Errorf("the user's own is %+v", e)
	}
	env.Flush()
	if stored := env.Stored(); len(stored) != 0 {
		t.Errorf("after a flush: %v", stored)
	}
}

// In a bubble the holder lives by the same clock as the server.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := coordtest.NewInBubble(t, coordinator.WithLease(30*time.Second), coordinator.WithMaxLifetime(10*time.Minute))
		lease := claim(t, env, key)
		env.Advance(5 * time.Minute)
		if r := env.Record(key); lease.Context().Err() != nil || r.State != coordinator.StateInProgress {
			t.Errorf("after 5 of 10 minutes: %v, %+v", context.Cause(lease.Context()), r)
		}
		env.Advance(5 * time.Minute)
		if cause := context.Cause(lease.Context()); cause != coordinator.ErrLeaseLost {
			t.Errorf("after 10 minutes: %v", cause)
		}
		if r := env.Record(key); r.State != coordinator.StateLapsed {
			t.Errorf("after 10 minutes: %+v", r)
		}
		env.Advance(25 * time.Hour)
		if n := len(env.Stored()); n != 0 {
			t.Errorf("%d keys after the retention", n)
		}
		if !env.Now().Equal(time.Now()) {
			t.Errorf("the server's time is %v, the bubble's %v", env.Now(), time.Now())
		}
	})
}

func TestBubbleLapseAndRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := coordtest.NewInBubble(t)
		lease := claim(t, env, key)
		env.Lapse(key)
		if lease.Context().Err() != nil {
			t.Error("the holder knows already")
		}
		env.Advance(10 * time.Second)
		if cause := context.Cause(lease.Context()); cause != coordinator.ErrLeaseLost {
			t.Errorf("after a renewal: %v", cause)
		}
		second := coordinator.Key{ID: "2"}
		lease = claim(t, env, second)
		for range 3 {
			env.FailNext("renewal")
		}
		env.Advance(20 * time.Second)
		if lease.Context().Err() != nil {
			t.Errorf("three renewals that failed cost the lease: %v", context.Cause(lease.Context()))
		}
	})
}

func TestNothingIsLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		t.Run("", func(t *testing.T) {
			env := coordtest.New(t)
			claim(t, env, key)
			waiting := make(chan error, 1)
			other := env.Another()
			go func() {
				_, err := other.Coordinator.Await(context.Background(), key, nil)
				waiting <- err
			}()
			time.Sleep(10 * time.Millisecond)
			t.Cleanup(func() {
				_ = other.Coordinator.Close()
				wantError(t, "await", <-waiting, coordinator.ErrClosed)
			})
		})
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
}
