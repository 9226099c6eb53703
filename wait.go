package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/wakeup"
	"github.com/onceward/coordinator/scripts"
)

type view = wakeup.View[record]

func newWaits(c *Coordinator) *wakeup.Waits[record] {
	return wakeup.New[record](wakeup.Host{
		Client: c.rdb, Cluster: c.cluster, Base: c.base, Start: c.start, BackOff: c.backOff, Jitter: c.jitter,
		Note: func(n int) { c.observer.Note(Event{Op: "wait", Outcome: "waiting", Count: n}) },
	})
}

func (c *Coordinator) viewOf(r *reply, guard string) view {
	return view{Guard: guard, Marked: r.rec.mark == c.waits.Kind() || r.rec.mark == '3', Ends: r.remaining()}
}

// mark asks to be woken. Not marked means: look again.
func (c *Coordinator) mark(ctx context.Context, seen view) view {
	k := &call{script: scripts.Mark, keys: []string{seen.Guard}, args: []any{string(c.waits.Kind())}}
	c.run(ctx, k)
	if k.err != nil { // it cannot be marked now, with the memory full for instance: the poll remains
		seen.Marked = true
		return seen
	}
	if k.reply.code != codeInProgress {
		return view{}
	}
	seen.Marked, seen.Ends = true, k.reply.remaining()
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
	told := func(found *record) {
		err = &CompletedError{Key: q.key, Result: found.result()}
		if !bytes.Equal(found.fingerprint, q.fingerprint) {
			err = mismatch(q.key)
		}
	}
	if !c.waits.In(waiting, "claim "+q.names.Record, q.seen, wakeup.Waiter[record]{Look: look, Mark: c.mark, Told: told}) {
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
// another fingerprint (nil for none). It reads the master.
func (c *Coordinator) Result(ctx context.Context, key Key, fingerprint []byte) (result Result, err error) {
	ctx, end := c.begin(ctx, "result", key)
	defer func() { end(outcomeOf(err), err) }()
	if err := c.checkResult(key, fingerprint); err != nil {
		return Result{}, err
	}
	result, _, err = c.result(ctx, key, c.names(key), fingerprint)
	return result, err
}

// Await is Result, but where there is none it waits until there is, or ctx ends; then the error is
// ErrInProgress or ErrNotFound, and ctx's. Whoever runs the operation, and how often, does not matter.
func (c *Coordinator) Await(ctx context.Context, key Key, fingerprint []byte) (result Result, err error) {
	ctx, end := c.begin(ctx, "await", key)
	defer func() { end(outcomeOf(err), err) }()
	if err := c.checkResult(key, fingerprint); err != nil {
		return Result{}, err
	}
	n := c.names(key)
	var seen view
	look := func() view {
		result, seen, err = c.result(ctx, key, n, fingerprint)
		return seen
	}
	told := func(found *record) {
		result, err = found.result(), nil
		if !bytes.Equal(found.fingerprint, fingerprint) {
			result, err = Result{}, mismatch(key)
		}
	}
	if seen = look(); seen.Done {
		return result, err
	}
	if !c.waits.In(ctx, "await "+n.Record, seen, wakeup.Waiter[record]{Look: look, Mark: c.mark, Told: told}) {
		if c.closed() {
			return Result{}, ErrClosed
		}
		return Result{}, fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return result, err
}

func (c *Coordinator) checkResult(key Key, fingerprint []byte) error {
	if c.closed() {
		return ErrClosed
	}
	if len(fingerprint) > maxFingerprint {
		return fmt.Errorf("%w: a fingerprint has at most %d bytes, not %d; give it a digest", ErrInvalid, maxFingerprint, len(fingerprint))
	}
	return key.Validate()
}

func (c *Coordinator) result(ctx context.Context, key Key, n keyname.Names, fingerprint []byte) (Result, view, error) {
	k := &call{script: scripts.Inspect, key: key, keys: []string{n.Record}, args: []any{"1"}}
	c.run(ctx, k)
	r := &k.reply
	switch {
	case k.err != nil:
		return Result{}, view{Done: true}, k.err
	case r.code == codeAbsent:
		return Result{}, view{}, fmt.Errorf("%w: %s has no record", ErrNotFound, label(key))
	case r.code != codeOK:
		return Result{}, view{Done: true}, unexpected(k)
	case r.rec.bound && !bytes.Equal(r.rec.fingerprint, fingerprint):
		return Result{}, view{Done: true}, mismatch(key)
	case r.rec.finished():
		return r.rec.result(), view{Done: true, Finished: &r.rec}, nil
	case r.rec.state == stateReleased:
		return Result{}, view{}, fmt.Errorf("%w: %s was given up without a result", ErrNotFound, label(key))
	}
	seen := view{}
	if r.remaining() > 0 {
		seen = c.viewOf(r, n.Record)
	}
	return Result{}, seen, &InProgressError{Key: key, RetryAfter: r.remaining(), Attempt: r.rec.attempt}
}

func mismatch(key Key) error {
	return fmt.Errorf("%w: %s; a new request needs a new key", ErrMismatch, label(key))
}
