package coordtest_test

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordtest"
)

// A worker is paused for longer than its lease; its successor must be the only one whose write counts.
func ExampleEnv_Lapse() {
	_ = func(t *testing.T) {
		env := coordtest.New(t)
		key := coordinator.Key{Scope: "credits", ID: "payment-1"}

		late, err := env.Coordinator.Claim(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		env.Lapse(key)

		successor := env.Another()
		if _, err := successor.Coordinator.Claim(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		fence := env.Coordinator.Fence(key)
		err = fence.Do(t.Context(), late.Grant(), "incrby", "balance:"+fence.Tag(), 100).Err()
		if !errors.Is(err, coordinator.ErrStaleToken) {
			t.Errorf("the late worker's write: %v", err)
		}
	}
}

// A completion whose reply is lost has taken place; the same call again learns that.
func ExampleEnv_DropNext() {
	_ = func(t *testing.T) {
		env := coordtest.New(t)
		lease, err := env.Coordinator.Claim(t.Context(), coordinator.Key{ID: "payment-1"})
		if err != nil {
			t.Fatal(err)
		}
		env.DropNext("complete")
		if err := lease.Complete(t.Context(), []byte("receipt")); !errors.Is(err, coordinator.ErrUnknown) {
			t.Errorf("without a reply: %v", err)
		}
		if err := lease.Complete(t.Context(), []byte("receipt")); err != nil {
			t.Errorf("asked again: %v", err)
		}
	}
}

// In go test, with a server of one's own.
func ExampleRunConformance() {
	_ = func(t *testing.T) {
		coordtest.RunConformance(t, func(t *testing.T) redis.UniversalClient {
			rdb := redis.NewClient(&redis.Options{Addr: "redis.internal:6379"})
			t.Cleanup(func() { _ = rdb.Close() })
			return rdb
		})
	}
}
