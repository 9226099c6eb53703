package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/caller"
	"github.com/onceward/coordinator/chaos/history"
)

// finish asks, when nothing disturbs any more, what has become of everything: each key is claimed once more, the
// sinks are read, and all keys of ours are listed.
func (g *group) finish(ctx context.Context, domains []caller.Domain, rec *caller.Recorder) error {
	rdb := g.cluster.Client(nil)
	defer rdb.Close()
	coord, err := coordinator.New(rdb, coordinator.WithPrefix(prefix), coordinator.WithLease(longestLease), coordinator.WithMaxLifetime(caller.MaxLifetime), coordinator.WithObserver(caller.Watcher{}))
	if err != nil {
		return err
	}
	defer coord.Close()
	if err := g.claimAll(ctx, coord, domains, rec); err != nil {
		return err
	}
	if err := g.readSinks(ctx, rdb, domains); err != nil {
		return err
	}
	if err := g.readTable(ctx, domains); err != nil {
		return err
	}
	return g.listKeys(ctx)
}

// claimAll claims every key of the run, and gives those up again that were free. A lease that somebody left, or that
// a late copy of a claim was granted, is in the way for two leases at most.
func (g *group) claimAll(ctx context.Context, coord *coordinator.Coordinator, domains []caller.Domain, rec *caller.Recorder) error {
	until := time.Now().Add(2*(longestLease+longestGrace) + time.Second)
	var open []caller.Domain
	for {
		for _, d := range domains {
			settled, err := g.claimDomain(ctx, coord, d, rec)
			if err != nil {
				return err
			}
			if !settled {
				open = append(open, d)
			}
		}
		if len(open) == 0 || time.Now().After(until) {
			return nil // the judge says what it makes of those that are still open
		}
		domains, open = open, nil
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (g *group) claimDomain(ctx context.Context, coord *coordinator.Coordinator, d caller.Domain, rec *caller.Recorder) (settled bool, err error) {
	settled = true
	for _, key := range d.Keys {
		outcome := history.Mismatch
		for _, print := range caller.Prints { // the key is bound to the one that came first
			e := history.Event{Caller: history.Final, Domain: d.Name, Key: key.ID, Op: history.Claim, Fingerprint: print}
			options := []coordinator.ClaimOption{coordinator.ManualRenewal()}
			if print != "" {
				options = append(options, coordinator.Fingerprint([]byte(print)))
			}
			lease, step, _ := rec.Claim(ctx, coord, e, key, options...)
			if lease != nil {
				release(ctx, lease, step.Event, rec)
			}
			if outcome = step.Outcome; outcome != history.Mismatch {
				break
			}
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		settled = settled && (outcome == history.Granted || outcome == history.Takeover || outcome == history.Replayed)
	}
	return settled, nil
}

func release(ctx context.Context, lease *coordinator.Lease, claim history.Event, rec *caller.Recorder) {
	step := rec.Begin(history.Event{
		Caller: history.Final, Domain: claim.Domain, Key: claim.Key, Op: history.Release, Owner: claim.Owner, Token: claim.Token,
	})
	step.End(lease.Release(ctx))
}

// readSinks reads what stands behind the fences, from the masters that serve it.
func (g *group) readSinks(ctx context.Context, rdb *redis.ClusterClient, domains []caller.Domain) error {
	for some := range slices.Chunk(domains, 200) {
		lists := make([]*redis.StringSliceCmd, len(some))
		_, err := rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i := range some {
				lists[i] = pipe.LRange(ctx, some[i].Sink(), 0, -1)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the sinks: %w", err)
		}
		for i, list := range lists {
			if err := g.out.Write(history.Line{Sink: &history.Sink{Domain: some[i].Name, Kind: history.Redis, Lines: list.Val()}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// readTable reads what PostgreSQL has admitted.
func (g *group) readTable(ctx context.Context, domains []caller.Domain) error {
	lines, err := g.table.Lines(ctx)
	if err != nil {
		return err
	}
	for _, d := range domains {
		if err := g.out.Write(history.Line{Sink: &history.Sink{Domain: d.Name, Kind: history.Postgres, Lines: lines[d.Name]}}); err != nil {
			return err
		}
		delete(lines, d.Name)
	}
	for name := range lines {
		return fmt.Errorf("the table has lines of %q, which is no domain of this run", name)
	}
	return nil
}

// listKeys writes down how long each key of ours stays.
func (g *group) listKeys(ctx context.Context) error {
	for _, node := range g.cluster.Nodes() {
		client := node.Client(nil)
		err := g.listNode(ctx, node.Addr(), client)
		if err := errors.Join(err, client.Close()); err != nil {
			return fmt.Errorf("list the keys of %s: %w", node.Addr(), err)
		}
	}
	return nil
}

func (g *group) listNode(ctx context.Context, addr string, client *redis.Client) error {
	role, err := client.Do(ctx, "ROLE").Slice()
	if err != nil {
		return err
	}
	if role[0] != "master" {
		return nil
	}
	for cursor := uint64(0); ; {
		names, next, err := client.Scan(ctx, cursor, prefix+":*", 1000).Result()
		if err != nil {
			return err
		}
		ttls := make([]*redis.Cmd, len(names))
		_, _ = client.Pipelined(ctx, func(pipe redis.Pipeliner) error { // each command has its own error
			for i, name := range names {
				ttls[i] = pipe.Do(ctx, "PTTL", name)
			}
			return nil
		})
		for i, name := range names {
			ttl, err := ttls[i].Int64()
			switch {
			case redis.HasErrorPrefix(err, "MOVED"):
				continue // a move that failed has left it where nobody looks, and this node is about to drop it
			case err != nil:
				return err
			case ttl == -2:
				continue // it has expired just now
			}
			if err := g.out.Write(history.Line{Key: &history.Key{Name: name, TTL: ttl, Node: addr}}); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// connected counts the callers' connections that the servers still have, when all callers have closed theirs. The
// servers may need a moment to notice.
func (g *group) connected(ctx context.Context) (int, error) {
	const longest = 3 * time.Second
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		count, err := g.table.Sessions(ctx)
		if err != nil {
			return 0, err
		}
		for _, node := range g.cluster.Nodes() {
			client := node.Client(nil)
			list, err := client.ClientList(ctx).Result()
			if err := errors.Join(err, client.Close()); err != nil {
				return 0, err
			}
			count += strings.Count(list, "name="+caller.ClientName+" ")
		}
		if count == 0 || time.Since(begun) > longest {
			return count, nil
		}
	}
}
