package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/onceward/coordinator"
)

const sameFresh = `All take a key that nobody has used and, those that can, store a result of 512 bytes for it, each through a client of its own
with default options. The coordinator is built and called as in the README's first program: Do, a scope, a fingerprint, JSON.
"lock and result" is what is written by hand with bsm/redislock: GET the result, lock, GET again, SET the result, unlock; five round trips. It keeps one
result for each key too, but has no fencing: a holder that outlives its lock overwrites its successor, and nothing renews the lock. The bare pair is SET NX PX and SET: it
has no owner to check, no replay for the loser, no release.
redislock, redsync and rueidislock by themselves lock and unlock and store no result; rueidislock releases in the background, so its rate is that of locking.
fiber is gofiber's idempotency middleware on its Redis storage, called in the process: it stores the whole response (GET, GET, SET), but locks in the memory of
one process only, so two processes run the same key twice; it builds a response besides, which the others do not.`

// fresh is row 1.
func (l *lab) fresh(ctx context.Context) ([]figure, error) {
	c, done, err := l.ours()
	if err != nil {
		return nil, err
	}
	defer done()
	var clients closers
	defer clients.close()
	rueidis, closeRueidis, err := l.rueidisAlone()
	if err != nil {
		return nil, err
	}
	defer closeRueidis()
	contenders := []contender{
		l.firstProgram(c), l.lockAndResult(clients.add(l.client())), l.barePair(clients.add(l.client())),
		lockAlone(clients.add(l.client())), redsyncAlone(clients.add(l.client())), rueidis,
		l.fiberMiddleware(clients.add(l.client()), func() string { return newKey().ID }),
	}
	paces, err := l.race(ctx, l.callers, contenders, l.clear)
	if err != nil {
		return nil, err
	}
	const times = "times"
	return append([]figure{
		figureOf("fresh_against_lock_and_result", "rate against lock and result", times, ratios(paces[0], paces[1], rateOf)).atLeast(2.5),
		figureOf("fresh_against_bare_pair", "rate against the bare pair", times, ratios(paces[0], paces[2], rateOf)).atLeast(1),
	}, details("fresh", contenders, paces)...), nil
}

// firstProgram does what the README's first program does, with a receipt that is 512 bytes as JSON.
func (l *lab) firstProgram(c *coordinator.Coordinator) contender {
	receipt := strings.Repeat("r", payloadBytes-len(`""`))
	body := []byte("10 EUR")
	return contender{"coordinator", func(ctx context.Context) error {
		key := newKey()
		key.Scope = coordinator.JoinScope("tenant-7", "POST /payments")
		sum := sha256.Sum256(body)
		_, replayed, err := coordinator.Do(ctx, c, key, func(context.Context, *coordinator.Lease) (string, error) {
			return receipt, nil
		}, coordinator.Fingerprint(sum[:]))
		if replayed {
			return errors.New("a fresh key had a result")
		}
		return err
	}}
}

const sameFreshAlone = `As row 1, with one caller who waits for each answer: what one request takes longer. Nothing can share a pipeline here.`

// freshAlone is row 2.
func (l *lab) freshAlone(ctx context.Context) ([]figure, error) {
	c, done, err := l.ours()
	if err != nil {
		return nil, err
	}
	defer done()
	var clients closers
	defer clients.close()
	contenders := []contender{l.firstProgram(c), l.barePair(clients.add(l.client())), l.lockAndResult(clients.add(l.client()))}
	paces, err := l.race(ctx, 1, contenders, l.clear)
	if err != nil {
		return nil, err
	}
	figures := []figure{figureOf("alone_against_bare_pair", "p50 against the bare pair", "times", ratios(paces[0], paces[1], p50Of)).atMost(1.35)}
	for i, c := range contenders {
		figures = append(figures, figureOf("alone_"+c.name+"_p50", c.name, "µs p50", each(paces[i], p50Of)))
	}
	return append(figures, details("alone", contenders, paces)...), nil
}
