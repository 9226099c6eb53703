package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/onceward/coordinator"
)

// Payment is what a client sends, under an idempotency key of its own.
type Payment struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

// Receipt is the answer to a payment, and its entry in the ledger. Every client that sends the payment
// gets the same.
type Receipt struct {
	Payment  string `json:"payment"`
	Account  string `json:"account"`
	Cents    int64  `json:"cents"`
	BookedBy string `json:"booked_by"`
}

// service takes payments over HTTP. One runs in every worker; what they share is Redis.
type service struct {
	worker string
	coord  *coordinator.Coordinator
	ledger *ledger
	tally  *tally
	diary  *diary
	// strike lets happen what happens to a program: here, before it writes, and after.
	strike func(at moment, payment string) error
}

const maxBody = 1 << 16

// paymentKey names the operation that a client's idempotency key stands for. Where clients have accounts,
// the account belongs into the scope, so that nobody gets the answer to another's key.
func paymentKey(id string) coordinator.Key {
	return coordinator.Key{Scope: coordinator.JoinScope("POST", "payments"), ID: id}
}

// post takes one request. The first with its key does the work, the others are told to come back, or get
// the stored receipt.
func (s *service) post(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("Idempotency-Key")
	s.tally.requested(id)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var p Payment
	if err != nil || id == "" || json.Unmarshal(body, &p) != nil {
		http.Error(w, "a payment is a JSON object, sent with an Idempotency-Key", http.StatusBadRequest)
		return
	}
	sum := sha256.Sum256(body)
	// A client that hangs up does not undo its payment: what has begun is carried to its end.
	ctx := context.WithoutCancel(r.Context())
	receipt, replayed, err := coordinator.Do(ctx, s.coord, paymentKey(id),
		func(ctx context.Context, lease *coordinator.Lease) (Receipt, error) { return s.pay(ctx, lease, p) },
		coordinator.Fingerprint(sum[:]))
	if err != nil {
		s.refuse(w, err)
		return
	}
	if replayed {
		s.tally.replays.Add(1)
		w.Header().Set("Idempotency-Replayed", "true")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(receipt)
}

// refuse answers a request that gets no receipt, or not yet.
func (s *service) refuse(w http.ResponseWriter, err error) {
	var busy *coordinator.InProgressError
	switch {
	case errors.As(err, &busy):
		s.tally.inProgress.Add(1)
		comeBack(w, http.StatusConflict, busy.RetryAfter, "this payment is being made")
	case errors.Is(err, coordinator.ErrMismatch):
		http.Error(w, "this Idempotency-Key was used for another payment", http.StatusUnprocessableEntity)
	default:
		// Whatever went wrong here, the key knows what became of the payment: asking again is safe.
		comeBack(w, http.StatusServiceUnavailable, 0, "the payment's outcome is not known here")
	}
}

// comeBack tells a client when to send its request again, in the whole seconds that HTTP has for it.
func comeBack(w http.ResponseWriter, status int, after time.Duration, why string) {
	seconds := max(1, int(math.Ceil(after.Seconds())))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	http.Error(w, why+"; send the same request again", status)
}

// workTime is how long the work takes apart from the booking: fraud checks, the bank.
const workTime = 60 * time.Millisecond

// pay makes the payment, exactly once however often it runs: from its grant on nobody with an older one
// can write behind the fence, so what it reads in the ledger stays true until it writes itself.
func (s *service) pay(ctx context.Context, lease *coordinator.Lease, p Payment) (_ Receipt, err error) {
	id := lease.Key().ID
	takeover := s.tally.began(id)
	defer func() {
		if err != nil && lease.Context().Err() == nil {
			s.tally.gaveUp(id) // Do releases the key, and nobody needs to take it over
		}
	}()

	// An earlier run may have booked the payment and ended before it could say so.
	booked, err := s.ledger.entries(ctx, lease.Key())
	if err != nil {
		return Receipt{}, err
	}
	if takeover {
		s.diary.note(calm, s.worker, "takes over %s: %s", id, foundIn(booked))
	} else if lease.Attempt() > 1 {
		s.diary.note(calm, s.worker, "tries %s again: %s", id, foundIn(booked))
	}
	if len(booked) > 0 {
		return booked[0], nil
	}

	select {
	case <-time.After(workTime):
	case <-ctx.Done():
		return Receipt{}, context.Cause(ctx)
	}
	if err := s.strike(beforeBooking, id); err != nil {
		return Receipt{}, err
	}

	// A process can be paused between any check and the write that follows it. No look at ctx can help
	// then, only the fence; the demo leaves the look out, so that every late write gets as far as the fence.
	// An error that leaves the outcome open is not repaired here: it gives the key up, which fences out a
	// write that is still under way, and the next run sees in the ledger whether it got through.
	receipt := Receipt{Payment: id, Account: p.Account, Cents: p.Cents, BookedBy: s.worker}
	times, err := s.ledger.book(context.WithoutCancel(ctx), lease, receipt)
	switch {
	case errors.Is(err, coordinator.ErrStaleToken):
		s.tally.staleRefused.Add(1)
		s.diary.note(good, s.worker, "is too late to book %s: the fence refuses its old token", id)
		return Receipt{}, err
	case err != nil:
		return Receipt{}, err
	case times > 1:
		s.diary.note(bad, s.worker, "books %s, which now stands in the ledger %d times", id, times)
	}
	if err := s.strike(afterBooking, id); err != nil {
		return Receipt{}, err
	}
	return receipt, nil
}

func foundIn(booked []Receipt) string {
	if len(booked) == 0 {
		return "it is not in the ledger yet"
	}
	return "it is in the ledger already, by " + booked[0].BookedBy
}
