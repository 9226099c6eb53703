package redistest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// StartSentinel starts a sentinel which watches master under the given name.
// It takes a silent primary for down after one second, so that a test of a
// failover takes seconds rather than the minutes of the default.
func StartSentinel(ctx context.Context, name string, master *Server, quorum int) (*Server, error) {
	c := &config{}
	c.set("sentinel monitor", fmt.Sprintf("%s %s %d %d", name, host, master.port, quorum))
	c.set("sentinel down-after-milliseconds", name+" 1000")
	c.set("sentinel failover-timeout", name+" 3000")
	c.set("sentinel parallel-syncs", name+" 1")
	s, err := start(ctx, c, true, nil)
	if err != nil {
		return nil, err
	}
	// Sentinels find each other by messages every two seconds. Redis 7 can
	// be told to hurry; a server which cannot is merely slower.
	_ = s.admin.Do(ctx, "SENTINEL", "DEBUG",
		"PUBLISH-PERIOD", 200, "PING-PERIOD", 200, "INFO-PERIOD", 500, "ASK-PERIOD", 200).Err()
	return s, nil
}

// MasterName is the name under which [StartSentinels] lets its primary be
// watched.
const MasterName = "primary"

// Sentinels is a primary and a replica under the eyes of sentinels, which
// promote the replica when the primary dies.
type Sentinels struct {
	// Primary and Replica are named after the roles they started in.
	Primary, Replica *Server
	// Watchers are the sentinels.
	Watchers []*Server
}

// StartSentinels starts a primary, a replica, and n sentinels of which a
// majority has to agree on a failover. Three are what people run; one makes
// for a quicker test. It returns when all of them know of each other, because
// a sentinel which does not know the replica yet cannot promote it. The extra
// configuration goes to the primary and the replica.
func StartSentinels(ctx context.Context, n int, extra ...string) (_ *Sentinels, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	g := &Sentinels{}
	defer func() {
		if err != nil {
			g.Stop()
		}
	}()
	if g.Primary, err = Start(ctx, extra...); err != nil {
		return nil, err
	}
	if g.Replica, err = StartReplica(ctx, g.Primary, extra...); err != nil {
		return nil, err
	}
	for range n {
		s, err := StartSentinel(ctx, MasterName, g.Primary, n/2+1)
		if err != nil {
			return nil, err
		}
		g.Watchers = append(g.Watchers, s)
	}
	err = until(ctx, "sentinels to know each other", func(ctx context.Context) error {
		for _, s := range g.Watchers {
			state, err := s.admin.Do(ctx, "SENTINEL", "MASTER", MasterName).StringSlice()
			if err != nil {
				return err
			}
			m := map[string]string{}
			for i := 0; i+1 < len(state); i += 2 {
				m[state[i]] = state[i+1]
			}
			if m["num-slaves"] != "1" || m["num-other-sentinels"] != strconv.Itoa(n-1) {
				return fmt.Errorf("%s knows %s replicas and %s other sentinels",
					s.Addr(), m["num-slaves"], m["num-other-sentinels"])
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// Addrs returns the addresses of the sentinels, for
// redis.FailoverOptions.SentinelAddrs.
func (g *Sentinels) Addrs() []string { return addrs(g.Watchers) }

// Client returns a new client which finds the primary through the sentinels.
// All other options are the caller's, nil for go-redis' defaults; so is
// closing it.
func (g *Sentinels) Client(opts *redis.FailoverOptions) *redis.Client {
	var o redis.FailoverOptions
	if opts != nil {
		o = *opts
	}
	o.MasterName, o.SentinelAddrs = MasterName, g.Addrs()
	return redis.NewFailoverClient(&o)
}

// WaitFailover waits until every running sentinel names another primary than
// old, and that one says so of itself. It returns the new primary and how long
// the wait was.
func (g *Sentinels) WaitFailover(ctx context.Context, old *Server) (*Server, time.Duration, error) {
	begin := time.Now()
	next := g.Primary
	if old == g.Primary {
		next = g.Replica
	}
	err := until(ctx, "failover from "+old.Addr(), func(ctx context.Context) error {
		for _, s := range g.Watchers {
			if !s.responsive() {
				continue
			}
			at, err := s.admin.Do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName).StringSlice()
			if err != nil {
				return err
			}
			if len(at) != 2 || at[1] != strconv.Itoa(next.port) {
				return fmt.Errorf("%s names %v", s.Addr(), at)
			}
		}
		info, err := next.info(ctx, "replication")
		if err != nil {
			return err
		}
		if info["role"] != "master" {
			return errors.New(next.Addr() + " is not promoted yet")
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return next, time.Since(begin), nil
}

// Stop ends all of the servers.
func (g *Sentinels) Stop() {
	// The sentinels first: they would start a failover.
	stopAll(g.Watchers)
	stopAll([]*Server{g.Primary, g.Replica})
}

func addrs(servers []*Server) []string {
	var as []string
	for _, s := range servers {
		as = append(as, s.Addr())
	}
	return as
}

// stopAll skips those which a failed start has left nil.
func stopAll(servers []*Server) {
	var wg sync.WaitGroup
	for _, s := range servers {
		if s != nil {
			wg.Go(s.Stop)
		}
	}
	wg.Wait()
}
