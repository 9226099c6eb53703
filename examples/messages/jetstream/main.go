// Jetstream books payments from a NATS JetStream stream, with a server in this process. Each payment is published three times, by
// a producer that does not use JetStream's own deduplication, and booked once.
//
//	go run ./examples/messages/jetstream
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/redis/go-redis/v9"
)

// idHeader is the producer's name for a message, the same each time it publishes it.
const idHeader = "Event-Id"

// Consumer takes messages from a durable pull consumer, which any number of processes share.
type Consumer struct {
	Coordinator *coordinator.Coordinator
	From        jetstream.Consumer
	JetStream   jetstream.JetStream // for the dead ones
	Dead        string              // their subject
	Workers     int
	Handle      func(id string, body []byte) coordmsg.Handler
	Options     []coordmsg.Option
}

// Run handles messages until ctx ends.
func (c *Consumer) Run(ctx context.Context) error {
	messages, err := c.From.Messages(jetstream.PullMaxMessages(c.Workers))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	var all sync.WaitGroup
	defer all.Wait()
	turns := make(chan struct{}, c.Workers)
	for {
		m, err := messages.Next()
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return err
		}
		if err != nil { // a heartbeat was missed, for instance; what ends the consumer closes the iterator
			log.Printf("next message: %v", err)
			continue
		}
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			key := coordinator.Key{Scope: "payments", ID: m.Headers().Get(idHeader)}
			c.settle(ctx, m, coordmsg.Handle(ctx, c.Coordinator, key, c.Handle(key.ID, m.Data()), c.Options...))
		})
	}
}

// settle does what the verdict says. What does not arrive at the server leaves the message to be delivered again.
func (c *Consumer) settle(ctx context.Context, m jetstream.Msg, v coordmsg.Verdict) {
	var err error
	switch v.Action {
	case coordmsg.Ack:
		err = m.Ack()
	case coordmsg.Retry:
		err = m.NakWithDelay(v.After)
	case coordmsg.Park:
		dead := &nats.Msg{Subject: c.Dead, Data: m.Data(), Header: nats.Header{
			idHeader: m.Headers().Values(idHeader), "Reason": {string(v.Reason)}, "Attempts": {fmt.Sprint(v.Attempt)}, "Error": {v.Err.Error()},
			"Checkpoint": {string(v.Checkpoint)},
		}}
		if _, err = c.JetStream.PublishMsg(context.WithoutCancel(ctx), dead); err == nil {
			err = m.TermWithReason(string(v.Reason))
		}
	}
	if err != nil {
		log.Printf("%v: %v; it will come again", v, err)
	}
}

// serve starts a server that keeps its streams in dir.
func serve(dir string) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the NATS server did not start within 10 s")
	}
	return s, nil
}

// streams makes the stream of payments, the one of dead payments, and a consumer that delivers again after wait.
func streams(ctx context.Context, js jetstream.JetStream, wait time.Duration) (jetstream.Consumer, error) {
	for name, subject := range map[string]string{"PAYMENTS": "payments", "DEAD": "dead.payments"} {
		if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Storage: jetstream.MemoryStorage}); err != nil {
			return nil, err
		}
	}
	return js.CreateOrUpdateConsumer(ctx, "PAYMENTS", jetstream.ConsumerConfig{
		Durable: "bookkeeping", AckPolicy: jetstream.AckExplicitPolicy, AckWait: wait, MaxAckPending: 1000,
	})
}

func publish(ctx context.Context, js jetstream.JetStream, id, body string) error {
	_, err := js.PublishMsg(ctx, &nats.Msg{Subject: "payments", Header: nats.Header{idHeader: {id}}, Data: []byte(body)})
	return err
}

func run(ctx context.Context) error {
	mini, err := miniredis.Run()
	if err != nil {
		return err
	}
	defer mini.Close()
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer func() { _ = rdb.Close() }()
	c, err := coordinator.New(rdb)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	dir, err := os.MkdirTemp("", "jetstream")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := serve(dir)
	if err != nil {
		return err
	}
	defer s.WaitForShutdown()
	defer s.Shutdown()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	from, err := streams(ctx, js, 30*time.Second)
	if err != nil {
		return err
	}
	for range 3 {
		for id, body := range map[string]string{"evt-1": "10 to Ann", "evt-2": "20 to Ben", "evt-3": "30 to nobody"} {
			if err := publish(ctx, js, id, body); err != nil {
				return err
			}
		}
	}
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	consumer := &Consumer{
		Coordinator: c, From: from, JetStream: js, Dead: "dead.payments", Workers: 4,
		Handle: func(_ string, body []byte) coordmsg.Handler {
			return func(context.Context, *coordinator.Lease) error {
				if string(body) == "30 to nobody" {
					return coordinator.Final(errors.New("no such account"))
				}
				fmt.Printf("booked: %s\n", body)
				return nil
			}
		},
	}
	if err := consumer.Run(ctx); err != nil {
		return err
	}
	dead, err := js.Stream(context.WithoutCancel(ctx), "DEAD")
	if err != nil {
		return err
	}
	fmt.Println("parked:", dead.CachedInfo().State.Msgs, "deliveries of evt-3")
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
