package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/wakeup"
)

type view = wakeup.View[protocol.Record]

func newWaits(c *Coordinator) *wakeup.Waits[protocol.Record] {
	return wakeup.New[protocol.Record](wakeup.Host{
		Client: c.carrier.Client, Cluster: c.carrier.Cluster, Base: c.base, Start: c.start, BackOff: c.carrier.BackOff, Jitter: spread,
		Note: func(n int) { c.observer.Note(Event{Op: "wait", Outcome: "waiting", Count: n}) },
	})
}

func (c *Coordinator) viewOf(r *protocol.Reply, guard string) view {
	return view{Guard: guard, Marked: r.Rec.Mark == c.waits.Kind() || r.Rec.Mark == '3', Ends: r.Remaining()}
}

// mark asks to be woken. Not marked means: look again.
func (c *Coordinator) mark(ctx context.Context, seen view) view {
	k := newCall(Key{}, "", protocol.Mark(seen.Guard, c.waits.Kind()))
	c.run(ctx, k)
	if k.Err != nil { // it cannot be marked now, with the memory full for instance: the poll remains
		return view{Marked: true, Ends: seen.Ends}
	}
	if k.Reply.Code != protocol.InProgress {
		return view{}
	}
	seen.Marked, seen.Ends = true, k.Reply.Remaining()
	return seen
}

// claimWaiting goes on with a claim that found somebody at work.
func (c *Coordinator) claimWaiting(ctx context.Context, q *claim, refusal error) (lease *Lease, err error) {
	waiting, cancel := context.WithTimeout(ctx, q.wait)
	defer cancel()
	err = refusal
	look := func() view {
		// Under ctx, not waiting: a claim that has begun is not cut off by the end of the wait.
		lease, err = c.claim(ctx, q)
		if errors.Is(err, ErrInProgress) {
			return q.seen
		}
		if errors.Is(err, ErrCompleted) {
			return view{Done: true, Finished: q.finished}
		}
		return view{Done: true}
	}
	told := func(found *protocol.Record) {
		err = &CompletedError{Key: q.key, Result: resultOf(found)}
		if !bytes.Equal(found.Fingerprint, q.fingerprint) {
			err = mismatch(q.key)
		}
	}
	if !c.waits.In(waiting, "claim "+q.names.Record, q.seen, wakeup.Waiter[protocol.Record]{Look: look, Mark: c.mark, Told: told}) {
		if c.closed() {
			return nil, ErrClosed
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
	return lease, err
}

// Result returns the stored result of key: ErrNotFound where nobody has begun or the last one gave up,
// ErrInProgress while there is somebody whose result may come, ErrMismatch where the key was used with
// another fingerprint (nil for none). It reads the master, unless [WithReplayCache] has the result.
func (c *Coordinator) Result(ctx context.Context, key Key, fingerprint []byte) (result Result, err error) {
	ctx, end := c.begin(ctx, "result", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return Result{}, err
	}
	result, _, err = c.result(ctx, key, n, fingerprint)
	return result, err
}

// Await is Result, but where there is none it waits until there is, or ctx ends; then the error is
// ErrInProgress or ErrNotFound, and ctx's. Whoever runs the operation, and how often, does not matter.
func (c *Coordinator) Await(ctx context.Context, key Key, fingerprint []byte) (result Result, err error) {
	ctx, end := c.begin(ctx, "await", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return Result{}, err
	}
	var seen view
	look := func() view {
		result, seen, err = c.result(ctx, key, n, fingerprint)
		return seen
	}
	told := func(found *protocol.Record) {
		result, err = resultOf(found), nil
		if !bytes.Equal(found.Fingerprint, fingerprint) {
			result, err = Result{}, mismatch(key)
		}
	}
	if seen = look(); seen.Done {
		return result, err
	}
	if !c.waits.In(ctx, "await "+n.Record, seen, wakeup.Waiter[protocol.Record]{Look: look, Mark: c.mark, Told: told}) {
		if c.closed() {
			return Result{}, ErrClosed
		}
		return Result{}, fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return result, err
}

func (c *Coordinator) result(ctx context.Context, key Key, n keyname.Names, fingerprint []byte) (Result, view, error) {
	if len(fingerprint) > maxFingerprint {
		return Result{}, view{Done: true}, fmt.Errorf("%w: a fingerprint has at most %d bytes, not %d; give it a digest", ErrInvalid, maxFingerprint, len(fingerprint))
	}
	if r, err := c.atHand(key, fingerprint); err != nil {
		return Result{}, view{Done: true}, err
	} else if r != nil {
		result := resultAtHand(r)
		result.Payload = []byte(r.Payload)
		return result, view{Done: true}, nil
	}
	k := newCall(key, "", protocol.Inspect(n, true))
	c.run(ctx, k)
	r := &k.Reply
	switch {
	case k.Err != nil:
		return Result{}, view{Done: true}, k.Err
	case r.Code == protocol.Absent:
		return Result{}, view{}, fmt.Errorf("%w: %s has no record", ErrNotFound, label(key))
	case r.Code != protocol.OK:
		return Result{}, view{Done: true}, k.unexpected()
	case r.Rec.Bound && !bytes.Equal(r.Rec.Fingerprint, fingerprint):
		return Result{}, view{Done: true}, mismatch(key)
	case r.Rec.Finished():
		c.remember(k, lifeOf(r), r.Rec.Mark == '1')
		return resultOf(&r.Rec), view{Done: true, Finished: &r.Rec}, nil
	case r.Rec.State == protocol.StateReleased:
		return Result{}, view{}, fmt.Errorf("%w: %s was given up without a result", ErrNotFound, label(key))
	}
	seen := view{}
	if r.Remaining() > 0 {
		seen = c.viewOf(r, n.Record)
	}
	return Result{}, seen, &InProgressError{Key: key, RetryAfter: r.Remaining(), Attempt: r.Rec.Attempt}
}
