package redistest

import (
	"context"
	"errors"
	"fmt"
)

// acquainted returns nil if every node asked knows all nodes, and none as
// failing.
func (c *Cluster) acquainted(vs []*view) error {
	for _, v := range vs {
		if len(v.members) != len(c.nodes) {
			return fmt.Errorf("%s knows %d of %d nodes", v.node.Addr(), len(v.members), len(c.nodes))
		}
		for _, m := range v.members {
			for _, flag := range []string{"handshake", "noaddr", "fail", "fail?"} {
				if m.flags[flag] {
					return fmt.Errorf("%s sees %s in state %q", v.node.Addr(), m.addr, flag)
				}
			}
		}
	}
	return nil
}

// agreed returns nil if all nodes asked have the same idea of who owns which
// slots, and those owners are alive and cover all slots.
func (c *Cluster) agreed(vs []*view) error {
	var all slotSet
	owners := map[string]slotSet{}
	for _, m := range vs[0].ofSlots() {
		owners[m.addr] = m.slots
		all.union(&m.slots)
	}
	if !all.full() {
		return errors.New("some slots have no owner")
	}
	for _, s := range c.nodes {
		if _, owns := owners[s.Addr()]; owns && !s.responsive() {
			return fmt.Errorf("%s owns slots: %w", s.Addr(), errDead)
		}
	}
	for _, v := range vs {
		ms := v.ofSlots()
		if len(ms) != len(owners) {
			return fmt.Errorf("%s sees %d owners of slots, %s sees %d",
				v.node.Addr(), len(ms), vs[0].node.Addr(), len(owners))
		}
		for _, m := range ms {
			if owners[m.addr] != m.slots {
				return fmt.Errorf("%s and %s disagree about the slots of %s",
					v.node.Addr(), vs[0].node.Addr(), m.addr)
			}
		}
	}
	return nil
}

// serving returns nil if the live nodes agree and say that they are able to
// serve.
func (c *Cluster) serving(ctx context.Context) error {
	vs, err := c.views(ctx)
	if err != nil {
		return err
	}
	if err := c.agreed(vs); err != nil {
		return err
	}
	for _, v := range vs {
		text, err := v.node.admin.ClusterInfo(ctx).Result()
		if err != nil {
			return fmt.Errorf("redistest: CLUSTER INFO of %s: %w", v.node.Addr(), err)
		}
		if state := fields(text)["cluster_state"]; state != "ok" {
			return fmt.Errorf("%s: cluster_state:%s", v.node.Addr(), state)
		}
	}
	return nil
}

// complete returns nil if nothing is left to wish for: all nodes live and know
// each other, no slot is on its way, every master has its replicas, these are
// in touch with it, and clients are told about all of them.
func (c *Cluster) complete(ctx context.Context) error {
	for _, s := range c.nodes {
		if !s.responsive() {
			return fmt.Errorf("%s: %w", s.Addr(), errDead)
		}
	}
	if err := c.serving(ctx); err != nil {
		return err
	}
	vs, err := c.views(ctx)
	if err != nil {
		return err
	}
	if err := c.acquainted(vs); err != nil {
		return err
	}
	if err := c.shaped(vs); err != nil {
		return err
	}
	return each(c.nodes, func(_ int, s *Server) error { return c.advertised(ctx, s) })
}

// shaped returns nil if there are as many masters as at the start, each with
// its replicas, and no slot is open.
func (c *Cluster) shaped(vs []*view) error {
	replicas := map[string]int{} // by id of master
	for _, v := range vs {
		if len(v.self.open) > 0 {
			return fmt.Errorf("slot %d is open on %s", v.self.open[0].slot, v.node.Addr())
		}
		switch {
		case v.self.master != "":
			replicas[v.self.master]++
		case v.self.slots.empty():
			return fmt.Errorf("%s is a master without slots", v.node.Addr())
		}
	}
	for _, v := range vs {
		if v.self.master == "" && replicas[v.self.id] != c.replicas {
			return fmt.Errorf("%s has %d replicas", v.node.Addr(), replicas[v.self.id])
		}
	}
	return nil
}

// advertised returns nil if the node tells clients about all masters and
// replicas, by both of the commands with which clients ask, and, being a
// replica, is in touch with its master.
func (c *Cluster) advertised(ctx context.Context, s *Server) error {
	//lint:ignore SA1019 clients still ask with it, go-redis among them: what matters is what it answers
	ranges, err := s.admin.ClusterSlots(ctx).Result()
	if err != nil {
		return fmt.Errorf("redistest: CLUSTER SLOTS of %s: %w", s.Addr(), err)
	}
	for _, r := range ranges {
		if len(r.Nodes) != 1+c.replicas {
			return fmt.Errorf("CLUSTER SLOTS of %s lists %d nodes for %d-%d", s.Addr(), len(r.Nodes), r.Start, r.End)
		}
	}
	shards, err := s.admin.ClusterShards(ctx).Result()
	if err != nil {
		return fmt.Errorf("redistest: CLUSTER SHARDS of %s: %w", s.Addr(), err)
	}
	if len(shards) != c.masters {
		return fmt.Errorf("CLUSTER SHARDS of %s lists %d shards", s.Addr(), len(shards))
	}
	for _, shard := range shards {
		if len(shard.Nodes) != 1+c.replicas {
			return fmt.Errorf("CLUSTER SHARDS of %s lists %d nodes in a shard", s.Addr(), len(shard.Nodes))
		}
		for _, n := range shard.Nodes {
			if n.Health != "online" {
				return fmt.Errorf("CLUSTER SHARDS of %s: port %d is %s", s.Addr(), n.Port, n.Health)
			}
		}
	}
	role, err := s.info(ctx, "replication")
	if err != nil {
		return err
	}
	if role["role"] == "slave" && role["master_link_status"] != "up" {
		return fmt.Errorf("%s is out of touch with its master", s.Addr())
	}
	return nil
}
