package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/onceward/coordinator/examples/messages/internal/drill"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/redis/go-redis/v9"
)

type stream struct {
	rdb  redis.UniversalClient
	name string
}

func (s stream) Publish(t *testing.T, id string) {
	if err := s.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.name, Values: []any{"id", id, "body", ""}}).Err(); err != nil {
		t.Fatal(err)
	}
}

func (s stream) Consume(ctx context.Context, t *testing.T, name string, c *coordinator.Coordinator, handle drill.Handle, opts ...coordmsg.Option) {
	consumer := &Consumer{
		Redis: s.rdb, Coordinator: c, Stream: s.name, Group: "drill", Name: name, Idle: drill.Wait,
		Handle: func(id, _ string) coordmsg.Handler { return handle(id) }, Options: opts,
	}
	if err := consumer.Run(ctx); err != nil && ctx.Err() == nil {
		t.Error(err)
	}
}

func (s stream) Parked(t *testing.T) map[string]int {
	dead, err := s.rdb.XRange(t.Context(), s.name+":dead", "-", "+").Result()
	if err != nil {
		t.Error(err)
	}
	parked := map[string]int{}
	for _, m := range dead {
		parked[m.Values["id"].(string)]++
	}
	return parked
}

// On a real server: what a group does with messages that nobody acknowledges is the server's business.
func TestEachMessageTakesEffectOnce(t *testing.T) {
	redistest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	server, err := redistest.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), PoolSize: 50})
	t.Cleanup(func() { _ = rdb.Close() })
	drill.Run(t, rdb, stream{rdb, "{drill}"})
}

// Messages that fail again and again, more than a batch of them, do not keep new ones out.
func TestNewOnesGetTheirTurn(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s := stream{rdb, "{fair}"}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	var failures atomic.Int64
	handled := false
	handle := func(id string) coordmsg.Handler {
		return func(context.Context, *coordinator.Lease) error {
			if id == "new" {
				handled = true
				stop()
				return nil
			}
			<-time.After(5 * time.Millisecond) // longer than messages stay with their consumer
			failures.Add(1)
			return errors.New("not yet")
		}
	}
	for i := range 15 * perBatch {
		s.Publish(t, fmt.Sprint("bad-", i))
	}
	s.Publish(t, "new")
	consumer := &Consumer{
		Redis: rdb, Coordinator: c, Stream: s.name, Group: "fair", Name: "one", Idle: time.Millisecond,
		Handle: func(id, _ string) coordmsg.Handler { return handle(id) }, Options: []coordmsg.Option{coordmsg.MaxAttempts(1 << 20)},
	}
	if err := consumer.Run(ctx); err != nil || !handled {
		t.Errorf("%v; the new message was handled: %t, after %d failures", err, handled, failures.Load())
	}
}

func TestRun(t *testing.T) {
	if err := run(t.Context()); err != nil {
		t.Error(err)
	}
}
