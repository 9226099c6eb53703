package main

import (
	"context"
	"errors"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/onceward/coordinator/examples/messages/internal/drill"
	"github.com/redis/go-redis/v9"
)

type payments struct {
	js   jetstream.JetStream
	from jetstream.Consumer
}

func (p payments) Publish(t *testing.T, id string) {
	if err := publish(t.Context(), p.js, id, ""); err != nil {
		t.Fatal(err)
	}
}

func (p payments) Consume(ctx context.Context, t *testing.T, _ string, c *coordinator.Coordinator, handle drill.Handle, opts ...coordmsg.Option) {
	consumer := &Consumer{
		Coordinator: c, From: p.from, JetStream: p.js, Dead: "dead.payments", Workers: 4,
		Handle: func(id string, _ []byte) coordmsg.Handler { return handle(id) }, Options: opts,
	}
	if err := consumer.Run(ctx); err != nil {
		t.Error(err)
	}
}

func (p payments) Parked(t *testing.T) map[string]int {
	stream, err := p.js.Stream(t.Context(), "DEAD")
	if err != nil {
		t.Fatal(err)
	}
	parked := map[string]int{}
	for sequence := stream.CachedInfo().State.FirstSeq; ; sequence++ {
		m, err := stream.GetMsg(t.Context(), sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return parked
		}
		if err != nil {
			t.Fatal(err)
		}
		parked[m.Header.Get(idHeader)]++
	}
}

func TestEachMessageTakesEffectOnce(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	s, err := serve(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	from, err := streams(t.Context(), js, drill.Wait)
	if err != nil {
		t.Fatal(err)
	}
	drill.Run(t, rdb, payments{js, from})
}

func TestRun(t *testing.T) {
	if err := run(t.Context()); err != nil {
		t.Error(err)
	}
}
