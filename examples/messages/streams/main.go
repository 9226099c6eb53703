// Streams books payments from a Redis Streams consumer group. Messages that a consumer has taken and not acknowledged, because it
// failed, stalled or died, are claimed by the others. Each payment is published three times and booked once.
//
//	go run ./examples/messages/streams
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/redis/go-redis/v9"
)

// Consumer is one of a group.
type Consumer struct {
	Redis       redis.UniversalClient
	Coordinator *coordinator.Coordinator
	Stream      string // with a hash tag, so that the dead ones are in its slot
	Group, Name string
	// Idle is how long a message stays with a consumer that does not acknowledge it.
	Idle   time.Duration
	Handle func(id, body string) coordmsg.Handler
	// Options are those of coordmsg.
	Options []coordmsg.Option

	next string // where to look next for what others have left lying
}

// A consumer works on several batches at a time, so that one slow message does not hold up those behind it.
const batches, perBatch = 4, 20

// Run handles messages until ctx ends.
func (c *Consumer) Run(ctx context.Context) error {
	if err := c.Redis.XGroupCreateMkStream(ctx, c.Stream, c.Group, "0").Err(); err != nil && !strings.HasPrefix(err.Error(), "BUSYGROUP") {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	turns := make(chan struct{}, batches)
	for ctx.Err() == nil {
		messages, err := c.take(ctx)
		if err != nil && ctx.Err() == nil {
			log.Printf("reading %s: %v", c.Stream, err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
		if len(messages) == 0 {
			continue
		}
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			c.handle(ctx, messages)
		})
	}
	return nil
}

// take gets what others have left lying, and what is new: some of each, or messages that fail again and again would keep the new ones out.
func (c *Consumer) take(ctx context.Context) ([]redis.XMessage, error) {
	left, next, err := c.Redis.XAutoClaim(ctx, &redis.XAutoClaimArgs{
		Stream: c.Stream, Group: c.Group, Consumer: c.Name, MinIdle: c.Idle, Start: cmp.Or(c.next, "0-0"), Count: perBatch / 2,
	}).Result()
	if err != nil {
		return nil, err
	}
	c.next = next // so that they take turns as well
	block := min(c.Idle, time.Second)
	if len(left) > 0 {
		block = -1 // do not wait
	}
	streams, err := c.Redis.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: c.Group, Consumer: c.Name, Streams: []string{c.Stream, ">"}, Count: perBatch / 2, Block: block,
	}).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	for _, s := range streams {
		left = append(left, s.Messages...)
	}
	return left, err
}

func (c *Consumer) handle(ctx context.Context, messages []redis.XMessage) {
	batch := make([]coordmsg.Message, len(messages))
	for i, m := range messages {
		id, _ := m.Values["id"].(string) // the producer's; m.ID is another one each time that a message is published
		body, _ := m.Values["body"].(string)
		batch[i] = coordmsg.Message{
			Key: coordinator.Key{Scope: "payments", ID: id}, Run: c.Handle(id, body),
			Settle: func(v coordmsg.Verdict) { c.settle(ctx, m, v) },
		}
	}
	coordmsg.HandleBatch(ctx, c.Coordinator, batch, c.Options...)
}

// settle does what the verdict says. A message to be tried again stays where it is, and is claimed again after Idle.
func (c *Consumer) settle(ctx context.Context, m redis.XMessage, v coordmsg.Verdict) {
	ctx = context.WithoutCancel(ctx) // the outcome is known, also when the consumer is being shut down
	var err error
	switch v.Action {
	case coordmsg.Ack:
		err = c.Redis.XAck(ctx, c.Stream, c.Group, m.ID).Err()
	case coordmsg.Park:
		_, err = c.Redis.TxPipelined(ctx, func(tx redis.Pipeliner) error {
			tx.XAdd(ctx, &redis.XAddArgs{Stream: c.Stream + ":dead", Values: []any{
				"id", m.Values["id"], "body", m.Values["body"],
				"reason", string(v.Reason), "attempts", v.Attempt, "error", v.Err.Error(), "checkpoint", v.Checkpoint,
			}})
			tx.XAck(ctx, c.Stream, c.Group, m.ID)
			return nil
		})
	}
	if err != nil {
		log.Printf("%v of %s: %v; it will come again", v, m.ID, err)
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

	const stream = "{payments}"
	for range 3 {
		for id, body := range map[string]string{"evt-1": "10 to Ann", "evt-2": "20 to Ben", "evt-3": "30 to nobody"} {
			if err := rdb.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []any{"id", id, "body", body}}).Err(); err != nil {
				return err
			}
		}
	}
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	consumer := &Consumer{
		Redis: rdb, Coordinator: c, Stream: stream, Group: "bookkeeping", Name: "one", Idle: 200 * time.Millisecond,
		Handle: func(_, body string) coordmsg.Handler {
			return func(context.Context, *coordinator.Lease) error {
				if body == "30 to nobody" {
					return coordinator.Final(errors.New("no such account"))
				}
				fmt.Println("booked:", body)
				return nil
			}
		},
	}
	if err := consumer.Run(ctx); err != nil {
		return err
	}
	dead, err := rdb.XRange(context.WithoutCancel(ctx), stream+":dead", "-", "+").Result()
	for _, m := range dead {
		fmt.Println("parked:", m.Values["body"], "-", m.Values["reason"], "-", m.Values["error"])
	}
	return err
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
