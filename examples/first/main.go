// First pays once, however often it is run: the second run prints the first one's receipt.
//
//	go run ./examples/first
//
// The README quotes this file from the line below on; a test compares the two.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"os"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// pay runs once for each key. A retry gets the stored receipt; the same key with another body is refused.
func pay(ctx context.Context, c *coordinator.Coordinator, id string, body []byte) (string, bool, error) {
	key := coordinator.Key{Scope: coordinator.JoinScope("tenant-7", "POST /payments"), ID: id}
	sum := sha256.Sum256(body)
	return coordinator.Do(ctx, c, key, func(ctx context.Context, lease *coordinator.Lease) (string, error) {
		return fmt.Sprintf("receipt for %s, run %d", body, lease.Attempt()), nil // the work goes here
	}, coordinator.Fingerprint(sum[:]))
}

func main() {
	rdb := redis.NewClient(&redis.Options{Addr: cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379")})
	c, err := coordinator.New(rdb)
	if err != nil {
		log.Fatal(err)
	}
	receipt, replayed, err := pay(context.Background(), c, "payment-1", []byte("10 EUR"))
	fmt.Println(receipt, "replayed:", replayed, "error:", err)
}
