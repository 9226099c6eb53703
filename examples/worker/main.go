// Worker copies rows in steps. It keeps its place in a checkpoint, so that the worker after a crash goes on where
// this one stopped, and it writes its total behind the fence, so that a worker that was paused for too long writes nothing.
//
//	go run ./examples/worker
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

const rows, step = 10, 2

// errCrash stands for whatever ends a worker early.
var errCrash = errors.New("the worker stops here")

// work runs the job until it is done, or until crashAt rows are; it returns how many rows this attempt copied.
func work(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, crashAt int) (copied int, err error) {
	lease, err := c.Claim(ctx, key)
	if err != nil {
		return 0, err // in progress elsewhere, or done: see ResultOf
	}
	// After Complete this does nothing. A released key may run again at once.
	defer func() { err = errors.Join(err, lease.Release(context.WithoutCancel(ctx))) }()

	// Work under the lease's context: it ends before anyone else can hold the key.
	working := lease.Context()
	place, err := placeOf(lease.Checkpoint())
	if err != nil {
		return 0, err
	}
	fence := c.Fence(key)
	total := "rows:" + fence.Tag() // the tag puts the counter in the fence's hash slot
	for ; place < rows; place += step {
		if place >= crashAt {
			return copied, errCrash
		}
		// One script checks the grant and writes. A crash between the two calls repeats this step, so it writes what
		// may be written twice: SET, not INCRBY.
		if err := fence.Do(working, lease.Grant(), "set", total, place+step).Err(); err != nil {
			return copied, err
		}
		if err := lease.SaveCheckpoint(working, []byte(strconv.Itoa(place+step))); err != nil {
			return copied, err
		}
		copied += step
	}
	return copied, lease.Complete(ctx, []byte(fmt.Sprintf("%d rows", rows)))
}

func placeOf(checkpoint []byte) (int, error) {
	if checkpoint == nil {
		return 0, nil // the first attempt, or one before it that saved nothing
	}
	return strconv.Atoi(string(checkpoint))
}

func main() {
	rdb := redis.NewClient(&redis.Options{Addr: cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379")})
	c, err := coordinator.New(rdb)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	key := coordinator.Key{Scope: "nightly-copy", ID: strconv.Itoa(os.Getpid()), Resource: "table/orders"}
	for _, crashAt := range []int{4, rows} {
		copied, err := work(ctx, c, key, crashAt)
		fmt.Printf("copied %d rows, error: %v\n", copied, err)
	}
}
