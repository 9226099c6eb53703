package coordinator_test

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// The scope keeps tenants and endpoints apart: the same ID in another scope is another operation.
func ExampleKey() {
	key := coordinator.Key{
		Scope:    coordinator.JoinScope("tenant-7", "POST", "/transfers"),
		ID:       "018cc251-f400-7000-8000-000000000001",
		Resource: "account/42", // one transfer of the account at a time
	}
	fmt.Println(key.Scope, key.Validate())

	key.ID = ""
	fmt.Println("refused:", errors.Is(key.Validate(), coordinator.ErrInvalid))
	// Output:
	// tenant-7/POST/@2Ftransfers <nil>
	// refused: true
}

// Options are checked by New.
func ExampleOption() {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"}) // New does not connect
	defer rdb.Close()

	c, err := coordinator.New(rdb, coordinator.WithPrefix("shop"), coordinator.WithLease(10*time.Second), coordinator.WithRetention(6*time.Hour))
	fmt.Println(c != nil, err)
	_, err = coordinator.New(rdb, coordinator.WithLease(time.Millisecond))
	fmt.Println("refused:", errors.Is(err, coordinator.ErrInvalid))
	// Output:
	// true <nil>
	// refused: true
}

// What one attempt has saved, the next one goes on from.
func ExampleLease() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "imports", ID: "file-1"}

	for range 2 {
		lease, err := c.Claim(ctx, key)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("attempt %d, done so far: %q\n", lease.Attempt(), lease.Checkpoint())
		if err := lease.SaveCheckpoint(lease.Context(), []byte("row 500")); err != nil {
			log.Fatal(err)
		}
		if err := lease.Release(ctx); err != nil { // something went wrong: another attempt may follow
			log.Fatal(err)
		}
	}
	// Output:
	// attempt 1, done so far: ""
	// attempt 2, done so far: "row 500"
}

// Options of a kind of operation in one place.
func ExampleClaimOption() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	report := []coordinator.ClaimOption{coordinator.LeaseFor(time.Minute), coordinator.MaxLifetime(30 * time.Minute)}

	lease, err := c.Claim(ctx, coordinator.Key{Scope: "reports", ID: "2030-01"}, report...)
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(ctx)
	fmt.Println("a minute, about:", time.Until(lease.Deadline()).Round(10*time.Second))
	// Output:
	// a minute, about: 1m0s
}

// Do takes every option of a claim, and its own.
func ExampleDoOption() {
	c, _, stop := newExample()
	defer stop()
	opts := []coordinator.DoOption{coordinator.LeaseFor(time.Minute), coordinator.Fingerprint([]byte("2030-01")), coordinator.WithCodec(xmlCodec{})}

	rows, replayed, err := coordinator.Do(context.Background(), c, coordinator.Key{Scope: "reports", ID: "2030-01"},
		func(context.Context, *coordinator.Lease) (int, error) { return 500, nil }, opts...)
	fmt.Println(rows, replayed, err)
	// Output:
	// 500 false <nil>
}

// xmlCodec stores results as XML.
type xmlCodec struct{}

func (xmlCodec) Marshal(v any) ([]byte, error)      { return xml.Marshal(v) }
func (xmlCodec) Unmarshal(data []byte, v any) error { return xml.Unmarshal(data, v) }

// A codec decides what is stored, and so what a replay reads.
func ExampleCodec() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "reports", ID: "2030-01"}

	for range 2 {
		rows, replayed, err := coordinator.Do(ctx, c, key, func(context.Context, *coordinator.Lease) (int, error) { return 500, nil },
			coordinator.WithCodec(xmlCodec{}))
		fmt.Println(rows, replayed, err)
	}
	result, err := c.Result(ctx, key, nil)
	fmt.Println(string(result.Payload), err)
	// Output:
	// 500 false <nil>
	// 500 true <nil>
	// <int>500</int> <nil>
}

// A result that is needed for longer than the others.
func ExampleCompleteOption() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "contracts", ID: "contract-1"}

	lease, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	if err := lease.Complete(ctx, []byte("signed"), coordinator.RetainFor(30*24*time.Hour)); err != nil {
		log.Fatal(err)
	}
	record, err := c.Inspect(ctx, key)
	fmt.Println(record.RetentionRemaining.Round(time.Hour), err)
	// Output:
	// 720h0m0s <nil>
}

// A batch whose elements have options of their own.
func ExampleClaimRequest() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()

	requests := []coordinator.ClaimRequest{
		{Key: coordinator.Key{Scope: "inbox", ID: "message-1"}},
		{Key: coordinator.Key{Scope: "inbox", ID: "message-2"}, Options: []coordinator.ClaimOption{coordinator.LeaseFor(time.Minute)}},
	}
	for _, r := range c.ClaimMany(ctx, requests) {
		if r.Err != nil {
			log.Fatal(r.Err)
		}
		fmt.Println(r.Lease.Key().ID, time.Until(r.Lease.Deadline()).Round(10*time.Second))
		defer r.Lease.Release(ctx)
	}
	// Output:
	// message-1 30s
	// message-2 1m0s
}

// Each element of a batch has a lease or an error, never both.
func ExampleClaimResult() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	request := coordinator.ClaimRequest{Key: coordinator.Key{Scope: "inbox", ID: "message-1"}}

	for _, r := range c.ClaimMany(ctx, []coordinator.ClaimRequest{request, request}) {
		fmt.Println("granted:", r.Lease != nil, "in progress:", errors.Is(r.Err, coordinator.ErrInProgress))
		if r.Lease != nil {
			defer r.Lease.Release(ctx)
		}
	}
	// Output:
	// granted: true in progress: false
	// granted: false in progress: true
}

// A grant travels as text. Logs show its token only, because the rest is a credential.
func ExampleGrant() {
	grant, err := coordinator.ParseGrant("1700000000000000.0123456789abcdef0123456789abcdef")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(grant)

	plain := slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	slog.New(slog.NewTextHandler(os.Stdout, &plain)).Info("working", "grant", grant)
	// Output:
	// 1700000000000000.0123456789abcdef0123456789abcdef
	// level=INFO msg=working grant=1700000000000000.***
}

// A store that keeps the greatest token it has seen refuses late writers by itself.
func ExampleToken() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}
	var seen coordinator.Token // a column beside the data
	write := func(token coordinator.Token) bool {
		if token < seen {
			return false // update … set token = $1 where token <= $1: no row
		}
		seen = token
		return true
	}

	late, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	if err := late.Release(ctx); err != nil {
		log.Fatal(err)
	}
	next, err := c.Claim(ctx, key, coordinator.MinToken(seen))
	if err != nil {
		log.Fatal(err)
	}
	defer next.Release(ctx)
	fmt.Println("next:", write(next.Token()), "late:", write(late.Token()))
	// Output:
	// next: true late: false
}

// More than one command behind the fence; the script sees its own KEYS and ARGV only.
func ExampleFence_Eval() {
	c, rdb, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "transfers", ID: "transfer-1", Resource: "account/42"}
	lease, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(ctx)

	fence := c.Fence(key)
	balance, journal := "balance:"+fence.Tag(), "journal:"+fence.Tag()
	const book = `
		redis.call('RPUSH', KEYS[2], ARGV[1])
		return redis.call('INCRBY', KEYS[1], ARGV[1])`
	fmt.Println(fence.Eval(ctx, lease.Grant(), book, []string{balance, journal}, 250).Int())
	fmt.Println(rdb.LRange(ctx, journal, 0, -1).Val())
	// Output:
	// 250 <nil>
	// [250]
}

// The error that carries a stored result, also where it was wrapped.
func ExampleCompletedError() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}
	lease, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	if err := lease.Fail(ctx, []byte("card declined")); err != nil {
		log.Fatal(err)
	}

	_, err = c.Claim(ctx, key)
	err = fmt.Errorf("paying: %w", err)
	var done *coordinator.CompletedError
	if errors.As(err, &done) {
		fmt.Println(done.Key.ID, string(done.Result.Payload), done.Result.Failed)
	}
	// Output:
	// payment-1 card declined true
}

// What Result and ResultOf return: the payload, and which grant stored it.
func ExampleResult() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}
	lease, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	if err := lease.Complete(ctx, []byte("receipt 17")); err != nil {
		log.Fatal(err)
	}

	result, err := c.Result(ctx, key, nil)
	fmt.Printf("%s, failed: %v, of that lease: %v, error: %v\n", result.Payload, result.Failed, result.Token == lease.Token(), err)
	// Output:
	// receipt 17, failed: false, of that lease: true, error: <nil>
}

// A late completion is refused, and the error has both tokens.
func ExampleStaleTokenError() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}
	late, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Expire(ctx, key); err != nil {
		log.Fatal(err)
	}
	next, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	defer next.Release(ctx)

	var stale *coordinator.StaleTokenError
	if err := late.Complete(ctx, []byte("receipt 17")); errors.As(err, &stale) {
		fmt.Println("mine:", stale.Token == late.Token(), "current:", stale.Current == next.Token())
	}
	// Output:
	// mine: true current: true
}

// deaf is a client's hook that loses replies while lost is set.
type deaf struct{ lost atomic.Bool }

func (d *deaf) DialHook(next redis.DialHook) redis.DialHook { return next }
func (d *deaf) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (d *deaf) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if d.lost.Load() {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return err
	}
}

// A claim whose reply was lost may have been granted. Asked again under its owner, it gets that very grant.
func ExampleUnknownError() {
	c, rdb, stop := newExample()
	defer stop()
	network := &deaf{}
	rdb.AddHook(network)
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}

	if err := c.Load(ctx); err != nil { // so that the claim's first copy runs
		log.Fatal(err)
	}
	network.lost.Store(true)
	brief, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := c.Claim(brief, key)
	network.lost.Store(false)

	var unknown *coordinator.UnknownError
	if errors.As(err, &unknown) {
		_, err = c.Claim(ctx, key)
		fmt.Println("another claim, in progress:", errors.Is(err, coordinator.ErrInProgress))
		lease, err := c.Claim(ctx, key, coordinator.Owner(unknown.Owner))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("the same claim again: granted, attempt", lease.Attempt())
	}
	// Output:
	// another claim, in progress: true
	// the same claim again: granted, attempt 1
}

// What an operator looks at.
func ExampleRecord() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "payments", ID: "payment-1"}
	lease, err := c.Claim(ctx, key, coordinator.Fingerprint([]byte("10 EUR")))
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(ctx)

	record, err := c.Inspect(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, attempt %d, fingerprint %q\n", record.State, record.Attempt, record.Fingerprint)
	fmt.Println("lease", record.LeaseRemaining.Round(time.Second), "owner hidden:", strings.HasSuffix(record.Owner, "****"))
	// Output:
	// in_progress, attempt 1, fingerprint "10 EUR"
	// lease 33s owner hidden: true
}

// The states are worth a switch.
func ExampleState() {
	c, _, stop := newExample()
	defer stop()
	record, err := c.Inspect(context.Background(), coordinator.Key{Scope: "payments", ID: "payment-1"})
	if err != nil {
		log.Fatal(err)
	}
	switch record.State {
	case coordinator.StateAbsent, coordinator.StateReleased:
		fmt.Println("the next claim runs")
	case coordinator.StateLapsed:
		fmt.Println("the next claim takes over")
	case coordinator.StateInProgress:
		fmt.Println("somebody is at work")
	case coordinator.StateCompleted, coordinator.StateFailed:
		fmt.Println("there is an outcome")
	}
	// Output:
	// the next claim runs
}

// A run that ended without an outcome waits for somebody who finds out what it did.
func ExampleResolution() {
	c, _, stop := newExample()
	defer stop()
	ctx := context.Background()
	key := coordinator.Key{Scope: "letters", ID: "letter-1"}
	letter := []coordinator.ClaimOption{coordinator.QuarantineLapsed(), coordinator.ManualRenewal(), coordinator.LeaseFor(100 * time.Millisecond)}

	if _, err := c.Claim(ctx, key, letter...); err != nil { // and then its process dies
		log.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	_, err := c.Claim(ctx, key, letter...)
	fmt.Println("uncertain:", errors.Is(err, coordinator.ErrUncertain))

	err = c.Resolve(ctx, key, coordinator.Resolution{Payload: []byte("printed, found on the tray")})
	fmt.Println("settled:", err)
	_, err = c.Claim(ctx, key, letter...)
	result, _ := coordinator.ResultOf(err)
	fmt.Printf("%s\n", result.Payload)
	// Output:
	// uncertain: true
	// settled: <nil>
	// printed, found on the tray
}

// printing is an Observer that prints calls and notes.
type printing struct{}

func (printing) Begin(ctx context.Context, op string) (context.Context, func(coordinator.Event)) {
	return ctx, func(e coordinator.Event) { fmt.Println(op, e.Outcome) }
}

func (printing) Note(coordinator.Event) {}

// newObserved is newExample with an observer.
func newObserved(o coordinator.Observer) (*coordinator.Coordinator, func()) {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	c, err := coordinator.New(rdb, coordinator.WithObserver(o))
	if err != nil {
		log.Fatal(err)
	}
	return c, func() {
		_, _ = c.Close(), rdb.Close()
		server.Close()
	}
}

// Do tells of itself and of the calls within.
func ExampleObserver() {
	c, stop := newObserved(printing{})
	defer stop()
	for range 2 {
		_, _, err := coordinator.Do(context.Background(), c, coordinator.Key{Scope: "payments", ID: "payment-1"},
			func(context.Context, *coordinator.Lease) (string, error) { return "receipt 17", nil })
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// claim granted
	// complete ok
	// do ok
	// claim replayed
	// do ok
}

// counting is an Observer that counts outcomes, as one for metrics does: never by key.
type counting map[string]int

func (n counting) Begin(ctx context.Context, _ string) (context.Context, func(coordinator.Event)) {
	return ctx, func(e coordinator.Event) { n[e.Op+" "+e.Outcome] += e.Count }
}

func (n counting) Note(coordinator.Event) {}

// A batch is one event, with its number of keys.
func ExampleEvent() {
	calls := counting{} // one goroutine here; otherwise it needs a lock
	c, stop := newObserved(calls)
	defer stop()
	ctx := context.Background()
	_, err := c.Inspect(ctx, coordinator.Key{}) // no ID
	for _, r := range c.ClaimMany(ctx, []coordinator.ClaimRequest{{Key: coordinator.Key{ID: "1"}}, {Key: coordinator.Key{ID: "2"}}}) {
		err = errors.Join(err, r.Err)
	}
	fmt.Println(calls["inspect invalid"], calls["claim_many ok"], errors.Is(err, coordinator.ErrInvalid))
	// Output:
	// 1 2 true
}
