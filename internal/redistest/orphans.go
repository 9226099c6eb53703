package redistest

import (
	"context"
	"fmt"
	"time"
)

// orphans are slots which nobody owns. A forced takeover leaves some behind
// when slots were moved at the same time: the old master has given up for good
// what the new one does not know to have got, while the others take it for the
// owner. Redis leaves that to the operator.
type orphans struct {
	slots slotSet
	since time.Time
}

// settle is how long slots must have been without an owner to be taken for
// orphans. In the middle of a failover, too, no node asked may claim them,
// because the nodes are not asked all at the same moment.
const settle = time.Second

// find returns the slots which no live node has claimed for some time.
func (o *orphans) find(vs []*view) slotSet {
	var claimed, none, free slotSet
	for _, v := range vs {
		claimed.union(&v.self.slots)
	}
	for i := range free {
		free[i] = ^claimed[i]
	}
	if free != o.slots {
		o.slots, o.since = free, time.Now()
	}
	if free.empty() || time.Since(o.since) < settle {
		return none
	}
	return free
}

// adopt gives every one of the slots to the master which most nodes take for
// its owner or else which has the most of its keys.
func (c *Cluster) adopt(ctx context.Context, vs []*view, slots slotSet) error {
	for slot := range slotCount {
		if !slots.has(slot) {
			continue
		}
		if err := c.adoptOne(ctx, vs, slot); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) adoptOne(ctx context.Context, vs []*view, slot int) error {
	votes := map[string]int{}
	for _, v := range vs {
		for _, m := range v.members {
			if m.slots.has(slot) {
				votes[m.id]++
			}
		}
	}
	var masters []*view
	var heir *view
	var most int64
	for _, v := range vs {
		if v.self.slots.empty() {
			continue
		}
		masters = append(masters, v)
		keys, err := v.node.admin.ClusterCountKeysInSlot(ctx, slot).Result()
		if err != nil {
			return fmt.Errorf("redistest: count keys in slot %d of %s: %w", slot, v.node.Addr(), err)
		}
		if weight := int64(votes[v.self.id])<<32 + keys; heir == nil || weight > most {
			heir, most = v, weight
		}
	}
	if len(masters) < 2 {
		return nil // there is nobody to import from, which makes the claim count
	}
	other := masters[0]
	if other == heir {
		other = masters[1]
	}
	if err := setSlot(ctx, heir.node, slot, "IMPORTING", other.self.id); err != nil {
		return err
	}
	if err := setSlot(ctx, heir.node, slot, "NODE", heir.self.id); err != nil {
		return err
	}
	for _, v := range masters {
		if v == heir {
			continue
		}
		if err := setSlot(ctx, v.node, slot, "NODE", heir.self.id); err != nil {
			return err
		}
	}
	return nil
}
