package main

import (
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

func TestAnUncertainRunIsSettledAndNotRepeated(t *testing.T) {
	server := miniredis.RunT(t)
	now := time.Now()
	server.SetTime(now)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The server's clock decides when a lease has ended.
	retry, final := play(t.Context(), c, coordinator.Key{ID: "letter-1"}, func() { server.SetTime(now.Add(time.Minute)) })
	if !errors.Is(retry, coordinator.ErrUncertain) {
		t.Errorf("the retry after the crash: %v, want ErrUncertain", retry)
	}
	if result, ok := coordinator.ResultOf(final); !ok || string(result.Payload) != "printed, found on the tray" {
		t.Errorf("after Resolve: %v, want its payload", final)
	}
}
