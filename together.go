package coordinator

import (
	"context"
	"time"

	"github.com/onceward/coordinator/internal/carrier"
	"github.com/onceward/coordinator/internal/flight"
	"github.com/onceward/coordinator/internal/protocol"
)

// Claims of one key at the same time, see internal/flight: one is sent for all who wait for the next one, and who were there
// before it was sent. A lease is for him alone whose owner it names; the others are told what they would have found behind him.

// longestHold is how long a claim waits for its turn, and then for an answer to another one's: many times what a
// server takes that is well, and not so much that a reply that got lost costs others much.
const longestHold = 100 * time.Millisecond

// alike says which claims have one answer where it is not a grant: scripts/claim.lua looks at the fingerprint first, then
// for an outcome, then for a lease, and in between at whether a lapsed one is to be uncertain; at all else before a grant only.
type alike struct {
	record     string
	quarantine bool
	size       int8
	print      [maxFingerprint]byte // in place: a claim without company costs no memory for this
}

func (q *claim) alike() alike {
	a := alike{record: q.names.Record, quarantine: q.quarantine, size: int8(len(q.fingerprint))}
	copy(a.print[:], q.fingerprint)
	return a
}

// claimTogether is claim for who may share: his owner is a new one, unknown to Redis until his own claim goes out.
func (c *Coordinator) claimTogether(ctx context.Context, q *claim) (*Lease, error) {
	place := c.flights.Enter(q.alike())
	if !place.Leads() {
		end := c.carrier.End(ctx)
		if k, shared := place.Wait(ctx, min(longestHold, time.Until(end)/4)); shared {
			return nil, c.told(q, &k.Reply)
		}
		bound, cancel := carrier.Until(ctx, end) // the waiting is part of the call
		defer cancel()
		ctx = bound
	}
	end := c.carrier.End(ctx)
	k := c.claimCall(q)
	c.lead(ctx, &place, k)
	return c.settle(ctx, q, k, end)
}

// lead sends a claim on behalf of all who wait for it.
func (c *Coordinator) lead(ctx context.Context, place *flight.Place[alike, *call], k *call) {
	defer func() { place.End(k, k.servesAll()) }() // also when a panic passes by
	c.run(ctx, k)
}

// servesAll says whether a claim's reply says what others would be told who ask now. What is nobody's answer (no reply,
// an owner that is over) or depends on what a claim asks for besides, each has to ask for himself.
func (k *call) servesAll() bool {
	if !k.Settled || k.Err != nil {
		return false
	}
	switch k.Reply.Code {
	case protocol.OK:
		return !k.Unconfirmed // or it is given back
	case protocol.Finished:
		return !k.Unconfirmed || k.Reply.Rec.Mark != '0' // or a failover may lose it
	case protocol.Mismatch, protocol.InProgress, protocol.Blocked:
		return true
	}
	return false
}

// told is the error for a claim that another one's reply answers. The reply is for reading: others have it too.
func (c *Coordinator) told(q *claim, r *protocol.Reply) error {
	switch r.Code {
	case protocol.Finished:
		return &CompletedError{Key: q.key, Result: resultOf(&r.Rec)}
	case protocol.Mismatch:
		return mismatch(q.key)
	case protocol.Blocked:
		return c.inTheWay(q, r, q.names.Fence, int(r.Number))
	}
	return c.inTheWay(q, r, q.names.Record, r.Rec.Attempt) // also of a lease just granted
}

// inTheWay is the error for a claim that found somebody at work, and notes what to wait for.
func (c *Coordinator) inTheWay(q *claim, r *protocol.Reply, guard string, attempt int) error {
	q.seen = c.viewOf(r, guard)
	return &InProgressError{Key: q.key, RetryAfter: r.Remaining(), Attempt: attempt}
}
