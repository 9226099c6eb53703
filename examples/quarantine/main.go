// Quarantine shows what to do about effects that nothing can fence, such as a letter that was printed: after a crash
// the key is not run again by itself; somebody finds out what took place and settles it.
//
//	go run ./examples/quarantine
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// printer keeps what was really printed: the world outside, which knows nothing of leases.
type printer struct{ letters map[string]bool }

// send prints a letter once. Every claimer of such keys says QuarantineLapsed.
func (p *printer) send(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, crash bool) error {
	lease, err := c.Claim(ctx, key, coordinator.QuarantineLapsed(), coordinator.ManualRenewal())
	if err != nil {
		return err
	}
	p.letters[key.ID] = true
	if crash {
		return nil // neither completed nor released nor renewed (hence ManualRenewal): as after a power failure
	}
	return lease.Complete(ctx, []byte("printed"))
}

// settle looks at the world and tells the coordinator what it found.
func (p *printer) settle(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key) error {
	if p.letters[key.ID] {
		return c.Resolve(ctx, key, coordinator.Resolution{Payload: []byte("printed, found on the tray")})
	}
	return c.Resolve(ctx, key, coordinator.Resolution{Rerun: true})
}

// play sends a letter, crashes, tries again, settles, and tries again.
func play(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, afterCrash func()) (retry, final error) {
	p := &printer{letters: map[string]bool{}}
	if err := p.send(ctx, c, key, true); err != nil {
		return err, nil
	}
	afterCrash() // the lease runs out
	retry = p.send(ctx, c, key, false)
	if errors.Is(retry, coordinator.ErrUncertain) {
		if err := p.settle(ctx, c, key); err != nil {
			return retry, err
		}
	}
	return retry, p.send(ctx, c, key, false)
}

func main() {
	rdb := redis.NewClient(&redis.Options{Addr: cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379")})
	c, err := coordinator.New(rdb, coordinator.WithLease(200*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	key := coordinator.Key{Scope: "letters", ID: strconv.Itoa(os.Getpid())}
	retry, final := play(context.Background(), c, key, func() { time.Sleep(time.Second / 4) })
	fmt.Println("retry:", retry)
	result, _ := coordinator.ResultOf(final)
	fmt.Printf("after Resolve: %s\n", result.Payload)
}
