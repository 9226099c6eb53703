package coordinator

import (
	"context"
	"errors"
	"time"
)

// Observer watches a coordinator: metrics, traces, logs. It is called on the caller's path, so it must be
// quick, and from many goroutines at once.
type Observer interface {
	// Begin is called when a call of the user's begins and may return a context that carries a span; the
	// function it returns is called once, when the call ends.
	Begin(ctx context.Context, op string) (context.Context, func(Event))
	// Note tells what no call of the user's returns: see [Event].
	Note(Event)
}

// Event is one call that ended, or one thing that happened between calls.
type Event struct {
	// Op is the call: claim, claim_many, renew, checkpoint, complete, fail, release, give_back, result,
	// await, inspect, expire, resolve, resume, fence_do, fence_eval, load, do. Of a Note it is what was at
	// work: renewal, lease, wait, complete; claim_many, a note for each element of the batch with the outcome of a claim.
	Op string
	// Outcome of a call: ok, granted, takeover (granted, after a lease had lapsed), replayed, in_progress,
	// mismatch, uncertain, lease_lost, stale, not_found, unknown, not_replicated, key_expired, invalid,
	// too_large, corrupt, unavailable, closed, error. Of a Note: renewed, late (a renewal that failed, or
	// came after two thirds of the lease), lost, held, waiting, restored (a result written anew after Redis had lost the record).
	Outcome string
	// Key is for logs, never a metric label; zero where the event speaks of several.
	Key Key
	// Err is what the call returned.
	Err error
	// Duration is how long the call took.
	Duration time.Duration
	// Count is how many things the event speaks of: leases of a renewal, keys of a batch; of held and waiting, by how
	// much the number of leases or waiters has changed. Otherwise 1.
	Count int
}

// observers are two that watch the same; the first begins first and ends last.
type observers struct{ first, second Observer }

func (o observers) Begin(ctx context.Context, op string) (context.Context, func(Event)) {
	ctx, first := o.first.Begin(ctx, op)
	ctx, second := o.second.Begin(ctx, op)
	return ctx, func(e Event) {
		second(e)
		first(e)
	}
}

func (o observers) Note(e Event) {
	o.first.Note(e)
	o.second.Note(e)
}

type noObserver struct{}

func (noObserver) Begin(ctx context.Context, _ string) (context.Context, func(Event)) {
	return ctx, func(Event) {}
}
func (noObserver) Note(Event) {}

// begin tells the observer that a call begins; the function it returns, that it ended.
func (c *Coordinator) begin(ctx context.Context, op string, key Key) (context.Context, func(outcome string, err error)) {
	if !c.observed() {
		return ctx, unobserved
	}
	ctx, end := c.beginMany(ctx, op, key)
	return ctx, func(outcome string, err error) { end(1, outcome, err) }
}

func unobserved(string, error) {}

// observed says whether there is anybody to tell.
func (c *Coordinator) observed() bool {
	_, none := c.observer.(noObserver)
	return !none
}

func (c *Coordinator) beginMany(ctx context.Context, op string, key Key) (context.Context, func(count int, outcome string, err error)) {
	if !c.observed() {
		return ctx, func(int, string, error) {}
	}
	began := time.Now()
	ctx, end := c.observer.Begin(ctx, op)
	return ctx, func(count int, outcome string, err error) {
		end(Event{Op: op, Outcome: outcome, Key: key, Err: err, Duration: time.Since(began), Count: count})
	}
}

// outcomeOf names an error for metrics; one list, in the order in which the more telling comes first.
func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, o := range []struct {
		err  error
		name string
	}{
		{ErrNotReplicated, "not_replicated"}, {ErrCompleted, "replayed"}, {ErrInProgress, "in_progress"},
		{ErrMismatch, "mismatch"}, {ErrUncertain, "uncertain"}, {ErrStaleToken, "stale"}, {ErrLeaseLost, "lease_lost"},
		{ErrNotFound, "not_found"}, {ErrUnknown, "unknown"}, {ErrKeyExpired, "key_expired"}, {ErrInvalid, "invalid"},
		{ErrTooLarge, "too_large"}, {ErrCorrupt, "corrupt"}, {ErrUnavailable, "unavailable"}, {ErrClosed, "closed"},
	} {
		if errors.Is(err, o.err) {
			return o.name
		}
	}
	return "error"
}
