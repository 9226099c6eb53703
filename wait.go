package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Those who wait for one key in one process form a room. Its leader does the work for all: it listens,
// marks what it waits for, and looks again when it is woken, when the lease must have ended, and slowly
// in any case, so that a lost message costs a delay and not a hang. What it finds finished it hands to the
// others; when it leaves, the next in line leads.

// slowPoll is how long a lost wake-up can delay a waiter.
const slowPoll = 2 * time.Second

type rooms struct {
	mu     sync.Mutex
	byName map[string]*room
}

type room struct {
	name    string
	members []*member // the first one leads
	guard   string    // what sub listens to
	sub     *subscription
}

type member struct {
	lead chan struct{} // closed when this one leads
	told chan *record  // the finished record that the leader found
}

func newRooms() *rooms { return &rooms{byName: map[string]*room{}} }

func (r *rooms) enter(name string) (*room, *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.byName[name]
	if in == nil {
		in = &room{name: name}
		r.byName[name] = in
	}
	m := &member{lead: make(chan struct{}), told: make(chan *record, 1)}
	in.members = append(in.members, m)
	if len(in.members) == 1 {
		close(m.lead)
	}
	return in, m
}

// leave hands the lead on; with the last one the subscription ends.
func (r *rooms) leave(in *room, m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.Index(in.members, m)
	if at < 0 {
		return
	}
	in.members = slices.Delete(in.members, at, at+1)
	if len(in.members) == 0 {
		delete(r.byName, in.name)
		in.sub.end()
		return
	}
	if at == 0 {
		close(in.members[0].lead)
	}
}

// tell gives everybody but the leader what was found and empties the room.
func (r *rooms) tell(in *room, found *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range in.members[1:] {
		m.told <- found
	}
	in.members = in.members[:1]
}

// view is what a look at a key showed.
type view struct {
	done     bool          // there is an answer; the looker has it
	finished *record       // and it serves everybody in the room
	guard    string        // what to listen to and mark: the record or the fence in the way; empty: poll
	marked   bool          // it is marked already
	ends     time.Duration // how long the lease in the way lasts, unless renewed
}

func (c *Coordinator) viewOf(r *reply, guard string) view {
	return view{guard: guard, marked: r.rec.mark == c.hub.kind || r.rec.mark == '3', ends: r.remaining()}
}

// waitIn waits until look has an answer, or another one's look has: then told gets the record. It is
// false when ctx or the coordinator ended first.
func (c *Coordinator) waitIn(ctx context.Context, name string, seen view, look func() view, told func(*record)) bool {
	c.observer.Note(Event{Op: "wait", Outcome: "waiting", Count: 1})
	defer c.observer.Note(Event{Op: "wait", Outcome: "waiting", Count: -1})
	in, m := c.rooms.enter(name)
	defer c.rooms.leave(in, m)
	select {
	case found := <-m.told:
		told(found)
		return true
	case <-m.lead:
	case <-ctx.Done():
		return false
	case <-c.base.Done():
		return false
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if seen.guard != "" && seen.guard != in.guard {
			in.sub.end()
			in.guard, in.sub = seen.guard, c.hub.subscribe(seen.guard)
		}
		var ready, woken <-chan struct{}
		if in.sub != nil {
			woken = in.sub.woken
			if seen.guard != "" && !seen.marked {
				ready = in.sub.ready
			}
		}
		pause := c.jitter(slowPoll)
		if seen.ends > 0 {
			pause = min(pause, seen.ends+time.Millisecond)
		}
		timer.Reset(pause)
		select {
		case <-ready:
			if seen = c.mark(ctx, seen); seen.marked {
				continue
			}
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
			return false
		case <-c.base.Done():
			return false
		}
		if seen = look(); seen.finished != nil {
			c.rooms.tell(in, seen.finished)
		}
		if seen.done {
			return true
		}
	}
}

// mark asks to be woken. Not marked means: look again.
func (c *Coordinator) mark(ctx context.Context, seen view) view {
	k := &call{script: markScript, keys: []string{seen.guard}, args: []any{string(c.hub.kind)}}
	c.run(ctx, k)
	if k.err != nil || k.reply.code != codeInProgress {
		return view{}
	}
	seen.marked, seen.ends = true, k.reply.remaining()
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
			return view{done: true, finished: q.finished}
		}
		return view{done: true}
	}
	told := func(found *record) {
		err = &CompletedError{Key: q.key, Result: found.result()}
		if !bytes.Equal(found.fingerprint, q.fingerprint) {
			err = mismatch(q.key)
		}
	}
	if !c.waitIn(waiting, "claim "+q.names.record, q.seen, look, told) {
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
	result, _, err = c.result(ctx, key, c.namer.names(key), fingerprint)
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
	n := c.namer.names(key)
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
	if seen = look(); seen.done {
		return result, err
	}
	if !c.waitIn(ctx, "await "+n.record, seen, look, told) {
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

func (c *Coordinator) result(ctx context.Context, key Key, n names, fingerprint []byte) (Result, view, error) {
	k := &call{script: inspectScript, key: key, keys: []string{n.record}, args: []any{"1"}}
	c.run(ctx, k)
	r := &k.reply
	switch {
	case k.err != nil:
		return Result{}, view{done: true}, k.err
	case r.code == codeAbsent:
		return Result{}, view{}, fmt.Errorf("%w: %s has no record", ErrNotFound, label(key))
	case r.code != codeOK:
		return Result{}, view{done: true}, unexpected(k)
	case r.rec.bound && !bytes.Equal(r.rec.fingerprint, fingerprint):
		return Result{}, view{done: true}, mismatch(key)
	case r.rec.finished():
		return r.rec.result(), view{done: true, finished: &r.rec}, nil
	case r.rec.state == stateReleased:
		return Result{}, view{}, fmt.Errorf("%w: %s was given up without a result", ErrNotFound, label(key))
	}
	seen := view{}
	if r.remaining() > 0 {
		seen = c.viewOf(r, n.record)
	}
	return Result{}, seen, &InProgressError{Key: key, RetryAfter: r.remaining(), Attempt: r.rec.attempt}
}

func mismatch(key Key) error {
	return fmt.Errorf("%w: %s; a new request needs a new key", ErrMismatch, label(key))
}
