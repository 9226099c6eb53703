package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/onceward/coordinator/internal/carrier"
	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/replaycache"
)

// Claim asks for the lease on key. A nil error always means: you hold the lease, you may work. Otherwise
// the error says what there is instead: [CompletedError] with the stored result, [InProgressError],
// ErrMismatch, ErrUncertain, ErrKeyExpired; or what went wrong: ErrUnknown, ErrUnavailable,
// ErrNotReplicated, ErrInvalid, ErrCorrupt, ErrClosed. (P1, P2, P4, P5)
//
// Claims of one key at the same time share a round trip, but never a lease: there is nothing to merge in front of Claim.
func (c *Coordinator) Claim(ctx context.Context, key Key, opts ...ClaimOption) (lease *Lease, err error) {
	if !c.observed() { // an end costs more than a replay from the cache
		return c.claimKey(ctx, key, opts)
	}
	ctx, end := c.begin(ctx, "claim", key)
	defer func() { end(grantOutcome(lease, err), err) }()
	return c.claimKey(ctx, key, opts)
}

func (c *Coordinator) claimKey(ctx context.Context, key Key, opts []ClaimOption) (*Lease, error) {
	q, err := c.newClaim(key, opts)
	if err != nil {
		return nil, err
	}
	if q.again {
		return c.claimOrWait(ctx, q, c.claim)
	}
	return c.claimOrWait(ctx, q, c.claimTogether)
}

func (c *Coordinator) claimOrWait(ctx context.Context, q *claim, first func(context.Context, *claim) (*Lease, error)) (*Lease, error) {
	lease, err := first(ctx, q)
	if q.wait > 0 && errors.Is(err, ErrInProgress) {
		return c.claimWaiting(ctx, q, err)
	}
	return lease, err
}

func grantOutcome(lease *Lease, err error) string {
	switch {
	case err != nil:
		return outcomeOf(err)
	case lease.takeover:
		return "takeover"
	}
	return "granted"
}

// claim is one claim on its way: what was asked for, under which owner.
type claim struct {
	request
	key   Key
	names keyname.Names

	seen     view             // what was in the way
	finished *protocol.Record // what was found finished
}

// newClaim makes a claim; its error may be the answer, out of the cache.
func (c *Coordinator) newClaim(key Key, opts []ClaimOption) (*claim, error) {
	if err := c.usable(key); err != nil {
		return nil, err
	}
	r, err := c.request(opts)
	if err != nil {
		return nil, err
	}
	if err := c.replayAtHand(key, r.fingerprint); err != nil {
		return nil, err
	}
	if r.owner == "" {
		if r.owner, err = c.newOwner(); err != nil {
			return nil, err
		}
	}
	return &claim{request: r, key: key, names: c.names(key)}, nil
}

func (c *Coordinator) claimCall(q *claim) *call {
	return newCall(q.key, q.owner, protocol.Claim(q.names, protocol.ClaimArgs{
		Owner: q.owner, Fingerprint: q.fingerprint, Length: q.length(), Lifetime: q.lifetime, Retention: c.retention,
		Quarantine: q.quarantine, Replicated: c.replicas > 0, MinToken: int64(q.minToken), IssuedAt: q.issuedAt,
	}))
}

// claim asks until the answer is not about an earlier owner of ours.
func (c *Coordinator) claim(ctx context.Context, q *claim) (*Lease, error) {
	end := c.carrier.End(ctx)
	k := c.claimCall(q)
	c.run(ctx, k)
	return c.settle(ctx, q, k, end)
}

// settle is claim once the first reply is there; end is when the call has to be over.
func (c *Coordinator) settle(ctx context.Context, q *claim, k *call, end time.Time) (*Lease, error) {
	for try := 1; ; try++ {
		lease, over, err := c.claimed(ctx, q, k)
		if !over {
			return lease, err
		}
		if try == 1 {
			bound, cancel := carrier.Until(ctx, end)
			defer cancel()
			ctx = bound
		}
		if err := c.startOver(ctx, q); err != nil {
			return nil, err
		}
		if try > 1 { // leases that are shorter than the way to the server will not get longer by haste
			c.carrier.BackOff(ctx, try)
		}
		k = c.claimCall(q)
		c.run(ctx, k)
	}
}

// startOver gives a claim another owner. Nobody worked under the first one's grant: were it left to lapse, it
// would count as an attempt, or be uncertain.
func (c *Coordinator) startOver(ctx context.Context, q *claim) error {
	if err := c.giveBack(ctx, q.key, q.names, q.owner); err != nil {
		return &UnknownError{Key: q.key, Owner: q.owner, Err: err}
	}
	owner, err := c.newOwner()
	q.owner = owner
	return err
}

// claimed turns a claim's reply into a lease or an error; over means that the claim's owner has had its
// grant and lost it, so that another owner must ask.
func (c *Coordinator) claimed(ctx context.Context, q *claim, k *call) (lease *Lease, over bool, err error) {
	if k.Err != nil {
		return nil, false, k.Err
	}
	r := &k.Reply
	if r.Code == protocol.OK || r.Code == protocol.InProgress {
		c.cache.Live(replaycache.Key(q.key), r.Rec.Token)
	}
	switch r.Code {
	case protocol.OK:
		if k.Unconfirmed {
			return nil, false, c.unconfirmedClaim(ctx, q)
		}
		lease := c.newLease(ctx, q.key, q.names, &q.request, r)
		if lease.expired() {
			return nil, true, nil // it took so long that the lease is over before it began
		}
		lease.takeover = r.Number == 1
		c.tend(lease)
		return lease, false, nil
	case protocol.Over:
		return nil, true, nil
	case protocol.Finished:
		q.finished = &r.Rec
		return nil, false, c.replayed(ctx, q.key, q.names, k)
	case protocol.Mismatch:
		return nil, false, mismatch(q.key)
	case protocol.InProgress:
		return nil, false, c.inTheWay(q, r, q.names.Record, r.Rec.Attempt)
	case protocol.Blocked:
		return nil, false, c.inTheWay(q, r, q.names.Fence, int(r.Number))
	case protocol.Uncertain:
		return nil, false, fmt.Errorf("%w: %s; find out what took place, then call Resolve", ErrUncertain, label(q.key))
	case protocol.KeyExpired:
		return nil, false, fmt.Errorf("%w: %s was made at %v, results are kept for %v; make a new key if the operation was not done", ErrKeyExpired, label(q.key), q.issuedAt.UTC(), c.retention)
	case protocol.Ahead:
		what := "MinToken is more than a day"
		if r.Number == 3 {
			what = "IssuedAt is more than an hour"
		}
		return nil, false, fmt.Errorf("%w: %s ahead of the server's clock; mend the clock that it came from", ErrInvalid, what)
	}
	return nil, false, k.unexpected()
}

// replayed is the error that carries a stored result; with replicas, one that they hold.
func (c *Coordinator) replayed(ctx context.Context, key Key, n keyname.Names, k *call) error {
	rec := &k.Reply.Rec
	if c.replicas > 0 && rec.Mark == '0' {
		if k.Unconfirmed {
			return fmt.Errorf("%w: %s has a result that a failover may lose; ask again", ErrNotReplicated, label(key))
		}
		c.run(ctx, newCall(key, "", protocol.Confirm(n, rec)))
	}
	c.remember(k, unknownLife, true)
	return &CompletedError{Key: key, Result: resultOf(rec)}
}

// unconfirmedClaim gives back a grant that the replicas did not confirm; nobody worked under it.
func (c *Coordinator) unconfirmedClaim(ctx context.Context, q *claim) error {
	if err := c.giveBack(ctx, q.key, q.names, q.owner); err != nil {
		c.tidy(ctx, func(ctx context.Context) { _ = c.giveBack(ctx, q.key, q.names, q.owner) })
	}
	return fmt.Errorf("%w: the claim of %s was given back; fewer than %d replicas answered within %v", ErrNotReplicated, label(q.key), c.replicas, c.replicaWait)
}

// ClaimRequest is one element of [Coordinator.ClaimMany].
type ClaimRequest struct {
	Key     Key
	Options []ClaimOption
}

// ClaimResult is what became of one [ClaimRequest]: a lease, or the error that Claim would return.
type ClaimResult struct {
	Lease *Lease
	Err   error
}

// ClaimMany claims many keys in one round trip per node and returns the results in the same order. A key
// that is asked for twice is granted once. Requests with [WaitUpTo] wait beside each other, but not for a grant of the same batch.
func (c *Coordinator) ClaimMany(ctx context.Context, reqs []ClaimRequest) []ClaimResult {
	ctx, end := c.beginMany(ctx, "claim_many", Key{})
	results := make([]ClaimResult, len(reqs))
	claims := make([]*claim, len(reqs))
	calls := make([]*call, len(reqs))
	var out []*call
	for i, req := range reqs {
		q, err := c.newClaim(req.Key, req.Options)
		if err != nil {
			results[i].Err = err
			continue
		}
		claims[i], calls[i] = q, c.claimCall(q)
		out = append(out, calls[i])
	}
	if len(out) > 0 {
		c.run(ctx, out...)
	}
	// What is granted is taken in first; what takes longer goes on side by side.
	over := make([]bool, len(reqs))
	granted := map[string]bool{}
	for i, k := range calls {
		if k != nil && k.Err == nil && k.Reply.Code == protocol.OK && !k.Unconfirmed {
			results[i].Lease, over[i], _ = c.claimed(ctx, claims[i], k)
			granted[claims[i].names.Tag] = granted[claims[i].names.Tag] || results[i].Lease != nil
		}
	}
	var longer sync.WaitGroup
	for i, k := range calls {
		q, r := claims[i], &results[i]
		if k == nil || r.Lease != nil {
			continue
		}
		longer.Go(func() {
			if !over[i] {
				r.Lease, over[i], r.Err = c.claimed(ctx, q, k)
			}
			if over[i] {
				if r.Err = c.startOver(ctx, q); r.Err == nil {
					r.Lease, r.Err = c.claimOrWait(ctx, q, c.claim)
				}
			} else if q.wait > 0 && errors.Is(r.Err, ErrInProgress) && !granted[q.names.Tag] { // not for this batch's own key, or resource
				r.Lease, r.Err = c.claimWaiting(ctx, q, r.Err)
			}
		})
	}
	longer.Wait()
	for i, r := range results {
		c.observer.Note(Event{Op: "claim_many", Outcome: grantOutcome(r.Lease, r.Err), Key: reqs[i].Key, Err: r.Err, Count: 1})
	}
	end(len(reqs), "ok", nil)
	return results
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
	if q.notResumed != "" {
		return nil, fmt.Errorf("%w: Resume does not take %s; only a claim does", ErrInvalid, q.notResumed)
	}
	l := &Lease{c: c, key: key, names: n, grant: g, head: g.head(), lease: q.lease, grace: q.grace} // enough of one to renew
	k := l.renewCall(true)
	c.run(ctx, k)
	switch {
	case k.Err != nil:
		return nil, k.Err
	case k.Reply.Code == protocol.Lost:
		return nil, fmt.Errorf("%w: the grant of %s, token %d, has ended", ErrLeaseLost, label(key), g.Token)
	case k.Reply.Code == protocol.Stale:
		return nil, k.stale(g.Token)
	case k.Reply.Code != protocol.OK:
		return nil, k.unexpected()
	case k.Unconfirmed:
		return nil, fmt.Errorf("%w: renewal of %s; resume again", ErrNotReplicated, label(key))
	}
	lease = c.newLease(ctx, key, n, &q, &k.Reply)
	if lease.expired() {
		return nil, lease.lostError()
	}
	c.tend(lease)
	return lease, nil
}
