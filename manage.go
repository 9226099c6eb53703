package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/replaycache"
)

// Result is a stored outcome.
type Result struct {
	Payload     []byte // the caller's own copy
	Failed      bool   // stored by Lease.Fail or Final
	Token       Token  // of the grant that stored it
	CompletedAt time.Time
}

func resultOf(r *protocol.Record) Result {
	return Result{
		Payload: bytes.Clone(r.Data), Failed: r.State == protocol.StateFailed, Token: Token(r.Token), CompletedAt: time.UnixMilli(r.End.Milliseconds()),
	}
}

// State is where a record stands.
type State string

// The states of a record.
const (
	StateAbsent     State = "absent"      // no record: never claimed, or its retention is over
	StateInProgress State = "in_progress" // somebody holds the lease
	StateLapsed     State = "lapsed"      // the lease ran out without an outcome; the next claim takes over
	StateReleased   State = "released"    // given up, or expired; the next claim runs
	StateCompleted  State = "completed"
	StateFailed     State = "failed"
)

// Record is what [Coordinator.Inspect] finds. Owner is masked, because it is a credential.
type Record struct {
	Key                Key
	State              State
	Token              Token
	Attempt            int // 0 after Expire
	Owner              string
	Fingerprint        []byte
	LeaseRemaining     time.Duration // 0 unless in progress
	RetentionRemaining time.Duration // until Redis forgets the record, unless it is written again; -1ms when somebody removed its TTL
	CompletedAt        time.Time     // zero unless finished
	PayloadSize        int           // of the result, or of the checkpoint
}

// Inspect shows what there is under key, as the master sees it, without changing anything. Nothing there
// is State "absent" and a nil error.
func (c *Coordinator) Inspect(ctx context.Context, key Key) (record Record, err error) {
	ctx, end := c.begin(ctx, "inspect", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return Record{}, err
	}
	r, err := c.read(ctx, key, n)
	if err != nil {
		return Record{}, err
	}
	record = Record{Key: key, State: stateOf(r)}
	if record.State == StateAbsent {
		return record, nil
	}
	record.Token, record.Attempt, record.Fingerprint = Token(r.Rec.Token), r.Rec.Attempt, r.Rec.Fingerprint
	record.Owner = r.Rec.Owner[:4] + "****"
	record.RetentionRemaining = time.Duration(r.Number) * time.Millisecond
	record.PayloadSize = int(r.Size)
	if r.Rec.State == protocol.StateInProgress {
		record.LeaseRemaining = r.Remaining()
	}
	if r.Rec.Finished() {
		record.CompletedAt = time.UnixMilli(r.Rec.End.Milliseconds())
	}
	return record, nil
}

func stateOf(r *protocol.Reply) State {
	switch {
	case r.Code == protocol.Absent:
		return StateAbsent
	case r.Rec.State == protocol.StateReleased:
		return StateReleased
	case r.Rec.State == protocol.StateCompleted:
		return StateCompleted
	case r.Rec.State == protocol.StateFailed:
		return StateFailed
	case r.Remaining() > 0:
		return StateInProgress
	}
	return StateLapsed
}

func (c *Coordinator) read(ctx context.Context, key Key, n keyname.Names) (*protocol.Reply, error) {
	k := newCall(key, "", protocol.Inspect(n, false))
	c.run(ctx, k)
	if k.Err == nil && k.Reply.Code != protocol.OK && k.Reply.Code != protocol.Absent {
		k.Err = k.unexpected()
	}
	return &k.Reply, k.Err
}

// Expire fences out what is there now and forgets it: a holder loses its lease at its next renewal and its writes
// are refused at once, a stored result is gone, and the next claim works anew with a greater token.
func (c *Coordinator) Expire(ctx context.Context, key Key) (err error) {
	ctx, end := c.begin(ctx, "expire", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return err
	}
	defer c.cache.Drop(replaycache.Key(key)) // behind the reply: what was sent before it may have seen what is gone now
	ctx, cancel := c.carrier.Bound(ctx)
	defer cancel()
	r, err := c.read(ctx, key, n)
	if err != nil {
		return err
	}
	owner, err := c.newOwner()
	if err != nil {
		return err
	}
	// The owner and the token that were read keep a copy that arrives late from expiring what came after.
	k := newCall(key, "", protocol.Expire(n, &r.Rec, owner, c.leastRetention(), c.retention))
	c.run(ctx, k)
	return k.done()
}

// GiveBack ends the claim of this owner, whose outcome its caller does not know, where it was granted; a
// copy of the claim that is still on its way then grants nothing. Its attempt does not count, for nobody has worked under it:
// who has calls [Lease.Release]. Do and the adapters give back by themselves.
func (c *Coordinator) GiveBack(ctx context.Context, key Key, owner string) (err error) {
	ctx, end := c.begin(ctx, "give_back", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return err
	}
	if !protocol.IsOwner(owner) {
		return fmt.Errorf("%w: GiveBack takes UnknownError.Owner, 32 lower-case hex digits", ErrInvalid)
	}
	defer c.cache.Drop(replaycache.Key(key))
	return c.giveBack(ctx, key, n, owner)
}

func (c *Coordinator) giveBack(ctx context.Context, key Key, n keyname.Names, owner string) error {
	k := newCall(key, owner, protocol.GiveBack(n, owner, c.retention, c.leastRetention()))
	c.run(ctx, k)
	return k.done()
}

// Resolution is how an operator settles a lapsed key: Rerun alone frees it to run again; otherwise Payload
// becomes the final result, or the final failure when Failed is set.
type Resolution struct {
	Rerun, Failed bool
	Payload       []byte
}

// Resolve settles a key whose lease lapsed, see [QuarantineLapsed]; the old holder is fenced out. Otherwise it
// changes nothing: ErrInProgress, *[CompletedError], ErrNotFound. What was asked for already there is nil.
func (c *Coordinator) Resolve(ctx context.Context, key Key, r Resolution) (err error) {
	ctx, end := c.begin(ctx, "resolve", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return err
	}
	state := byte(protocol.StateCompleted)
	if r.Failed {
		state = protocol.StateFailed
	}
	if r.Rerun {
		if state = protocol.StateReleased; r.Failed || r.Payload != nil {
			return fmt.Errorf("%w: Resolution.Rerun stands alone; leave out Failed and Payload", ErrInvalid)
		}
	}
	if err := c.fits("payload", r.Payload); err != nil {
		return err
	}
	defer c.cache.Drop(replaycache.Key(key))
	ctx, cancel := c.carrier.Bound(ctx)
	defer cancel()
	before, err := c.read(ctx, key, n)
	if err != nil {
		return err
	}
	k := newCall(key, "", protocol.Resolve(n, &before.Rec, state, r.Payload, c.retention))
	c.run(ctx, k)
	if k.Err != nil {
		return k.Err
	}
	switch k.Reply.Code {
	case protocol.OK:
		return nil
	case protocol.Absent:
		return fmt.Errorf("%w: nothing of %s is left to settle; a claim may run", ErrNotFound, label(key))
	case protocol.InProgress:
		return &InProgressError{Key: key, RetryAfter: k.Reply.Remaining(), Attempt: k.Reply.Rec.Attempt}
	case protocol.Finished:
		return &CompletedError{Key: key, Result: resultOf(&k.Reply.Rec)}
	case protocol.MovedOn:
		return fmt.Errorf("%w: %s ran again and lapsed again meanwhile; inspect it anew", ErrInProgress, label(key))
	}
	return k.unexpected()
}
