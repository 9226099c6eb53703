package coordmsg_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
)

// A message is delivered twice, and another one can never work.
func ExampleHandle() {
	server, err := miniredis.Run()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = rdb.Close() }()
	c, err := coordinator.New(rdb)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()

	book := func(amount int) coordmsg.Handler {
		return func(context.Context, *coordinator.Lease) error {
			if amount <= 0 {
				return coordinator.Final(errors.New("nothing to book"))
			}
			fmt.Println("booked", amount)
			return nil
		}
	}
	for _, m := range []struct {
		id     string
		amount int
	}{{"evt-1", 10}, {"evt-1", 10}, {"evt-2", 0}} {
		key := coordinator.Key{Scope: "payments", ID: m.id}
		fmt.Println(coordmsg.Handle(context.Background(), c, key, book(m.amount)))
	}
	// Output:
	// booked 10
	// ack (done), attempt 1
	// ack (done)
	// park (final), attempt 1: nothing to book
}

// The consumer of a batch acknowledges each message as soon as it is done.
func ExampleHandleBatch() {
	server, err := miniredis.Run()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = rdb.Close() }()
	c, err := coordinator.New(rdb)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()

	var batch []coordmsg.Message
	for _, id := range []string{"evt-1", "evt-2"} {
		batch = append(batch, coordmsg.Message{
			Key:    coordinator.Key{Scope: "payments", ID: id},
			Run:    func(context.Context, *coordinator.Lease) error { return nil },
			Settle: func(v coordmsg.Verdict) { fmt.Println(id, v.Action) },
		})
	}
	coordmsg.HandleBatch(context.Background(), c, batch, coordmsg.Workers(1))
	// Output:
	// evt-1 ack
	// evt-2 ack
}
