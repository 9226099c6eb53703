package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/carrier"
	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/renewal"
	"github.com/onceward/coordinator/internal/wakeup"
)

// Coordinator decides who may run an operation. It is safe for concurrent use; one per process and
// Redis is enough. Leases are renewed by one goroutine that lives while there are leases.
type Coordinator struct {
	*settings
	namer  keyname.Namer
	random io.Reader // owners are drawn from it

	base       context.Context // ends with Close
	stop       context.CancelCauseFunc
	starting   sync.Mutex     // guards background against a goroutine that starts while Close waits
	background sync.WaitGroup // goroutines that Close waits for

	carrier  *carrier.Carrier
	schedule *renewal.Schedule[*Lease]
	waits    *wakeup.Waits[protocol.Record]
}

// New checks the options and makes a coordinator on rdb: a *redis.Client (a Sentinel failover client is
// one) or a *redis.ClusterClient. It touches no network and never closes rdb. A *redis.Ring is refused,
// because it moves keys to another shard when one is down, and two callers would hold one key.
func New(rdb redis.UniversalClient, opts ...Option) (*Coordinator, error) {
	if v := reflect.ValueOf(rdb); rdb == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("%w: the redis client is nil; give New a *redis.Client or a *redis.ClusterClient", ErrInvalid)
	}
	if _, ring := rdb.(*redis.Ring); ring {
		return nil, fmt.Errorf("%w: *redis.Ring moves keys to another shard when one is down, which gives a key two holders; use *redis.ClusterClient", ErrInvalid)
	}
	s, err := newSettings(opts)
	if err != nil {
		return nil, err
	}
	c := &Coordinator{settings: s, namer: keyname.Namer{Prefix: s.prefix, Secret: s.secret}, random: rand.Reader}
	c.base, c.stop = context.WithCancelCause(context.Background())
	c.carrier = &carrier.Carrier{
		Client: rdb, Base: c.base, Timeout: s.timeout, Jitter: spread, Replicas: s.replicas, ReplicaWait: s.replicaWait,
	}
	c.carrier.Cluster, _ = rdb.(*redis.ClusterClient)
	c.schedule = newSchedule(c)
	c.waits = newWaits(c)
	return c, nil
}

// spread takes up to a fifth off a pause, so that many processes do not act at the same moment.
func spread(d time.Duration) time.Duration {
	return d - mathrand.N(d/5+1)
}

// Close stops renewing and waiting; leases' contexts end with ErrClosed. Nothing is given back: a lease
// that is still held ends by itself, so release first. It returns when the coordinator's goroutines have
// ended, and may be called again; requests that are out end by the client's own timeouts.
func (c *Coordinator) Close() error {
	c.starting.Lock()
	c.stop(ErrClosed)
	c.starting.Unlock()
	c.background.Wait()
	return nil
}

func (c *Coordinator) closed() bool { return c.base.Err() != nil }

// start runs fn beside the callers; Close waits for it. false after Close.
func (c *Coordinator) start(fn func()) bool {
	c.starting.Lock()
	defer c.starting.Unlock()
	if c.closed() {
		return false
	}
	c.background.Go(fn)
	return true
}

// tidyTime bounds what is done on behalf of a caller whose own context is over.
const tidyTime = time.Second

// tidy runs fn beside the callers for at most tidyTime; Close ends it. ctx gives values only. false after Close.
func (c *Coordinator) tidy(ctx context.Context, fn func(context.Context)) bool {
	return c.start(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
		defer cancel()
		defer context.AfterFunc(c.base, cancel)()
		fn(ctx)
	})
}

func (c *Coordinator) newOwner() (string, error) {
	owner, err := protocol.NewOwner(c.random)
	if err != nil {
		return "", fmt.Errorf("%w: cannot draw an owner: %w", ErrUnavailable, err)
	}
	return owner, nil
}

// Claim asks for the lease on key. A nil error always means: you hold the lease, you may work. Otherwise
// the error says what there is instead: [CompletedError] with the stored result, [InProgressError],
// ErrMismatch, ErrUncertain, ErrKeyExpired; or what went wrong: ErrUnknown, ErrUnavailable,
// ErrNotReplicated, ErrInvalid, ErrCorrupt, ErrClosed. (P1, P2, P4, P5)
func (c *Coordinator) Claim(ctx context.Context, key Key, opts ...ClaimOption) (lease *Lease, err error) {
	ctx, end := c.begin(ctx, "claim", key)
	defer func() { end(grantOutcome(lease, err), err) }()
	q, err := c.newClaim(key, opts)
	if err != nil {
		return nil, err
	}
	return c.claimOrWait(ctx, q)
}

func (c *Coordinator) claimOrWait(ctx context.Context, q *claim) (*Lease, error) {
	lease, err := c.claim(ctx, q)
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

func (c *Coordinator) newClaim(key Key, opts []ClaimOption) (*claim, error) {
	n, err := c.namesOf(key)
	if err != nil {
		return nil, err
	}
	r, err := c.request(opts)
	if err != nil {
		return nil, err
	}
	if r.owner == "" {
		if r.owner, err = c.newOwner(); err != nil {
			return nil, err
		}
	}
	return &claim{request: r, key: key, names: n}, nil
}

func (c *Coordinator) claimCall(q *claim) *call {
	return newCall(q.key, q.owner, protocol.Claim(q.names, protocol.ClaimArgs{
		Owner: q.owner, Fingerprint: q.fingerprint, Length: q.length(), Lifetime: q.lifetime, Retention: c.retention,
		Quarantine: q.quarantine, Replicated: c.replicas > 0, MinToken: int64(q.minToken), IssuedAt: q.issuedAt,
	}))
}

// claim asks until the answer is not about an earlier owner of ours.
func (c *Coordinator) claim(ctx context.Context, q *claim) (*Lease, error) {
	ctx, cancel := c.carrier.Bound(ctx)
	defer cancel()
	for try := 1; ; try++ {
		k := c.claimCall(q)
		c.run(ctx, k)
		lease, over, err := c.claimed(ctx, q, k)
		if !over {
			return lease, err
		}
		if err := c.startOver(ctx, q); err != nil {
			return nil, err
		}
		if try > 1 { // leases that are shorter than the way to the server will not get longer by haste
			c.carrier.BackOff(ctx, try)
		}
	}
}

// startOver gives a claim another owner. Nobody worked under the first one's grant: were it left to lapse, it
// would count as an attempt, or be uncertain.
func (c *Coordinator) startOver(ctx context.Context, q *claim) error {
	if err := c.giveBack(ctx, q.key, q.names, q.owner, true); err != nil {
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
		q.seen = c.viewOf(r, q.names.Record)
		return nil, false, &InProgressError{Key: q.key, RetryAfter: r.Remaining(), Attempt: r.Rec.Attempt}
	case protocol.Blocked:
		q.seen = c.viewOf(r, q.names.Fence)
		return nil, false, &InProgressError{Key: q.key, RetryAfter: r.Remaining(), Attempt: int(r.Number)}
	case protocol.Uncertain:
		return nil, false, fmt.Errorf("%w: %s; find out what took place, then call Resolve", ErrUncertain, label(q.key))
	case protocol.KeyExpired:
		return nil, false, fmt.Errorf("%w: %s was made at %v, results are kept for %v; make a new key if the operation was not done", ErrKeyExpired, label(q.key), q.issuedAt.UTC(), c.retention)
	case protocol.Ahead:
		what := "MinToken is more than a day"
		if r.Number == 8 {
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
	return &CompletedError{Key: key, Result: resultOf(rec)}
}

// unconfirmedClaim gives back a grant that the replicas did not confirm; nobody worked under it.
func (c *Coordinator) unconfirmedClaim(ctx context.Context, q *claim) error {
	if err := c.giveBack(ctx, q.key, q.names, q.owner, true); err != nil {
		c.tidy(ctx, func(ctx context.Context) { _ = c.giveBack(ctx, q.key, q.names, q.owner, true) })
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
// that is asked for twice is granted once. Requests with [WaitUpTo] wait beside each other.
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
			granted[claims[i].names.Record] = results[i].Lease != nil
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
					r.Lease, r.Err = c.claimOrWait(ctx, q)
				}
			} else if q.wait > 0 && errors.Is(r.Err, ErrInProgress) && !granted[q.names.Record] { // not for this batch's own
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
