package main

import (
	"context"
	"errors"
	"testing"
	"time"

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
	js, from := broker(t)
	drill.Run(t, rdb, payments{js, from})
}

// faltering misses a heartbeat before its first message, and is deleted behind it.
type faltering struct{ jetstream.Consumer }

func (f faltering) Messages(opts ...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	messages, err := f.Consumer.Messages(opts...)
	return &falters{MessagesContext: messages}, err
}

type falters struct {
	jetstream.MessagesContext
	calls int
}

func (f *falters) Next(opts ...jetstream.NextOpt) (jetstream.Msg, error) {
	switch f.calls++; f.calls {
	case 1:
		return nil, jetstream.ErrNoHeartbeat
	case 3:
		f.Stop()
		return nil, jetstream.ErrConsumerDeleted
	}
	return f.MessagesContext.Next(opts...)
}

// A heartbeat that is missed does not end the consumer; that it is deleted does, with an error.
func TestConsumerGoesOn(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	js, from := broker(t)
	if err := publish(t.Context(), js, "evt-1", ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	handled := false
	consumer := &Consumer{
		Coordinator: c, From: faltering{from}, JetStream: js, Dead: "dead.payments", Workers: 1,
		Handle: func(string, []byte) coordmsg.Handler {
			return func(context.Context, *coordinator.Lease) error {
				handled = true
				return nil
			}
		},
	}
	if err := consumer.Run(ctx); err == nil || !handled {
		t.Errorf("%v, handled: %t", err, handled)
	}
}

// broker starts a server, with its streams and a consumer.
func broker(t *testing.T) (jetstream.JetStream, jetstream.Consumer) {
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
	return js, from
}

func TestRun(t *testing.T) {
	if err := run(t.Context()); err != nil {
		t.Error(err)
	}
}
