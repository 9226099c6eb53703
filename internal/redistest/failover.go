package redistest

import (
	"context"
	"fmt"
	"time"
)

// WaitOK waits until the cluster serves all slots: every live node says so,
// and all of them agree on owners which are alive. Nodes which are dead or
// paused, and replicas which still catch up, do not matter; see [Cluster.Heal].
func (c *Cluster) WaitOK(ctx context.Context) error {
	return until(ctx, "the cluster to serve", c.serving)
}

// WaitPromoted waits until another node has taken over the slots which old
// owned when it was killed or paused, and returns that node and how long the
// wait was. Other nodes may need a moment longer to hear of it; see
// [Cluster.WaitOK].
func (c *Cluster) WaitPromoted(ctx context.Context, old *Server) (*Server, time.Duration, error) {
	begin := time.Now()
	lost := c.remembered(old)
	if lost.empty() {
		return nil, 0, fmt.Errorf("redistest: %s was not seen to own any slots", old.Addr())
	}
	var next *Server
	err := until(ctx, "a replacement for "+old.Addr(), func(ctx context.Context) error {
		vs, err := c.views(ctx)
		if err != nil {
			return err
		}
		next = ownerOf(vs, &lost)
		if next == nil || next == old {
			return fmt.Errorf("nobody has taken over")
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("%w%s", err, c.logs())
	}
	return next, time.Since(begin), nil
}

// manualFailoverTimeout is a little more than the time after which a replica
// gives up on a manual failover, without telling anybody.
const manualFailoverTimeout = 6 * time.Second

// Failover makes the replica change places with its living master, without
// loss, as an operator would before maintenance. It returns when the cluster
// agrees on it; the former master may still be catching up as a replica.
func (c *Cluster) Failover(ctx context.Context, replica *Server) error {
	var asked time.Time
	err := until(ctx, "manual failover to "+replica.Addr(), func(ctx context.Context) error {
		v, err := c.view(ctx, replica)
		if err != nil {
			return err
		}
		if !v.self.slots.empty() {
			return nil
		}
		if time.Since(asked) > manualFailoverTimeout {
			asked = time.Now()
			if err := replica.admin.ClusterFailover(ctx).Err(); err != nil {
				return fmt.Errorf("%w: %w", errGiveUp, err)
			}
		}
		return fmt.Errorf("is not a master yet")
	})
	if err != nil {
		return err
	}
	return c.WaitOK(ctx)
}
