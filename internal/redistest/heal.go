package redistest

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	var lost orphans
	err = until(ctx, "the cluster to heal", func(ctx context.Context) error {
		err := c.complete(ctx)
		if err == nil {
			return nil
		}
		// Most wounds close by themselves; the others need a hand.
		return errors.Join(err, c.repair(ctx, &lost))
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, c.logs())
	}
	return nil
}

// repair mends what Redis leaves to the operator. It is repeated until the
// cluster is complete, so it does one thing at a time.
func (c *Cluster) repair(ctx context.Context, lost *orphans) error {
	vs, err := c.views(ctx)
	if err != nil {
		return err
	}
	// Open slots cannot wait for agreement: the target of a move does not
	// listen to gossip about the slot, and so never hears of the replica
	// which has taken the source's place. Moves which can be finished come
	// before imports which cannot.
	for _, migrating := range []bool{true, false} {
		for _, v := range vs {
			if v.self.master != "" {
				continue
			}
			// A master fresh from the dead may not know that it has been
			// replaced. Then this will pass. One which has lost all of its
			// slots knows, and still does not listen about what it imports.
			current := v.self.slots.empty() || ownerOf(vs, &v.self.slots) == v.node
			for _, o := range v.self.open {
				if !current || o.migrating != migrating {
					continue
				}
				switch {
				case !migrating:
					return c.undoImport(ctx, vs, v, o)
				case v.self.slots.has(o.slot):
					return c.finishMove(ctx, vs, v, o)
				default: // somebody else has taken it over
					return setSlot(ctx, v.node, o.slot, "STABLE")
				}
			}
		}
	}
	if err := closeReplicas(ctx, vs); err != nil {
		return err
	}
	if free := lost.find(vs); !free.empty() {
		return c.adopt(ctx, vs, free)
	}
	if c.agreed(vs) != nil {
		return nil
	}
	if err := c.unseat(ctx, vs); err != nil {
		return err
	}
	return c.reassign(ctx, vs)
}

// closeReplicas closes the slots which only a replica takes for open: one that
// was a master of Valkey when it was killed. It does as it hears of its master.
func closeReplicas(ctx context.Context, vs []*view) error {
	for _, v := range vs {
		master := byID(vs, v.self.master)
		if master == nil {
			continue
		}
		for _, o := range v.self.open {
			if !slices.ContainsFunc(master.self.open, func(m openSlot) bool { return m.slot == o.slot }) {
				if err := setSlot(ctx, master.node, o.slot, "STABLE"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// unseat takes the slots from a master that there is one too many of: one which
// was cut off and replaced, and was given a slot meanwhile, does not step down.
// They go to a master which lacks a replica, that is to its successor.
func (c *Cluster) unseat(ctx context.Context, vs []*view) error {
	replicas := map[string]int{}
	for _, v := range vs {
		replicas[v.self.master]++
	}
	masters := 0
	var excess, heir *view // the needy masters with the fewest slots and with the most
	for _, v := range vs {
		if v.self.slots.empty() {
			continue
		}
		masters++
		if replicas[v.self.id] >= c.replicas {
			continue
		}
		if excess == nil || v.self.slots.size() < excess.self.slots.size() {
			excess = v
		}
		if heir == nil || v.self.slots.size() >= heir.self.slots.size() {
			heir = v
		}
	}
	if masters <= c.masters || excess == nil || excess == heir {
		return nil
	}
	for slot := range slotCount {
		if !excess.self.slots.has(slot) {
			continue
		}
		if err := c.MoveSlot(ctx, slot, excess.node, heir.node); err != nil {
			return err
		}
	}
	return nil
}

// finishMove completes a move out of v, to the target or its replacement.
func (c *Cluster) finishMove(ctx context.Context, vs []*view, v *view, o openSlot) error {
	target := byID(vs, o.peer)
	if target != nil && target.self.master != "" {
		target = byID(vs, target.self.master)
	}
	if target == nil || target == v {
		return setSlot(ctx, v.node, o.slot, "STABLE")
	}
	if err := c.BeginMove(ctx, o.slot, v.node, target.node); err != nil {
		return err
	}
	if _, err := moveKeys(ctx, o.slot, v.node, target.node, 0, "REPLACE"); err != nil {
		return err
	}
	return c.EndMove(ctx, o.slot, v.node, target.node)
}

// undoImport returns the keys which have gone ahead to v, because the source,
// or what has taken its place, does not know of the move. They may have been
// changed at v, and so replace those which the source has.
func (c *Cluster) undoImport(ctx context.Context, vs []*view, v *view, o openSlot) error {
	var slot slotSet
	slot.add(o.slot)
	owner := ownerOf(vs, &slot)
	if owner != nil && owner != v.node {
		id, err := c.id(ctx, owner)
		if err != nil {
			return err
		}
		// Without knowing an owner for the slot, v refuses even MIGRATE.
		// To be told of one ends the import, which MIGRATE needs as well.
		if err := setSlot(ctx, v.node, o.slot, "NODE", id); err != nil {
			return err
		}
		if err := setSlot(ctx, v.node, o.slot, "IMPORTING", id); err != nil {
			return err
		}
		if _, err := moveKeys(ctx, o.slot, v.node, owner, 0, "REPLACE"); err != nil {
			return err
		}
	}
	return setSlot(ctx, v.node, o.slot, "STABLE")
}

func byID(vs []*view, id string) *view {
	for _, v := range vs {
		if v.self.id == id {
			return v
		}
	}
	return nil
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
