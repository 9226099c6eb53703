package main

import (
	"context"
	"fmt"
	"time"

	"github.com/onceward/coordinator"
)

const sameGrowth = `The same claims are sent, in the same pipelines, to a server with 1000 records and to one with many, in turns; what was claimed is deleted
again between the counts. The many are copies of a real record under names of the real form. The cost is the server's CPU time; a coordinator keeps nothing for records it does not hold.
Renewals: one coordinator holds few leases, another many, one after the other; the cost is the CPU of this process and of Redis, less what both use in as long a time without
leases. The few have short leases, so that their renewals are enough to be measured.`

const (
	fewRecords = 1000
	fewLeases  = 100
	growthMost = 1.15 // times
)

// growth is row 10.
func (l *lab) growth(ctx context.Context) ([]figure, error) {
	claims, err := l.claimGrowth(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.clear(ctx); err != nil {
		return nil, err
	}
	renewals, err := l.renewalGrowth(ctx)
	return append(claims, renewals...), err
}

// claimGrowth compares the server's time for a claim on a small and on a large server.
func (l *lab) claimGrowth(ctx context.Context) ([]figure, error) {
	big, err := newLab(ctx, l.effort)
	if err != nil {
		return nil, err
	}
	defer big.close()
	l.progress.step("writes %d records", l.records)
	if err := l.populate(ctx, fewRecords); err != nil {
		return nil, err
	}
	if err := big.populate(ctx, l.records); err != nil {
		return nil, err
	}
	sides := []*lab{l, big}
	costs := make([][]float64, len(sides))
	var ratio []float64
	for round := -1; round < l.rounds; round++ {
		l.progress.step("claims, round %d of %d", round+1, l.rounds)
		cost := make([]float64, len(sides))
		for turn := range sides {
			i := (round + 1 + turn) % len(sides)
			if cost[i], err = sides[i].claimCost(ctx); err != nil {
				return nil, err
			}
		}
		if round < 0 {
			continue // tables grow to their size
		}
		ratio = append(ratio, cost[1]/cost[0])
		for i := range sides {
			costs[i] = append(costs[i], cost[i])
		}
	}
	return []figure{
		figureOf("growth_claim", fmt.Sprintf("a claim's cost with %d records against %d", l.records, fewRecords), "times", ratio).atMost(growthMost),
		figureOf("growth_claim_few", fmt.Sprintf("a claim with %d records", fewRecords), "µs of Redis CPU", costs[0]),
		figureOf("growth_claim_many", fmt.Sprintf("a claim with %d records", l.records), "µs of Redis CPU", costs[1]),
	}, nil
}

// claimCost is the server's time for a claim, µs. What is claimed is deleted before it makes the server another one.
func (l *lab) claimCost(ctx context.Context) (float64, error) {
	const between = 500 // claims between two deletions
	var spent float64
	claimed := 0
	for claimed < l.keys {
		c, err := coordinator.New(l.hooked) // its leases end with it
		if err != nil {
			return 0, err
		}
		before, err := l.serverCPU(ctx)
		if err != nil {
			return 0, err
		}
		var commands [][]any
		for len(commands) < between {
			requests := make([]coordinator.ClaimRequest, l.pipeline)
			for i := range requests {
				requests[i].Key = newKey()
				commands = append(commands, []any{"unlink", recordName(requests[i].Key)})
			}
			for _, result := range c.ClaimMany(ctx, requests) {
				if result.Err != nil {
					return 0, result.Err
				}
			}
		}
		after, err := l.serverCPU(ctx)
		if err != nil {
			return 0, err
		}
		_ = c.Close()
		spent += after - before
		claimed += len(commands)
		deleted, err := l.send(ctx, commands)
		if err != nil {
			return 0, err
		}
		if deleted[0] != int64(1) {
			return 0, fmt.Errorf("%v is not the name of a record", commands[0][1])
		}
	}
	return spent / float64(claimed), nil
}

// recordName is the Redis key of the record of such a key; populate and claimCost find out when it is wrong.
func recordName(k coordinator.Key) string { return "coord:{" + k.Scope + ":" + k.ID + "}:r" }

// populate fills the server with copies of a finished record.
func (l *lab) populate(ctx context.Context, records int) error {
	key := newKey()
	lease, err := l.coord.Claim(ctx, key)
	if err != nil {
		return err
	}
	if err := lease.Complete(ctx, []byte("done")); err != nil {
		return err
	}
	record, err := l.plain.Get(ctx, recordName(key)).Bytes()
	if err != nil {
		return fmt.Errorf("GET %s: %w", recordName(key), err)
	}
	const together = 1000
	for left := records; left > 0; left -= together {
		pipe := l.plain.Pipeline()
		for range min(left, together) {
			pipe.Set(ctx, recordName(newKey()), record, bareTTL)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// renewalGrowth compares the cost of renewing a lease when there are few, and when there are many.
func (l *lab) renewalGrowth(ctx context.Context) ([]figure, error) {
	few, err := l.renewalCost(ctx, fewLeases, l.short)
	if err != nil {
		return nil, err
	}
	if err := l.clear(ctx); err != nil {
		return nil, err
	}
	many, err := l.renewalCost(ctx, l.leases, l.lease)
	if err != nil {
		return nil, err
	}
	ratio := make([]float64, len(many))
	for i := range many {
		ratio[i] = many[i] / few[i]
	}
	return []figure{
		figureOf("growth_renewal", fmt.Sprintf("a renewal's cost with %d leases against %d", l.leases, fewLeases), "times", ratio).atMost(growthMost),
		figureOf("growth_renewal_few", fmt.Sprintf("a renewal with %d leases of %v", fewLeases, l.short), "µs of CPU of both", few),
		figureOf("growth_renewal_many", fmt.Sprintf("a renewal with %d leases of %v", l.leases, l.lease), "µs of CPU of both", many),
	}, nil
}

// renewalCost is the time that this process and the server take for one renewal, µs, in each of a few windows.
func (l *lab) renewalCost(ctx context.Context, leases int, lease time.Duration) (costs []float64, err error) {
	idle, err := l.idle(ctx)
	if err != nil {
		return nil, err
	}
	h, err := l.newHolder(lease)
	if err != nil {
		return nil, err
	}
	defer h.close()
	if err := h.claim(ctx, leases); err != nil {
		return nil, err
	}
	for round := range min(l.rounds, 3) {
		l.progress.step("%d leases, round %d", leases, round+1)
		w, err := h.watch(ctx, l, max(l.leaseWindow, lease/2))
		if err != nil {
			return nil, err
		}
		costs = append(costs, (w.client+w.server-idle*micros(w.took))/w.renewals)
	}
	if lost, err := h.lost(ctx); err != nil || lost > 0 {
		return nil, fmt.Errorf("%d of %d leases were lost, %w", lost, leases, err)
	}
	return costs, nil
}

// idle is the share of a core that this process and the server use when there is nothing to do.
func (l *lab) idle(ctx context.Context) (float64, error) {
	before, err := l.meters(ctx)
	if err != nil {
		return 0, err
	}
	select {
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-time.After(l.leaseWindow):
	}
	after, err := l.meters(ctx)
	return (after.client + after.server - before.client - before.server) / micros(l.leaseWindow), err
}
