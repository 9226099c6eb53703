package main

import (
	"context"
	"errors"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

func start(t *testing.T) (*coordinator.Coordinator, *redis.Client) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), rdb.Close() })
	return c, rdb
}

func TestTheNextAttemptGoesOnAtTheCheckpoint(t *testing.T) {
	c, rdb := start(t)
	key := coordinator.Key{Scope: "copy", ID: "monday", Resource: "table/orders"}
	if copied, err := work(t.Context(), c, key, 4); copied != 4 || !errors.Is(err, errCrash) {
		t.Fatalf("first attempt: %d rows, %v; want 4, errCrash", copied, err)
	}
	if copied, err := work(t.Context(), c, key, rows); copied != 6 || err != nil {
		t.Fatalf("second attempt: %d rows, %v; want the other 6", copied, err)
	}
	_, err := work(t.Context(), c, key, rows)
	if result, ok := coordinator.ResultOf(err); !ok || string(result.Payload) != "10 rows" {
		t.Errorf("third attempt: %v, want the stored result", err)
	}
	if total, err := rdb.Get(t.Context(), "rows:"+c.Fence(key).Tag()).Int(); total != rows || err != nil {
		t.Errorf("the fenced counter is %d, %v; want %d", total, err, rows)
	}
}

func TestALateWorkerWritesNothing(t *testing.T) {
	c, rdb := start(t)
	ctx := context.Background()
	key := coordinator.Key{Scope: "copy", ID: "tuesday", Resource: "table/orders"}
	late, err := c.Claim(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody takes the key from a worker that seems to hang.
	if err := c.Expire(ctx, key); err != nil {
		t.Fatal(err)
	}
	if copied, err := work(ctx, c, key, rows); copied != rows || err != nil {
		t.Fatalf("the successor: %d rows, %v", copied, err)
	}
	fence := c.Fence(key)
	err = fence.Do(ctx, late.Grant(), "set", "rows:"+fence.Tag(), 1).Err()
	if !errors.Is(err, coordinator.ErrStaleToken) {
		t.Errorf("the late worker's write: %v, want ErrStaleToken", err)
	}
	if total, _ := rdb.Get(ctx, "rows:"+fence.Tag()).Int(); total != rows {
		t.Errorf("the fenced counter is %d, want %d", total, rows)
	}
}
