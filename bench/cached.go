package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/onceward/coordinator"
)

// errNotBuilt is the outcome of a row about something that this version does not have. The row counts as missed.
var errNotBuilt = errors.New("this version has no local cache of results")

// replayCache is the option that keeps results of this process' memory at hand, for row 5.
func replayCache() (coordinator.Option, error) {
	return nil, errNotBuilt
}

const sameCached = `Both give back a result of 512 bytes, drawn from 1000, to 64 callers. The coordinator has it in this process' memory, GET asks
Redis; that is the point of a cache, and the row says what it saves. It can be kept because a stored result does not change: an entry that the server has lost or an operator has expired
meanwhile is answered until the cache's maximum age. A cache of one's own in front of GET would do the same, without the fingerprint.`

// cached is row 5.
func (l *lab) cached(ctx context.Context) ([]figure, error) {
	cache, err := replayCache()
	if err != nil {
		return nil, err
	}
	c, done, err := l.ours(cache)
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
