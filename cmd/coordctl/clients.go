package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// arrivalTime is the time over which so many clients send their payments: long enough to be watched, and
// not more of them at once than the server within this program can serve.
func arrivalTime(clients int) time.Duration {
	return max(4*time.Second, time.Duration(clients)*10*time.Millisecond)
}

// patience is how long a client waits for an answer before it hangs up and asks another worker. A short one
// would make a slow service slower.
const patience = 5 * time.Second

// clients send the payments and do not rest until each has its receipt.
type clients struct {
	*world
	fleet *fleet
	http  *http.Client

	mu       sync.Mutex
	receipts map[string][]byte // by payment: the first that a client got
	wrong    error             // a client got another
}

// run plays count clients and returns when all have their receipts.
func (c *clients) run(ctx context.Context, seed uint64, count int) error {
	c.receipts = map[string][]byte{}
	transport := &http.Transport{MaxIdleConnsPerHost: count}
	defer transport.CloseIdleConnections()
	c.http = &http.Client{Transport: transport, Timeout: patience}

	payments := c.schedule.payments
	between := arrivalTime(count) / time.Duration(len(payments))
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	var all sync.WaitGroup
	for i := range count {
		n := i % len(payments)
		r := random(seed, uint64(i)+1)
		all.Go(func() {
			if err := pauseFor(ctx, time.Duration(n)*between+upTo(r, between/2)); err != nil {
				return
			}
			if err := c.send(ctx, r, payments[n], paymentOf(n)); err != nil {
				giveUp(err)
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return c.wrong
}

// paymentOf makes the body that every client sends for the nth payment, byte for byte.
func paymentOf(n int) []byte {
	body, _ := json.Marshal(Payment{Account: fmt.Sprintf("account-%d", n%7), Cents: int64(100 + 25*n)})
	return body
}

// send posts a payment until it has the receipt. It comes back after the time that the service asks for,
// and a random time, longer with every try, so that a busy service gets to its work.
func (c *clients) send(ctx context.Context, r *rand.Rand, payment string, body []byte) error {
	for try := 0; ; try++ {
		answer, err := c.post(ctx, c.fleet.pick(r), payment, body)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil: // the worker crashed, or does not answer: another will
		case answer.status == http.StatusCreated:
			c.compare(payment, answer.body)
			return nil
		case answer.retryAfter == 0:
			return fmt.Errorf("%s: the service answered %d: %s", payment, answer.status, bytes.TrimSpace(answer.body))
		}
		if err := pauseFor(ctx, answer.retryAfter+upTo(r, 100*time.Millisecond<<min(try, 4))); err != nil {
			return err
		}
	}
}

// answer is what came back to a client.
type answer struct {
	status     int
	body       []byte
	retryAfter time.Duration // 0: the service does not ask for another try
}

func (c *clients) post(ctx context.Context, url, payment string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", payment)
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return answer{resp.StatusCode, got, time.Duration(seconds) * time.Second}, err
}

// compare holds each receipt against the first one for its payment: every client must get the same.
func (c *clients) compare(payment string, receipt []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, seen := c.receipts[payment]
	if !seen {
		c.receipts[payment] = receipt
	} else if !bytes.Equal(first, receipt) && c.wrong == nil {
		c.wrong = fmt.Errorf("%s: one client got the receipt %s, another %s", payment, bytes.TrimSpace(first), bytes.TrimSpace(receipt))
	}
}

// upTo draws a part of d.
func upTo(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d) + 1)) }

// pauseFor waits, and returns early with the cause when ctx ends.
func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
