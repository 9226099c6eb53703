// Memory books payments from a queue that delivers them at least once, here one in memory that hides a message for a time as SQS
// does. Each is sent three times and booked once.
//
//	go run ./examples/messages/memory
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/redis/go-redis/v9"
)

// consume handles messages, so many at a time, until ctx ends.
func consume(ctx context.Context, b *Broker, c *coordinator.Coordinator, workers int, handle func(Message) coordmsg.Handler, opts ...coordmsg.Option) {
	done := make(chan struct{})
	for range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				d, err := b.Receive(ctx)
				if err != nil {
					return
				}
				// The producer's ID, not the receipt: that is another one with each delivery.
				key := coordinator.Key{Scope: "payments", ID: d.ID}
				switch v := coordmsg.Handle(ctx, c, key, handle(d.Message), opts...); v.Action {
				case coordmsg.Ack:
					b.Delete(d.Receipt)
				case coordmsg.Retry:
					b.Return(d.Receipt, v.After)
				case coordmsg.Park:
					b.Bury(d, v.String())
				}
			}
		}()
	}
	for range workers {
		<-done
	}
}

func run(ctx context.Context) error {
	server, err := miniredis.Run()
	if err != nil {
		return err
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = rdb.Close() }()
	c, err := coordinator.New(rdb)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	broker := NewBroker(30 * time.Second)
	for range 3 {
		for _, m := range []Message{{"evt-1", "10 to Ann"}, {"evt-2", "20 to Ben"}, {"evt-3", "30 to nobody"}} {
			broker.Send(m)
		}
	}
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	consume(ctx, broker, c, 4, func(m Message) coordmsg.Handler {
		return func(context.Context, *coordinator.Lease) error {
			if m.Body == "30 to nobody" {
				return coordinator.Final(errors.New("no such account"))
			}
			fmt.Println("booked:", m.Body)
			return nil
		}
		// A copy that comes while the first is being handled waits a moment for it, before it is delivered again a lease later.
	}, coordmsg.Claim(coordinator.WaitUpTo(time.Second)))
	for _, d := range broker.Dead() {
		fmt.Println("parked:", d.Body, "-", d.Why)
	}
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
