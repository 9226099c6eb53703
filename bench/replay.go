package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

const sameReplay = `Both read a result of 512 bytes, drawn from 1000, that is stored in Redis. The coordinator's claim of a finished key compares the
fingerprint, decides by the server's clock and hands out the caller's own copy; GET returns bytes and would return them to anybody. For the CPU both sides send pipelines of one
length. fiber reads a whole response, decodes it and answers a request with it; it compares no fingerprint.`

// hotKeys are how many results replays are drawn from.
const hotKeys = 1000

// replay is row 4.
func (l *lab) replay(ctx context.Context) ([]figure, error) {
	c, done, err := l.ours()
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
	inOrder := 0
	pick := func() string { inOrder++; return keys[inOrder-1].ID }
	fiber := l.fiberMiddleware(clients.add(l.client()), func() string { return pick() })
	for range keys { // its first answers, which it stores
		if err := fiber.op(ctx); err != nil {
			return nil, err
		}
	}
	pick = func() string { return keys[rand.N(len(keys))].ID }
	contenders := []contender{replays(c, keys), bareGet(bare, func() string { return names[rand.N(len(names))] }), fiber}
	paces, err := l.race(ctx, l.callers, contenders, nothing)
	if err != nil {
		return nil, err
	}
	cpu, err := l.replayCPU(ctx, keys, names)
	if err != nil {
		return nil, err
	}
	rate := figureOf("replay_against_get", "rate against a bare GET", "times", ratios(paces[0], paces[1], rateOf)).atLeast(1)
	return append(append([]figure{rate}, cpu...), details("replay", contenders, paces)...), nil
}

func nothing(context.Context) error { return nil }

// replays claims finished keys.
func replays(c *coordinator.Coordinator, keys []coordinator.Key) contender {
	return contender{"coordinator", func(ctx context.Context) error {
		_, err := c.Claim(ctx, keys[rand.N(len(keys))])
		return checkReplay(err)
	}}
}

func checkReplay(err error) error {
	if r, ok := coordinator.ResultOf(err); !ok || len(r.Payload) != payloadBytes {
		return fmt.Errorf("not the stored result: %d bytes, %w", len(r.Payload), err)
	}
	return nil
}

// finished stores results under as many keys, and the same bytes under bare names.
func (l *lab) finished(ctx context.Context, c *coordinator.Coordinator, bare *redis.Client) (keys []coordinator.Key, names []string, err error) {
	keys = newKeys(hotKeys)
	for _, key := range keys {
		lease, err := c.Claim(ctx, key)
		if err != nil {
			return nil, nil, err
		}
		if err := lease.Complete(ctx, l.result); err != nil {
			return nil, nil, err
		}
		name := bareName(key)
		if err := bare.Set(ctx, name, l.result, bareTTL).Err(); err != nil {
			return nil, nil, err
		}
		names = append(names, name)
	}
	return keys, names, nil
}

// replayCPU compares the server's time for replays and GETs in pipelines, in turns.
func (l *lab) replayCPU(ctx context.Context, keys []coordinator.Key, names []string) ([]figure, error) {
	sides := []struct {
		send func(from, to int) error
		cost []float64
	}{
		{send: func(from, to int) error {
			requests := make([]coordinator.ClaimRequest, 0, l.pipeline)
			for _, key := range keys[from:to] {
				requests = append(requests, coordinator.ClaimRequest{Key: key})
			}
			for _, result := range l.coord.ClaimMany(ctx, requests) {
				if err := checkReplay(result.Err); err != nil {
					return err
				}
			}
			return nil
		}},
		{send: func(from, to int) error {
			commands := make([][]any, 0, l.pipeline)
			for _, name := range names[from:to] {
				commands = append(commands, []any{"get", name})
			}
			_, err := l.send(ctx, commands)
			return err
		}},
	}
	var ratio []float64
	for round := range l.rounds {
		for turn := range sides {
			side := &sides[(round+turn)%2]
			cost, err := l.serverCPUOf(ctx, l.keys, len(keys), side.send)
			if err != nil {
				return nil, err
			}
			side.cost = append(side.cost, cost)
		}
		ratio = append(ratio, sides[0].cost[round]/sides[1].cost[round])
	}
	return []figure{
		figureOf("replay_cpu_ratio", "Redis CPU in pipelines against GET", "times", ratio).atMost(4.5),
		figureOf("replay_cpu_micros", "Redis CPU of a replay in pipelines", "µs", sides[0].cost),
		figureOf("get_cpu_micros", "Redis CPU of a GET in pipelines", "µs", sides[1].cost),
	}, nil
}

// serverCPUOf is the server's time for one of n operations, µs, sent in pipelines that go over the keys again and again.
func (l *lab) serverCPUOf(ctx context.Context, n, keys int, send func(from, to int) error) (float64, error) {
	before, err := l.serverCPU(ctx)
	if err != nil {
		return 0, err
	}
	sent := 0
	for at := 0; sent < n; at = (at + l.pipeline) % keys {
		to := min(at+l.pipeline, keys)
		if err := send(at, to); err != nil {
			return 0, err
		}
		sent += to - at
	}
	after, err := l.serverCPU(ctx)
	return (after - before) / float64(sent), err
}
