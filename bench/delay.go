package main

import (
	"context"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/faultproxy"
	"github.com/redis/go-redis/v9"
)

const sameDelay = `A proxy in front of the server keeps each request for 1 ms, and every contender goes through it. What a round trip is then is measured
by PING through the same proxy in the same rounds, because timers and the proxy add their own; what an operation takes beyond two of them, or one, is what the library adds. Round
trips are also counted, on the connections, so that whatever the client does by itself counts as well.`

// added is what the proxy keeps each request for.
const added = time.Millisecond

// delay is row 11.
func (l *lab) delay(ctx context.Context) ([]figure, error) {
	proxy, err := faultproxy.New(l.server.Addr())
	if err != nil {
		return nil, err
	}
	defer func() { _ = proxy.Close() }()
	proxy.SetRule(func(faultproxy.Request) faultproxy.Verdict {
		return faultproxy.Verdict{Action: faultproxy.Delay, For: added}
	})
	far := func(opts redis.Options) *redis.Client {
		opts.Addr = proxy.Addr()
		return redis.NewClient(&opts)
	}
	rdb := far(redis.Options{})
	defer rdb.Close()
	c, err := coordinator.New(rdb)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	keys, _, err := l.finished(ctx, l.coord, l.plain)
	if err != nil {
		return nil, err
	}
	contenders := []contender{
		{"PING", func(ctx context.Context) error { return rdb.Ping(ctx).Err() }},
		l.firstProgram(c),
		replays(c, keys),
	}
	paces, err := l.race(ctx, 1, contenders, nothing)
	if err != nil {
		return nil, err
	}
	fresh, err := l.trips(ctx, l.rounds, far, l.firstProgram)
	if err != nil {
		return nil, err
	}
	replay, err := l.trips(ctx, l.rounds, far, func(c *coordinator.Coordinator) contender { return replays(c, keys) })
	if err != nil {
		return nil, err
	}
	beyond := func(i int, trips float64) (ms []float64) {
		for round := range paces[i] {
			ms = append(ms, (paces[i][round].p50-trips*paces[0][round].p50)/1e3)
		}
		return ms
	}
	const most = 0.2 // ms
	return []figure{
		figureOf("delayed_fresh_trips", "round trips of a fresh operation", "", fresh).atMost(2),
		figureOf("delayed_fresh_beyond", "fresh operation beyond two round trips", "ms", beyond(1, 2)).atMost(most),
		figureOf("delayed_replay_trips", "round trips of a replay", "", replay).atMost(1),
		figureOf("delayed_replay_beyond", "replay beyond one round trip", "ms", beyond(2, 1)).atMost(most),
		figureOf("delayed_trip", "one round trip, by PING", "µs p50", each(paces[0], p50Of)),
		figureOf("delayed_fresh", "fresh operation", "µs p50", each(paces[1], p50Of)),
		figureOf("delayed_replay", "replay", "µs p50", each(paces[2], p50Of)),
	}, nil
}
