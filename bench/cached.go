package main

import (
	"context"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/onceward/coordinator"
)

// replayCache has room for all results of row 5, and keeps them for as long as the row takes.
func replayCache() coordinator.Option { return coordinator.WithReplayCache(64<<20, time.Minute) }

const sameCached = `Both give back a result of 512 bytes, drawn from 1000, to 64 callers. The coordinator has it in this process' memory, GET asks
Redis; that is the point of a cache, and the row says what it saves. It can be kept because a stored result does not change: an entry that the server has lost or an operator has expired
meanwhile is answered until the cache's maximum age. A cache of one's own in front of GET would do the same, without the fingerprint.`

// cached is row 5.
func (l *lab) cached(ctx context.Context) ([]figure, error) {
	c, done, err := l.ours(replayCache())
	if err != nil {
		return nil, err
	}
	defer done()
	var clients closers
	defer clients.close()
	bare := clients.add(l.client())
	keys, names, err := l.finished(ctx, c, bare)
	if err != nil {
		return nil, err
	}
	for _, key := range keys { // into the cache, those that completing has not put there
		if _, err := c.Claim(ctx, key); checkReplay(err) != nil {
			return nil, checkReplay(err)
		}
	}
	contenders := []contender{replays(c, keys), bareGet(bare, func() string { return names[rand.N(len(names))] })}
	paces, err := l.race(ctx, l.callers, contenders, nothing)
	if err != nil {
		return nil, err
	}
	var allocs, copied []float64
	for range l.rounds {
		runtime.GC()
		allocs = append(allocs, testing.AllocsPerRun(1000, func() { _, _ = c.Claim(ctx, keys[0]) }))
		copied = append(copied, allocs[len(allocs)-1]-1)
	}
	return append([]figure{
		figureOf("cached_against_get", "rate against a bare GET", "times", ratios(paces[0], paces[1], rateOf)).atLeast(50),
		figureOf("cached_allocs_beyond_copy", "allocations of a replay beyond the copy of the payload", "", copied).atMost(0),
		figureOf("cached_allocs", "allocations of a replay in all", "", allocs),
	}, details("cached", contenders, paces)...), nil
}
