package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/scripts"
)

// Result is a stored outcome.
type Result struct {
	Payload     []byte // the caller's own copy
	Failed      bool   // stored by Lease.Fail or Final
	Token       Token  // of the grant that stored it
	CompletedAt time.Time
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
	record.Token, record.Attempt, record.Fingerprint = r.rec.token, r.rec.attempt, r.rec.fingerprint
	record.Owner = r.rec.owner[:4] + "****"
	record.RetentionRemaining = time.Duration(r.number) * time.Millisecond
	record.PayloadSize = int(r.size)
	if r.rec.state == stateInProgress {
		record.LeaseRemaining = r.remaining()
	}
	if r.rec.finished() {
		record.CompletedAt = time.UnixMilli(r.rec.end.Milliseconds())
	}
	return record, nil
}

func stateOf(r *reply) State {
	switch {
	case r.code == codeAbsent:
		return StateAbsent
	case r.rec.state == stateReleased:
		return StateReleased
	case r.rec.state == stateCompleted:
		return StateCompleted
	case r.rec.state == stateFailed:
		return StateFailed
	case r.remaining() > 0:
		return StateInProgress
	}
	return StateLapsed
}

func (c *Coordinator) namesOf(key Key) (keyname.Names, error) {
	if c.closed() {
		return keyname.Names{}, ErrClosed
	}
	if err := key.Validate(); err != nil {
		return keyname.Names{}, err
	}
	return c.names(key), nil
}

func (c *Coordinator) read(ctx context.Context, key Key, n keyname.Names) (*reply, error) {
	k := &call{script: scripts.Inspect, key: key, keys: []string{n.Record}}
	c.run(ctx, k)
	if k.err == nil && k.reply.code != codeOK && k.reply.code != codeAbsent {
		k.err = unexpected(k)
	}
	return &k.reply, k.err
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
	ctx, cancel := c.bound(ctx)
	defer cancel()
	r, err := c.read(ctx, key, n)
	if err != nil {
		return err
	}
	owner, err := c.newOwner()
	if err != nil {
		return err
	}
	// The token that was read keeps a copy that arrives late from expiring what came after.
	k := &call{script: scripts.Expire, key: key, keys: n.Keys(), args: []any{
		fmt.Sprintf("%016d", r.rec.token), owner, millis(c.leastRetention()), millis(c.retention),
	}}
	c.run(ctx, k)
	return done(k)
}

func done(k *call) error {
	if k.err == nil && k.reply.code != codeOK {
		return unexpected(k)
	}
	return k.err
}

// GiveBack ends the claim of this owner, whose outcome its caller does not know, where it was granted; a
// copy of the claim that is still on its way then grants nothing. Do and the adapters do that by themselves.
func (c *Coordinator) GiveBack(ctx context.Context, key Key, owner string) (err error) {
	ctx, end := c.begin(ctx, "give_back", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return err
	}
	if !isOwner(owner) {
		return fmt.Errorf("%w: GiveBack takes UnknownError.Owner, 32 lower-case hex digits", ErrInvalid)
	}
	return c.giveBack(ctx, key, n, owner, false)
}

func (c *Coordinator) giveBack(ctx context.Context, key Key, n keyname.Names, owner string, uncounted bool) error {
	k := &call{script: scripts.GiveBack, key: key, owner: owner, keys: n.Keys(), args: []any{
		owner, millis(c.retention), millis(c.leastRetention()),
	}}
	if uncounted {
		k.args = append(k.args, "1")
	}
	c.run(ctx, k)
	return done(k)
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
	state := stateCompleted
	if r.Failed {
		state = stateFailed
	}
	if r.Rerun {
		if state = stateReleased; r.Failed || r.Payload != nil {
			return fmt.Errorf("%w: Resolution.Rerun stands alone; leave out Failed and Payload", ErrInvalid)
		}
	}
	if err := c.fits("payload", r.Payload); err != nil {
		return err
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	before, err := c.read(ctx, key, n)
	if err != nil {
		return err
	}
	k := &call{script: scripts.Resolve, key: key, keys: n.Keys(), args: []any{
		fmt.Sprintf("%016d", before.rec.token), string(state), bytes.Clone(r.Payload), millis(c.retention),
	}}
	c.run(ctx, k)
	if k.err != nil {
		return k.err
	}
	switch k.reply.code {
	case codeOK:
		return nil
	case codeAbsent:
		return fmt.Errorf("%w: nothing of %s is left to settle; a claim may run", ErrNotFound, label(key))
	case codeInProgress:
		return &InProgressError{Key: key, RetryAfter: k.reply.remaining(), Attempt: k.reply.rec.attempt}
	case codeFinished:
		return &CompletedError{Key: key, Result: k.reply.rec.result()}
	case codeMovedOn:
		return fmt.Errorf("%w: %s ran again and lapsed again meanwhile; inspect it anew", ErrInProgress, label(key))
	}
	return unexpected(k)
}

// Resume goes on with a grant that was made elsewhere, in another process for instance; it renews first, so it
// returns ErrLeaseLost or ErrStaleToken where the grant is not current. Of the options it takes LeaseFor and ManualRenewal.
func (c *Coordinator) Resume(ctx context.Context, key Key, g Grant, opts ...ClaimOption) (lease *Lease, err error) {
	ctx, end := c.begin(ctx, "resume", key)
	defer func() { end(outcomeOf(err), err) }()
	n, err := c.namesOf(key)
	if err != nil {
		return nil, err
	}
	if err := g.validate(); err != nil {
		return nil, err
	}
	q, err := c.request(opts)
	if err != nil {
		return nil, err
	}
	if len(q.claimOnly) > 0 {
		return nil, fmt.Errorf("%w: Resume does not take %s; only a claim does", ErrInvalid, q.claimOnly[0])
	}
	l := &Lease{c: c, key: key, names: n, grant: g, head: head(g), lease: q.lease, grace: q.grace}
	k := l.renewCall(true)
	c.run(ctx, k)
	switch {
	case k.err != nil:
		return nil, k.err
	case k.reply.code == codeLost:
		return nil, fmt.Errorf("%w: the grant of %s, token %d, has ended", ErrLeaseLost, label(key), g.Token)
	case k.reply.code == codeStale:
		return nil, &StaleTokenError{Key: key, Token: g.Token, Current: k.reply.rec.token}
	case k.reply.code != codeOK:
		return nil, unexpected(k)
	case k.unconfirmed:
		return nil, fmt.Errorf("%w: renewal of %s; resume again", ErrNotReplicated, label(key))
	}
	lease = c.newLease(ctx, key, n, &q, &k.reply)
	if lease.expired() {
		return nil, lease.lostError()
	}
	c.renewer.add(lease)
	return lease, nil
}
