package main

import (
	"errors"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

func TestPay(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const want = "receipt for 10 EUR, run 1"
	for n, replayed := range []bool{false, true, true} {
		receipt, again, err := pay(t.Context(), c, "payment-1", []byte("10 EUR"))
		if receipt != want || again != replayed || err != nil {
			t.Errorf("call %d: %q, %v, %v; want %q, %v", n, receipt, again, err, want, replayed)
		}
	}
	if _, _, err := pay(t.Context(), c, "payment-1", []byte("99 EUR")); !errors.Is(err, coordinator.ErrMismatch) {
		t.Errorf("another body under the same key: %v, want ErrMismatch", err)
	}
}
