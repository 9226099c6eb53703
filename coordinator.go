package coordinator

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/carrier"
	"github.com/onceward/coordinator/internal/flight"
	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/renewal"
	"github.com/onceward/coordinator/internal/replaycache"
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
	flights  *flight.Flights[alike, *call]
	cache    *replaycache.Cache // nil without WithReplayCache
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
	c.carrier = carrier.New(carrier.Config{
		Client: rdb, Base: c.base, Timeout: s.timeout, Jitter: spread, Replicas: s.replicas, ReplicaWait: s.replicaWait,
	})
	c.schedule = newSchedule(c)
	c.waits = newWaits(c)
	c.flights = flight.New[alike, *call]()
	if s.replayBytes > 0 {
		c.cache = replaycache.New(s.replayBytes, s.replayAge)
	}
	return c, nil
}

// spread takes up to a fifth off a pause, so that many processes do not act at the same moment.
func spread(d time.Duration) time.Duration {
	return d - mathrand.N(d/5+1)
}

// Load puts the scripts on every master, and checks that each server is one that they run on. Calls work
// without it: a script that a server does not know is sent along with the call. Load is best effort, node by node;
// its error joins the nodes' errors.
func (c *Coordinator) Load(ctx context.Context) (err error) {
	ctx, end := c.begin(ctx, "load", Key{})
	defer func() { end(outcomeOf(err), err) }()
	if c.closed() {
		return ErrClosed
	}
	if err := c.carrier.Load(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Close stops renewing and waiting; leases' contexts end with ErrClosed. Nothing is given back: a lease
// that is still held ends by itself, so release first. It returns when the coordinator's goroutines have
// ended, and may be called again; requests that are out end by the client's own timeouts.
func (c *Coordinator) Close() error {
	c.starting.Lock()
	c.stop(ErrClosed)
	c.starting.Unlock()
	c.background.Wait()
	c.carrier.Rest()
	c.cache.Close()
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
