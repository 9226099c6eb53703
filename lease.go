package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/renewal"
)

// Lease is the right to work on a key for a time. It is renewed until it is completed, failed, released
// or lost, or reaches its maximum lifetime. Its methods are safe for concurrent use.
type Lease struct {
	c           *Coordinator
	key         Key
	names       keyname.Names
	grant       Grant
	head        string
	attempt     int
	fingerprint []byte
	checkpoint  []byte
	lease       time.Duration
	grace       time.Duration
	manual      bool
	takeover    bool // of a lapsed lease
	ctx         context.Context
	cancel      context.CancelCauseFunc

	mu          sync.Mutex
	saving      chan struct{} // one checkpoint at a time; made for the first
	sent        time.Time     // when the copy went out that the deadline rests on
	deadline    time.Time     // local, monotonic
	latest      time.Time     // the deadline that no renewal passes, by our own clock
	end         time.Duration // the server's, as last confirmed
	length      time.Duration // as it is stored with that end
	now         time.Duration // the server's clock at that confirmation
	maximum     time.Duration // the end that no renewal passes
	sequence    int64         // of the last checkpoint
	completedAt time.Time
	finishing   int // completions under way: a renewal that finds the record ended is no loss
	completed   bool
	doomed      bool // a renewal found it over meanwhile
	over        bool // the context has ended

	place renewal.Place // the schedule's
}

// newLease makes a lease of a reply that confirmed its grant.
func (c *Coordinator) newLease(ctx context.Context, key Key, n keyname.Names, q *request, r *protocol.Reply) *Lease {
	// The owner is taken out of the head and not out of the reply, all of which would stay in memory with it.
	head := protocol.Head(r.Rec.Owner, r.Rec.Token)
	g := Grant{Token: Token(r.Rec.Token), Owner: protocol.OwnerIn(head)}
	l := &Lease{
		c: c, key: key, names: n, grant: g, head: head, attempt: r.Rec.Attempt, fingerprint: r.Rec.Fingerprint,
		lease: q.lease, grace: q.grace, manual: q.manual, sequence: r.Rec.Sequence,
		maximum: r.Rec.Maximum,
	}
	if r.Rec.Checkpointed {
		l.checkpoint = r.Rec.Data
	}
	l.ctx, l.cancel = context.WithCancelCause(ContextWithGrant(context.WithoutCancel(ctx), g))
	l.confirm(r)
	return l
}

// confirm moves the deadline to what a reply of Redis allows: a grace before the stored end, counted from
// before the copy that was answered went out, and never later than one lease from then (P6).
func (l *Lease) confirm(r *protocol.Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Sent.Before(l.sent) {
		return // an older copy's answer came late
	}
	l.sent, l.end, l.length, l.now = r.Sent, r.Rec.End, r.Rec.Length, r.Now
	l.deadline = r.Sent.Add(min(l.lease, r.Remaining()-l.grace))
	if l.latest.IsZero() {
		l.latest = r.Sent.Add(r.Rec.Maximum - r.Now - l.grace)
	}
	if l.latest.Before(l.deadline) { // the server's clock was stepped back: its maximum has moved away
		l.deadline = l.latest
	}
}

func (l *Lease) expired() bool { return !time.Now().Before(l.Deadline()) }

// Key returns what was claimed.
func (l *Lease) Key() Key { return l.key }

// Token returns the fencing token: greater than every token granted on the key, or its resource, before (P2).
func (l *Lease) Token() Token { return l.grant.Token }

// Grant returns the proof of the grant, for [Coordinator.Fence] and for other processes.
func (l *Lease) Grant() Grant { return l.grant }

// Attempt returns 1 for the first run of the operation, more after a release or a takeover.
func (l *Lease) Attempt() int { return l.attempt }

// Fingerprint returns what the key is bound to, the caller's own copy; nil when the claim gave none.
func (l *Lease) Fingerprint() []byte { return bytes.Clone(l.fingerprint) }

// Checkpoint returns what was saved last, by an earlier attempt or with this lease, the caller's own copy; nil when
// there is none.
func (l *Lease) Checkpoint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.checkpoint)
}

// Context has the values of the claim's context, but not its cancellation, and carries the grant. It ends
// with the cause ErrLeaseLost before the lease's end can let anyone else in (P6), with ErrClosed on Close,
// and with context.Canceled after Complete, Fail or Release.
func (l *Lease) Context() context.Context { return l.ctx }

// Deadline returns when the context ends unless the lease is renewed before.
func (l *Lease) Deadline() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline
}

// Renew prolongs the lease by one lease from now, up to its maximum lifetime. Needed with [ManualRenewal] only.
// ErrLeaseLost, ErrStaleToken: the lease is over. ErrNotReplicated: the deadline has not moved; try again.
func (l *Lease) Renew(ctx context.Context) (err error) {
	ctx, end := l.c.begin(ctx, "renew", l.key)
	defer func() { end(outcomeOf(err), err) }()
	if l.lost() {
		return l.lostError()
	}
	k := l.renewCall(false)
	l.c.run(ctx, k)
	return l.renewed(k)
}

func (l *Lease) renewCall(whole bool) *call {
	return l.call(protocol.Renew(l.names, l.head, l.lease+l.grace, l.c.retention, whole))
}

func (l *Lease) call(q protocol.Request) *call { return newCall(l.key, l.grant.Owner, q) }

// renewed takes a renewal's reply: it moves the deadline, or ends the lease.
func (l *Lease) renewed(k *call) error {
	switch {
	case k.Err != nil:
		return k.Err
	case k.Reply.Code == protocol.OK && k.Unconfirmed:
		return fmt.Errorf("%w: renewal of %s; the deadline has not moved, renew again", ErrNotReplicated, label(l.key))
	case k.Reply.Code == protocol.OK && l.lost(): // while the reply was on its way
		return l.lostError()
	case k.Reply.Code == protocol.OK:
		l.confirm(&k.Reply)
		l.c.schedule.Moved(l)
		return nil
	}
	return l.refused(k)
}

// refused is the error for a reply that says that the grant is not the current one. The lease is over then,
// unless a completion of this very lease is under way, which explains it.
func (l *Lease) refused(k *call) error {
	switch k.Reply.Code {
	case protocol.Lost:
		l.lose()
		return l.lostError()
	case protocol.Stale:
		l.lose()
		return k.stale(l.grant.Token)
	}
	return k.unexpected()
}

func (l *Lease) lostError() error {
	if errors.Is(context.Cause(l.ctx), ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %s, token %d; stop this work", ErrLeaseLost, label(l.key), l.grant.Token)
}

func (l *Lease) lost() bool {
	cause := context.Cause(l.ctx)
	return errors.Is(cause, ErrLeaseLost) || errors.Is(cause, ErrClosed)
}

// lose ends the lease's context, unless the lease is just being finished.
func (l *Lease) lose() {
	l.mu.Lock()
	finishing := l.finishing > 0
	l.doomed = l.doomed || finishing
	l.mu.Unlock()
	if !finishing {
		l.finish(ErrLeaseLost)
	}
}

// noteHeld tells the observer by how much the number of leases has changed.
func (c *Coordinator) noteHeld(change int) {
	c.observer.Note(Event{Op: "lease", Outcome: "held", Count: change})
}

// finish ends the lease's context with a cause, nil for a good end, and its renewal.
func (l *Lease) finish(cause error) {
	l.mu.Lock()
	first := !l.over
	l.over = true
	l.cancel(cause)
	l.mu.Unlock()
	l.c.schedule.Remove(l)
	switch {
	case !first:
	case errors.Is(cause, ErrLeaseLost):
		note := func() {
			l.c.observer.Note(Event{Op: "lease", Outcome: "lost", Key: l.key, Err: cause, Count: 1})
			l.c.noteHeld(-1)
		}
		// Beside us: the observer takes the time that it takes, and other leases' ends do not wait for it.
		if !l.c.start(note) {
			note()
		}
	default:
		l.c.noteHeld(-1)
	}
}

// SaveCheckpoint keeps data, at most [WithMaxPayload] bytes, for the attempt that may follow this one;
// each replaces the one before. ErrStaleToken: the grant is not current, or another holder of it saved later.
func (l *Lease) SaveCheckpoint(ctx context.Context, data []byte) (err error) {
	ctx, end := l.c.begin(ctx, "checkpoint", l.key)
	defer func() { end(outcomeOf(err), err) }()
	if err := l.c.fits("checkpoint", data); err != nil {
		return err
	}
	ctx, cancel := l.c.carrier.Bound(ctx)
	defer cancel()
	saving := l.turns()
	select {
	case saving <- struct{}{}:
		defer func() { <-saving }()
	case <-ctx.Done():
		return fmt.Errorf("%w: another checkpoint of %s is under way: %w", ErrUnavailable, label(l.key), context.Cause(ctx))
	}
	l.mu.Lock()
	l.sequence++
	sequence := l.sequence
	l.mu.Unlock()
	k := l.call(protocol.Checkpoint(l.names, l.head, sequence, data))
	l.c.run(ctx, k)
	switch {
	case k.Err != nil:
		return k.Err
	case k.Reply.Code == protocol.OK:
		l.mu.Lock()
		l.checkpoint = bytes.Clone(data)
		l.mu.Unlock()
		return nil
	case k.Reply.Code == protocol.Stale && k.Reply.Rec.State == protocol.StateInProgress && k.Reply.Rec.Owner == l.grant.Owner:
		// Still ours: a process that resumed the grant has saved a later one.
		return k.stale(l.grant.Token)
	}
	return l.refused(k)
}

// turns is where checkpoints take turns.
func (l *Lease) turns() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.saving == nil {
		l.saving = make(chan struct{}, 1)
	}
	return l.saving
}

type completion struct {
	retention time.Duration
}

// CompleteOption configures [Lease.Complete] and [Lease.Fail].
type CompleteOption func(*Coordinator, *completion) error

// RetainFor keeps this result for d instead of [WithRetention]'s time: at least the coordinator's maximum
// lifetime and its grace, so that no holder of an older grant outlives it.
func RetainFor(d time.Duration) CompleteOption {
	return func(c *Coordinator, o *completion) error {
		if least := c.leastRetention(); d < least || d > longest {
			return fmt.Errorf("%w: RetainFor takes %v (the maximum lifetime and its grace) to %v, not %v", ErrInvalid, least, longest, d)
		}
		o.retention = d
		return nil
	}
}

// Complete stores result, at most [WithMaxPayload] bytes, and ends the lease. Again with the same bytes:
// nil; with others: *[CompletedError] with what is stored. ErrLeaseLost, ErrStaleToken: too late, nothing was
// stored. ErrUnknown: call again. ErrNotReplicated: it stands and is visible; call again to learn whether replicas have it.
func (l *Lease) Complete(ctx context.Context, result []byte, opts ...CompleteOption) error {
	return l.complete(ctx, "complete", protocol.StateCompleted, result, opts)
}

// Fail stores a final failure, which is replayed like a result, with Result.Failed set. Otherwise it is as Complete.
func (l *Lease) Fail(ctx context.Context, result []byte, opts ...CompleteOption) error {
	return l.complete(ctx, "fail", protocol.StateFailed, result, opts)
}

func (l *Lease) complete(ctx context.Context, op string, outcome byte, result []byte, opts []CompleteOption) (err error) {
	ctx, end := l.c.begin(ctx, op, l.key)
	defer func() { end(outcomeOf(err), err) }()
	if err := l.c.fits("result", result); err != nil {
		return err
	}
	o := completion{retention: l.c.retention}
	for _, opt := range opts {
		if opt == nil {
			return fmt.Errorf("%w: an option is nil; leave it out", ErrInvalid)
		}
		if err := opt(l.c, &o); err != nil {
			return err
		}
	}
	k := l.completeCall(ctx, outcome, result, o.retention)
	l.c.run(ctx, k)
	l.mu.Lock()
	l.finishing--
	doomed := l.doomed && l.finishing == 0
	l.mu.Unlock()
	if k.Err != nil {
		if doomed { // a renewal has found the lease over, and it was not this call that ended it
			l.finish(ErrLeaseLost)
		}
		return k.Err
	}
	switch k.Reply.Code {
	case protocol.OK, protocol.Restored:
		l.mu.Lock()
		l.completed, l.completedAt = true, time.UnixMilli(k.Reply.Now.Milliseconds())
		l.mu.Unlock()
		l.finish(nil)
		if k.Reply.Code == protocol.Restored {
			l.c.observer.Note(Event{Op: "complete", Outcome: "restored", Key: l.key, Count: 1})
		}
		if k.Unconfirmed {
			return fmt.Errorf("%w: the outcome of %s stands and is visible, but a failover may lose it; call again to learn more", ErrNotReplicated, label(l.key))
		}
		l.rememberOwn(k, outcome, result, o.retention)
		return nil
	case protocol.Finished:
		l.finish(nil)
		return &CompletedError{Key: l.key, Result: resultOf(&k.Reply.Rec)}
	}
	return l.refused(k)
}

// completeCall begins a completion. Where its first sending is answered or given up within the lease, the key has the
// retention ahead of it already, as claim and renewals set it beyond the lease's end.
func (l *Lease) completeCall(ctx context.Context, outcome byte, result []byte, retention time.Duration) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finishing++
	rec := protocol.Record{
		State: outcome, Owner: l.grant.Owner, Token: int64(l.grant.Token), Attempt: l.attempt,
		Fingerprint: l.fingerprint, Bound: true, End: l.now + time.Since(l.sent), Data: result,
	}
	args := protocol.CompleteArgs{Record: rec, Retention: retention, End: l.end, Replicated: l.c.replicas > 0}
	if l.names.Fence == "" && l.checkpoint == nil && retention == l.c.retention && l.c.carrier.GivenUp(ctx).Before(l.deadline) {
		claimed := rec
		claimed.State, claimed.End, claimed.Length, claimed.Maximum, claimed.Data = protocol.StateInProgress, l.end, l.length, l.maximum, nil
		args.Replaced = &claimed
	}
	return l.call(protocol.Complete(l.names, args))
}

// Release gives the key up without an outcome: the next claim may run at once. After Complete or Fail it does nothing, so
// defer it. The lease's context ends and it is not renewed any more, whatever becomes of the call. A grant that is not the
// current one has nothing to release: nil. With a context that has ended already the release goes on in the background, for
// a second at most, and the error is ErrUnknown.
func (l *Lease) Release(ctx context.Context) error {
	return l.giveUp(ctx, "release", func(ctx context.Context) error {
		k := l.call(protocol.Release(l.names, l.head, l.c.retention))
		l.c.run(ctx, k)
		return k.done()
	})
}

// GiveBack is [Lease.Release] for who has not begun to work: the attempt does not count.
func (l *Lease) GiveBack(ctx context.Context) error {
	return l.giveUp(ctx, "give_back", func(ctx context.Context) error { return l.c.giveBack(ctx, l.key, l.names, l.grant.Owner) })
}

func (l *Lease) giveUp(ctx context.Context, op string, tell func(context.Context) error) (err error) {
	l.mu.Lock()
	completed := l.completed
	l.mu.Unlock()
	if completed {
		return nil
	}
	ctx, end := l.c.begin(ctx, op, l.key)
	defer func() { end(outcomeOf(err), err) }()
	ended := ctx.Err() != nil
	// The work is over whatever becomes of the call: were the lease renewed on, a lost release would block
	// the key until its maximum lifetime.
	l.finish(nil)
	if ended && l.c.tidy(ctx, func(ctx context.Context) { _ = tell(ctx) }) {
		return &UnknownError{Key: l.key, Owner: l.grant.Owner, Err: fmt.Errorf("it goes on in the background: %w", context.Cause(ctx))}
	}
	if g, _ := GrantFrom(ctx); g == l.grant { // the work's own context, which we have just ended
		var done func()
		ctx, done = outliving(ctx, tidyTime)
		defer done()
	}
	return tell(ctx)
}
