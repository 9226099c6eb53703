package redistest

import (
	"context"
	"fmt"
)

// Heal undoes what a test has done to the cluster, so that one cluster can
// serve many tests: it resumes paused nodes, restarts dead ones, finishes
// moves of slots which were left open, and waits until every master has its
// replicas again and all is as complete as after StartCluster. Who is master
// of what may have changed. On a healthy cluster it costs a few milliseconds.
//
// A master which was killed comes back empty unless it persists, and then so
// does its replica. To keep the data, let the replica be promoted first; see
// [Cluster.WaitPromoted].
func (c *Cluster) Heal(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := each(c.nodes, func(_ int, s *Server) error {
		switch {
		case s.responsive():
			return nil
		case s.PID() != 0:
			return s.Resume()
		default:
			return s.Restart(ctx)
		}
	})
	if err != nil {
		return err
	}
	err = until(ctx, "the cluster to heal", func(ctx context.Context) error {
		err := c.complete(ctx)
		if err == nil {
			return nil
		}
		// Most wounds close by themselves. What remains when the nodes
		// agree again needs a hand.
		if c.serving(ctx) == nil {
			if e := c.repair(ctx); e != nil {
				return e
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, c.logs())
	}
	return nil
}

// repair mends what Redis leaves to the operator. It is repeated until the
// cluster is complete, so it may do one thing at a time.
func (c *Cluster) repair(ctx context.Context) error {
	vs, err := c.views(ctx)
	if err != nil {
		return err
	}
	if err := c.agreed(vs); err != nil {
		return err
	}
	byID := map[string]*view{}
	for _, v := range vs {
		byID[v.self.id] = v
	}
	for _, v := range vs {
		for _, o := range v.self.open {
			return c.closeSlot(ctx, v, byID[o.peer], o)
		}
	}
	return c.reassign(ctx, vs)
}

// closeSlot ends a move which was left open at v. Keys which have gone ahead
// to the target replace older ones at the source.
func (c *Cluster) closeSlot(ctx context.Context, v, peer *view, o openSlot) error {
	importing := func(w *view) bool {
		for _, p := range w.self.open {
			if p.slot == o.slot && !p.migrating {
				return true
			}
		}
		return false
	}
	switch {
	case o.migrating && peer != nil && importing(peer):
		if _, err := moveKeys(ctx, o.slot, v.node, peer.node, 0, "REPLACE"); err != nil {
			return err
		}
		return c.EndMove(ctx, o.slot, v.node, peer.node)
	case !o.migrating && peer != nil && peer.self.slots.has(o.slot):
		// The source forgot about the move, as its replacement does when
		// it dies, or never knew. Then the keys go back.
		for _, p := range peer.self.open {
			if p.slot == o.slot {
				return nil // it did not forget; the case above is next
			}
		}
		if _, err := moveKeys(ctx, o.slot, v.node, peer.node, 0, "REPLACE"); err != nil {
			return err
		}
	}
	return setSlot(ctx, v.node, o.slot, "STABLE")
}

// reassign gives a master which lacks a replica one that is left over: a
// master without slots, or a replica of which another master has too many.
func (c *Cluster) reassign(ctx context.Context, vs []*view) error {
	replicas := map[string]int{}
	for _, v := range vs {
		if v.self.master != "" {
			replicas[v.self.master]++
		}
	}
	for _, needy := range vs {
		if needy.self.slots.empty() || replicas[needy.self.id] >= c.replicas {
			continue
		}
		for _, v := range vs {
			idle := v.self.master == "" && v.self.slots.empty()
			if !idle && replicas[v.self.master] <= c.replicas {
				continue
			}
			if idle {
				// A master must be empty to become a replica.
				if err := v.node.admin.FlushAll(ctx).Err(); err != nil {
					return fmt.Errorf("redistest: empty %s: %w", v.node.Addr(), err)
				}
			}
			if err := v.node.admin.ClusterReplicate(ctx, needy.self.id).Err(); err != nil {
				return fmt.Errorf("redistest: make %s a replica of %s: %w", v.node.Addr(), needy.node.Addr(), err)
			}
			return nil
		}
	}
	return nil
}
