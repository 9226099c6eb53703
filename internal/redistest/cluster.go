package redistest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/redis/go-redis/v9"
)

// NodeTimeout is the cluster-node-timeout of the clusters started here, in
// milliseconds. A dead primary is noticed after this time, and replaced about
// a second later. Less than a second would make busy machines take the living
// for dead.
const NodeTimeout = 1000

// Cluster is a Redis Cluster of real servers.
type Cluster struct {
	masters  int
	replicas int // per master
	nodes    []*Server

	mu    sync.Mutex
	owned map[*Server]slotSet // last seen; see remember
}

// StartCluster starts a cluster with that many masters, and as many replicas
// for each of them, and waits until all of it is in order: every node can
// serve, every replica is in touch with its primary, and every node tells
// clients about all the others. This takes about three seconds, of which two
// are Redis' own: no node of a cluster serves anything before that time.
// The extra configuration goes to every node.
func StartCluster(ctx context.Context, masters, replicasPer int, extra ...string) (*Cluster, error) {
	return Spec{Masters: masters, Replicas: replicasPer, Extra: extra}.Start(ctx)
}

// Spec says what cluster to start, where [StartCluster] does not say enough.
type Spec struct {
	Masters  int
	Replicas int      // for each master
	Extra    []string // configuration of every node
	// Env returns additional environment variables, as "name=value", for the
	// node with that number in [Cluster.Nodes]. Several nodes may ask at once,
	// and one that has to draw another port asks again.
	Env func(node int) []string
}

// Start starts it; see [StartCluster].
func (spec Spec) Start(ctx context.Context) (_ *Cluster, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c := &Cluster{
		masters:  spec.Masters,
		replicas: spec.Replicas,
		nodes:    make([]*Server, spec.Masters*(1+spec.Replicas)),
		owned:    map[*Server]slotSet{},
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w%s", err, c.logs())
			c.Stop()
		}
	}()
	err = each(c.nodes, func(i int, _ *Server) (err error) {
		config := clusterConfig()
		if spec.Env != nil {
			config.env = spec.Env(i)
		}
		c.nodes[i], err = start(ctx, config, false, spec.Extra)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := c.assemble(ctx); err != nil {
		return nil, err
	}
	if err := until(ctx, "the cluster to be complete", c.complete); err != nil {
		return nil, err
	}
	return c, nil
}

func clusterConfig() *config {
	c := &config{}
	dataConfig(c)
	c.set("cluster-enabled", "yes")
	c.set("cluster-config-file", "nodes.conf")
	c.set("cluster-node-timeout", strconv.Itoa(NodeTimeout))
	// By default a replica which has been out of touch with its primary for
	// too long does not stand for election. On a machine which is busy with
	// tests that would sometimes leave a shard without a primary for good;
	// with 0 it always stands.
	c.set("cluster-replica-validity-factor", "0")
	// Replicas stay with their shard, rather than move to one which has
	// lost its own: a test which has killed a server relies on it.
	c.set("cluster-allow-replica-migration", "no")
	return c
}

// assemble makes a cluster of nodes which know nothing of each other. The
// first nodes become masters, in order of their slots.
func (c *Cluster) assemble(ctx context.Context) error {
	// Nodes with equal epochs would have to sort that out among themselves
	// first, and until then disagree about slots. All of them get theirs before
	// any meets another: a node which was met before takes none any more.
	err := each(c.nodes, func(i int, s *Server) error {
		if err := s.admin.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return fmt.Errorf("redistest: set epoch of %s: %w", s.Addr(), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = each(c.nodes, func(i int, s *Server) error {
		if i < c.masters {
			lo, hi := i*slotCount/c.masters, (i+1)*slotCount/c.masters-1
			if err := s.admin.ClusterAddSlotsRange(ctx, lo, hi).Err(); err != nil {
				return fmt.Errorf("redistest: add slots to %s: %w", s.Addr(), err)
			}
		}
		// Everyone meets everyone, since to leave the introductions to the
		// gossip takes a second more.
		for _, other := range c.nodes[i+1:] {
			if err := s.admin.ClusterMeet(ctx, host, strconv.Itoa(other.port)).Err(); err != nil {
				return fmt.Errorf("redistest: %s to meet %s: %w", s.Addr(), other.Addr(), err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var vs []*view
	err = until(ctx, "the nodes to meet", func(ctx context.Context) (err error) {
		if vs, err = c.views(ctx); err != nil {
			return err
		}
		return c.acquainted(vs)
	})
	if err != nil {
		return err
	}
	return each(c.nodes[c.masters:], func(i int, s *Server) error {
		master := vs[i%c.masters].self.id
		if err := s.admin.ClusterReplicate(ctx, master).Err(); err != nil {
			return fmt.Errorf("redistest: make %s a replica: %w", s.Addr(), err)
		}
		return nil
	})
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string { return addrs(c.nodes) }

// Nodes returns all nodes, masters and replicas, dead or alive. Which is which
// changes; see [Cluster.MasterFor] and [Cluster.ReplicasOf].
func (c *Cluster) Nodes() []*Server { return append([]*Server(nil), c.nodes...) }

// Client returns a new client of the cluster. All options but the addresses
// are the caller's, nil for go-redis' defaults: what is promised to users has
// to hold with those. Closing it is the caller's as well.
func (c *Cluster) Client(opts *redis.ClusterOptions) *redis.ClusterClient {
	var o redis.ClusterOptions
	if opts != nil {
		o = *opts
	}
	o.Addrs = c.Addrs()
	return redis.NewClusterClient(&o)
}

// MasterFor returns the master which serves the key, according to itself. Of
// several which claim to, as after a partition, it is the one with the latest
// epoch, that is the one which the others will agree on.
func (c *Cluster) MasterFor(ctx context.Context, key string) (*Server, error) {
	vs, err := c.views(ctx)
	if err != nil {
		return nil, err
	}
	slot, err := vs[0].node.admin.ClusterKeySlot(ctx, key).Result()
	if err != nil {
		return nil, fmt.Errorf("redistest: slot of %q: %w", key, err)
	}
	var wanted slotSet
	wanted.add(int(slot))
	owner := ownerOf(vs, &wanted)
	if owner == nil {
		return nil, fmt.Errorf("redistest: no live master serves %q (slot %d)", key, slot)
	}
	return owner, nil
}

// ownerOf returns the live master which claims all of the slots.
func ownerOf(vs []*view, slots *slotSet) *Server {
	var owner *view
	for _, v := range vs {
		if v.self.slots.holds(slots) && (owner == nil || v.self.epoch > owner.self.epoch) {
			owner = v
		}
	}
	if owner == nil {
		return nil
	}
	return owner.node
}

// ReplicasOf returns the live replicas of a live or dead master.
func (c *Cluster) ReplicasOf(ctx context.Context, master *Server) ([]*Server, error) {
	vs, err := c.views(ctx)
	if err != nil {
		return nil, err
	}
	var replicas []*Server
	for _, v := range vs {
		for _, m := range v.members {
			if m.id == v.self.master && m.addr == master.Addr() {
				replicas = append(replicas, v.node)
			}
		}
	}
	return replicas, nil
}

// Stop ends all nodes.
func (c *Cluster) Stop() { stopAll(c.nodes) }

// remember keeps the slots which a node was last seen to own. Of a dead node
// that was replaced already the cluster itself does not know that any more.
func (c *Cluster) remember(s *Server, slots slotSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owned[s] = slots
}

func (c *Cluster) remembered(s *Server) slotSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owned[s]
}

// id returns the id of a live node.
func (c *Cluster) id(ctx context.Context, s *Server) (string, error) {
	id, err := s.admin.ClusterMyID(ctx).Result()
	if err != nil {
		return "", fmt.Errorf("redistest: id of %s: %w", s.Addr(), err)
	}
	return id, nil
}

// logs returns the ends of all logs, for an error.
func (c *Cluster) logs() string {
	var all string
	for _, s := range c.nodes {
		if s != nil {
			all += fmt.Sprintf("\n--- log of %s (pid %d):\n%s", s.Addr(), s.PID(), s.Log())
		}
	}
	return all
}

var errDead = errors.New("a node is dead or paused")
