package coordtest_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordtest"
)

// What follows is a user's test: a handler that credits an account is held against a worker that comes late, paused
// for longer than its lease. The naive one loses money that way; the fenced one does not.

// credit is what the handlers do under their lease: read the balance, work, write the new one.
type credit func(ctx context.Context, lease *coordinator.Lease, amount int, pause func()) error

// account is where the balance is kept; its name has the fence's tag.
func account(c *coordinator.Coordinator, key coordinator.Key) string {
	return "balance:" + c.Fence(key).Tag()
}

// naive looks whether it still has its lease, then writes. The pause comes between the two.
func naive(rdb *redis.Client, c *coordinator.Coordinator) credit {
	return func(ctx context.Context, lease *coordinator.Lease, amount int, pause func()) error {
		balance, err := rdb.Get(ctx, account(c, lease.Key())).Int()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		if err := context.Cause(lease.Context()); err != nil {
			return err
		}
		pause()
		return rdb.Set(ctx, account(c, lease.Key()), balance+amount, 0).Err()
	}
}

// fenced hands its grant to the write, which the server then refuses.
func fenced(rdb *redis.Client, c *coordinator.Coordinator) credit {
	return func(ctx context.Context, lease *coordinator.Lease, amount int, pause func()) error {
		balance, err := rdb.Get(ctx, account(c, lease.Key())).Int()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		pause()
		return c.Fence(lease.Key()).Do(ctx, lease.Grant(), "set", account(c, lease.Key()), balance+amount).Err()
	}
}

// survivesLateWorker plays it: the first worker of payment 1 is paused before it writes; its lease lapses; another takes
// over and credits; payment 2 credits as well; then the first one goes on. Both payments must be in the balance.
func survivesLateWorker(t *testing.T, handler func(*redis.Client, *coordinator.Coordinator) credit) error {
	env := coordtest.New(t)
	ctx := t.Context()
	pay := func(process *coordtest.Env, id string, amount int, pause func()) error {
		key := coordinator.Key{Scope: "credits", ID: id, Resource: "account/42"}
		lease, err := process.Coordinator.Claim(ctx, key)
		if err != nil {
			return fmt.Errorf("payment %s: %w", id, err)
		}
		if err := handler(process.Client, process.Coordinator)(ctx, lease, amount, pause); err != nil {
			return err
		}
		return lease.Complete(ctx, []byte("receipt "+strconv.Itoa(amount)))
	}
	err := pay(env, "1", 100, func() {
		env.Lapse(coordinator.Key{Scope: "credits", ID: "1", Resource: "account/42"})
		successor := env.Another()
		if err := errors.Join(pay(successor, "1", 100, func() {}), pay(successor, "2", 20, func() {})); err != nil {
			t.Fatal(err)
		}
	})
	if !errors.Is(err, coordinator.ErrStaleToken) {
		return fmt.Errorf("the late worker was not told that it is one: %v", err)
	}
	balance, err := env.Client.Get(ctx, account(env.Coordinator, coordinator.Key{Resource: "account/42"})).Int()
	if err != nil || balance != 120 {
		return fmt.Errorf("payments of 100 and 20 left a balance of %d (%v)", balance, err)
	}
	return nil
}

func TestFencedHandlerSurvivesLateWorker(t *testing.T) {
	t.Parallel()
	if err := survivesLateWorker(t, fenced); err != nil {
		t.Error(err)
	}
}

func TestNaiveHandlerDoesNot(t *testing.T) {
	t.Parallel()
	err := survivesLateWorker(t, naive)
	if err == nil {
		t.Fatal("the check passes a handler that it should not")
	}
	t.Log(err)
}
