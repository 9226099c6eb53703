package redistest

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
)

// MoveSlot moves a slot with its keys from one master to another, the way
// resharding tools do it. It returns when all live nodes agree.
func (c *Cluster) MoveSlot(ctx context.Context, slot int, from, to *Server) error {
	if err := c.BeginMove(ctx, slot, from, to); err != nil {
		return err
	}
	if _, err := c.MoveKeys(ctx, slot, from, to, 0); err != nil {
		return err
	}
	return c.EndMove(ctx, slot, from, to)
}

// BeginMove opens the slot: from then on, from answers ASK for keys it does
// not have, and TRYAGAIN for commands of which it has some keys but not all.
//
// A slot which is not open yet has no keys at the target, but for what a move
// that failed has left behind. These are deleted: they would be in the way of
// the true ones, or come to life again in place of some that are gone by now.
func (c *Cluster) BeginMove(ctx context.Context, slot int, from, to *Server) error {
	fromID, err := c.id(ctx, from)
	if err != nil {
		return err
	}
	toID, err := c.id(ctx, to)
	if err != nil {
		return err
	}
	open, err := c.isOpen(ctx, slot, from, to)
	if err != nil {
		return err
	}
	// The target first: it must not turn away clients which the source
	// already sends to it.
	if err := setSlot(ctx, to, slot, "IMPORTING", fromID); err != nil {
		return err
	}
	if !open {
		if err := purge(ctx, slot, to); err != nil {
			return err
		}
	}
	return setSlot(ctx, from, slot, "MIGRATING", toID)
}

// isOpen tells whether the slot is on its way according to one of the nodes.
func (c *Cluster) isOpen(ctx context.Context, slot int, nodes ...*Server) (bool, error) {
	for _, s := range nodes {
		v, err := c.view(ctx, s)
		if err != nil {
			return false, err
		}
		for _, o := range v.self.open {
			if o.slot == slot {
				return true, nil
			}
		}
	}
	return false, nil
}

// purge deletes the keys of a slot which the node imports.
func purge(ctx context.Context, slot int, s *Server) error {
	keys, err := s.admin.ClusterGetKeysInSlot(ctx, slot, math.MaxInt32).Result()
	if err != nil {
		return fmt.Errorf("redistest: keys in slot %d of %s: %w", slot, s.Addr(), err)
	}
	for _, key := range keys {
		if _, err := s.admin.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Do(ctx, "ASKING")
			p.Del(ctx, key)
			return nil
		}); err != nil {
			return fmt.Errorf("redistest: delete a key of slot %d from %s: %w", slot, s.Addr(), err)
		}
	}
	return nil
}

// MoveKeys moves up to limit keys of an open slot (all of them if limit is 0)
// and returns how many there were. Fewer than all leave the slot half-migrated.
func (c *Cluster) MoveKeys(ctx context.Context, slot int, from, to *Server, limit int) (int, error) {
	return moveKeys(ctx, slot, from, to, limit)
}

func moveKeys(ctx context.Context, slot int, from, to *Server, limit int, options ...any) (int, error) {
	const batch = 100
	moved := 0
	for {
		n := batch
		if limit > 0 {
			n = min(n, limit-moved)
		}
		if n == 0 {
			return moved, nil
		}
		keys, err := from.admin.ClusterGetKeysInSlot(ctx, slot, n).Result()
		if err != nil {
			return moved, fmt.Errorf("redistest: keys in slot %d of %s: %w", slot, from.Addr(), err)
		}
		if len(keys) == 0 {
			return moved, nil
		}
		args := []any{"MIGRATE", host, to.port, "", 0, (2 * time.Second).Milliseconds()}
		args = append(append(args, options...), "KEYS")
		for _, key := range keys {
			args = append(args, key)
		}
		if err := from.admin.Do(ctx, args...).Err(); err != nil {
			return moved, fmt.Errorf("redistest: migrate %d keys of slot %d from %s to %s: %w",
				len(keys), slot, from.Addr(), to.Addr(), err)
		}
		moved += len(keys)
	}
}

// EndMove closes the slot and makes it the target's. It refuses to while keys
// are left at the source: Redis would drop them as soon as the source hears of
// the new owner. It returns when all live nodes agree.
func (c *Cluster) EndMove(ctx context.Context, slot int, from, to *Server) error {
	left, err := from.admin.ClusterCountKeysInSlot(ctx, slot).Result()
	if err != nil {
		return fmt.Errorf("redistest: count keys in slot %d of %s: %w", slot, from.Addr(), err)
	}
	if left > 0 {
		return fmt.Errorf("redistest: %d keys of slot %d are still at %s", left, slot, from.Addr())
	}
	toID, err := c.id(ctx, to)
	if err != nil {
		return err
	}
	// The target first, which gives the change a new epoch; were the source
	// first and the target to die, nobody would own the slot. The others
	// would learn of it by gossip, but later.
	order := []*Server{to, from}
	vs, err := c.views(ctx)
	if err != nil {
		return err
	}
	for _, v := range vs {
		if v.node != from && v.node != to && v.self.master == "" {
			order = append(order, v.node)
		}
	}
	for _, s := range order {
		if err := setSlot(ctx, s, slot, "NODE", toID); err != nil {
			return err
		}
	}
	return until(ctx, fmt.Sprintf("all to know that slot %d has moved", slot), func(ctx context.Context) error {
		vs, err := c.views(ctx)
		if err != nil {
			return err
		}
		for _, v := range vs {
			for _, m := range v.members {
				if m.id == toID && !m.slots.has(slot) {
					return fmt.Errorf("%s does not", v.node.Addr())
				}
			}
		}
		return nil
	})
}

func setSlot(ctx context.Context, s *Server, slot int, state string, args ...any) error {
	all := append([]any{"CLUSTER", "SETSLOT", slot, state}, args...)
	if err := s.admin.Do(ctx, all...).Err(); err != nil {
		return fmt.Errorf("redistest: SETSLOT %d %s at %s: %w", slot, state, s.Addr(), err)
	}
	return nil
}
