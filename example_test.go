package coordinator_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// newExample makes a coordinator on a Redis that lives in this process; a program has its own.
func newExample() (*coordinator.Coordinator, *redis.Client, func()) {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	c, err := coordinator.New(rdb)
	if err != nil {
		log.Fatal(err)
	}
	return c, rdb, func() {
		_, _ = c.Close(), rdb.Close()
		server.Close()
	}
}

// Claim, work, complete; the next claim gets what was stored.
func ExampleCoordinator_Claim() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: coordinator.JoinScope("tenant-7", "POST /payments"), ID: "payment-1"}

	for range 2 {
		lease, err := c.Claim(ctx, key)
		if result, ok := coordinator.ResultOf(err); ok {
			fmt.Printf("replayed: %s\n", result.Payload)
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("working, attempt", lease.Attempt())
		if err := lease.Complete(ctx, []byte("receipt 17")); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// working, attempt 1
	// replayed: receipt 17
}

// A second claim says how long the holder's lease lasts at least.
func ExampleInProgressError() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{ID: "payment-1"}

	lease, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(ctx)

	_, err = c.Claim(ctx, key)
	var busy *coordinator.InProgressError
	if errors.As(err, &busy) {
		fmt.Println("attempt", busy.Attempt, "is under way; ask again in seconds:", busy.RetryAfter > time.Second)
	}
	// Output:
	// attempt 1 is under way; ask again in seconds: true
}

// Do is Claim, Complete and the replay in one; the fingerprint binds the key to the request.
func ExampleDo() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}

	type receipt struct{ Number, Cents int }
	pay := func(cents int) {
		sum := sha256.Sum256(fmt.Append(nil, cents))
		r, replayed, err := coordinator.Do(ctx, c, key, func(context.Context, *coordinator.Lease) (receipt, error) {
			return receipt{Number: 17, Cents: cents}, nil
		}, coordinator.Fingerprint(sum[:]))
		if errors.Is(err, coordinator.ErrMismatch) {
			fmt.Println("this key was used for another request")
			return
		}
		fmt.Println(r, "replayed:", replayed, "error:", err)
	}
	pay(1000)
	pay(1000)
	pay(9900)
	// Output:
	// {17 1000} replayed: false error: <nil>
	// {17 1000} replayed: true error: <nil>
	// this key was used for another request
}

// A Final error is the outcome of the operation: the work does not run again.
func ExampleFinal() {
	c, _, stop := newExample()
	defer stop()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}

	for range 2 {
		_, replayed, err := coordinator.Do(context.Background(), c, key, func(context.Context, *coordinator.Lease) (int, error) {
			return 0, coordinator.Final(errors.New("card declined"))
		})
		result, _ := coordinator.ResultOf(err)
		fmt.Printf("%s, failed: %v, replayed: %v\n", result.Payload, result.Failed, replayed)
	}
	// Output:
	// card declined, failed: true, replayed: false
	// card declined, failed: true, replayed: true
}

// The check and the write are one script, so a grant that was taken over writes nothing.
func ExampleFence_Do() {
	c, rdb, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "transfers", ID: "transfer-1", Resource: "account/42"}
	fence := c.Fence(key)
	balance := "balance:" + fence.Tag() // the tag places the key behind this fence

	late, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("current:", fence.Do(ctx, late.Grant(), "set", balance, 100).Err())

	if err := c.Expire(ctx, key); err != nil { // an operator fences the holder out
		log.Fatal(err)
	}
	err = fence.Do(ctx, late.Grant(), "set", balance, 999).Err()
	fmt.Println("stale:", errors.Is(err, coordinator.ErrStaleToken))
	fmt.Println("balance:", rdb.Get(ctx, balance).Val())
	// Output:
	// current: <nil>
	// stale: true
	// balance: 100
}

// A waiter is woken when the holder completes, and gets the result.
func ExampleWaitUpTo() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "reports", ID: "2030-01"}

	lease, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = lease.Complete(ctx, []byte("the report")) })

	_, err = c.Claim(ctx, key, coordinator.WaitUpTo(10*time.Second))
	result, _ := coordinator.ResultOf(err)
	fmt.Printf("%s\n", result.Payload)
	// Output:
	// the report
}

// Many keys are claimed in one round trip per node; the results keep the order.
func ExampleCoordinator_ClaimMany() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()

	var requests []coordinator.ClaimRequest
	for _, id := range []string{"message-1", "message-2", "message-1"} {
		requests = append(requests, coordinator.ClaimRequest{Key: coordinator.Key{Scope: "inbox", ID: id}})
	}
	for i, r := range c.ClaimMany(ctx, requests) {
		if r.Err != nil {
			fmt.Println(requests[i].Key.ID, "in progress:", errors.Is(r.Err, coordinator.ErrInProgress))
			continue
		}
		fmt.Println(requests[i].Key.ID, "granted")
		defer r.Lease.Release(ctx)
	}
	// Output:
	// message-1 granted
	// message-2 granted
	// message-1 in progress: true
}

// What stands under a key, and how to make the next claim work anew.
func ExampleCoordinator_Inspect() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}

	show := func() {
		record, err := c.Inspect(ctx, key)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(record.State, "attempt", record.Attempt, "bytes", record.PayloadSize)
	}
	show()
	lease, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	show()
	if err := lease.Complete(ctx, []byte("receipt 17")); err != nil {
		log.Fatal(err)
	}
	show()
	if err := c.Expire(ctx, key); err != nil {
		log.Fatal(err)
	}
	show()
	// Output:
	// absent attempt 0 bytes 0
	// in_progress attempt 1 bytes 0
	// completed attempt 1 bytes 10
	// released attempt 0 bytes 0
}

// A UUIDv7 says when it was made, so a retry that comes after the retention is refused instead of run again.
func ExampleIssuedAt() {
	c, _, stop := newExample()
	defer stop()
	const id = "018cc251-f400-7000-8000-000000000001" // a client's key of the first of January 2024

	made, ok := coordinator.UUIDv7Time(id)
	fmt.Println(made, ok)
	_, err := c.Claim(context.Background(), coordinator.Key{Scope: "payments", ID: id}, coordinator.IssuedAt(made))
	fmt.Println("expired:", errors.Is(err, coordinator.ErrKeyExpired))
	// Output:
	// 2024-01-01 00:00:00 +0000 UTC true
	// expired: true
}

// A grant travels to another process, which goes on with the work.
func ExampleCoordinator_Resume() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "orders", ID: "order-1"}

	lease, err := c.Claim(ctx, key, coordinator.ManualRenewal())
	if err != nil {
		log.Fatal(err)
	}
	header := lease.Grant().String() // a credential: over a connection that nobody else reads

	// The other process.
	grant, err := coordinator.ParseGrant(header)
	if err != nil {
		log.Fatal(err)
	}
	resumed, err := c.Resume(ctx, key, grant)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("same token:", resumed.Token() == lease.Token())
	fmt.Println("completed:", resumed.Complete(ctx, []byte("shipped")))
	// Output:
	// same token: true
	// completed: <nil>
}

// Code deep in a call chain finds the grant in its context.
func ExampleContextWithGrant() {
	c, _, stop := newExample()
	defer stop()
	key := coordinator.Key{Scope: "orders", ID: "order-1"}
	lease, err := c.Claim(context.Background(), key)
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(context.Background())

	save := func(ctx context.Context) error {
		grant, ok := coordinator.GrantFrom(ctx)
		if !ok {
			return errors.New("not under a lease")
		}
		fence := c.Fence(key)
		return fence.Do(ctx, grant, "set", "order:"+fence.Tag(), "packed").Err()
	}
	fmt.Println(save(context.Background()))
	fmt.Println(save(lease.Context()))
	// The same in a process that was sent the grant.
	fmt.Println(save(coordinator.ContextWithGrant(context.Background(), lease.Grant())))
	// Output:
	// not under a lease
	// <nil>
	// <nil>
}
