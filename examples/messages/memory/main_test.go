package main

import (
	"context"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/onceward/coordinator/examples/messages/internal/drill"
	"github.com/redis/go-redis/v9"
)

type queue struct{ *Broker }

func (q queue) Publish(_ *testing.T, id string) { q.Send(Message{ID: id}) }

func (q queue) Consume(ctx context.Context, _ *testing.T, _ string, c *coordinator.Coordinator, handle drill.Handle, opts ...coordmsg.Option) {
	consume(ctx, q.Broker, c, 4, func(m Message) coordmsg.Handler { return handle(m.ID) }, opts...)
}

func (q queue) Parked(*testing.T) map[string]int {
	parked := map[string]int{}
	for _, d := range q.Dead() {
		parked[d.ID]++
	}
	return parked
}

func TestEachMessageTakesEffectOnce(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	drill.Run(t, rdb, queue{NewBroker(drill.Wait)})
}

func TestRun(t *testing.T) {
	if err := run(t.Context()); err != nil {
		t.Error(err)
	}
}
