package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/onceward/coordinator"
)

// steps claim and complete the keys of one pipeline, and verify a sample of the results.
type steps struct {
	claim, complete, verify func(context.Context, []coordinator.Key) error
}

// librarySteps are for one fill: completions take the leases in the order of the claims.
func (l *lab) librarySteps(opts ...coordinator.ClaimOption) steps {
	var recorded [][][]any
	return steps{
		claim: func(ctx context.Context, keys []coordinator.Key) error {
			leases, err := l.claim(ctx, keys, opts...)
			if err != nil {
				return err
			}
			commands, err := l.completions(ctx, leases)
			recorded = append(recorded, commands)
			return err
		},
		complete: func(ctx context.Context, _ []coordinator.Key) error {
			commands := recorded[0]
			recorded = recorded[1:]
			return l.complete(ctx, commands)
		},
		verify: func(ctx context.Context, keys []coordinator.Key) error {
			_, err := l.coord.Claim(ctx, keys[len(keys)-1], opts...)
			if r, ok := coordinator.ResultOf(err); !ok || !bytes.Equal(r.Payload, l.result) {
				return fmt.Errorf("a recorded completion did not store its result: %v", err)
			}
			return nil
		},
	}
}

// bareSteps are the least that anybody could send instead.
func (l *lab) bareSteps() steps {
	const owner = "0123456789abcdef0123456789abcdef"
	send := func(ctx context.Context, keys []coordinator.Key, value any, flags ...any) error {
		commands := make([][]any, len(keys))
		for i, key := range keys {
			commands[i] = append([]any{"set", bareName(key), value, "px", bareTTL.Milliseconds()}, flags...)
		}
		return l.set(ctx, commands)
	}
	return steps{
		claim:    func(ctx context.Context, keys []coordinator.Key) error { return send(ctx, keys, owner, "nx") },
		complete: func(ctx context.Context, keys []coordinator.Key) error { return send(ctx, keys, l.result) },
		verify:   func(context.Context, []coordinator.Key) error { return nil }, // each has answered OK
	}
}

// fill empties the server, claims so many fresh keys and completes them. look is called on the empty server, when
// all are claimed, and when all are completed.
func (l *lab) fill(ctx context.Context, keys int, do steps, look func() error) error {
	if err := l.clear(ctx); err != nil {
		return err
	}
	var batches [][]coordinator.Key
	for left := keys; left > 0; left -= l.pipeline {
		batches = append(batches, newKeys(min(left, l.pipeline)))
	}
	if err := look(); err != nil {
		return err
	}
	for _, step := range []func(context.Context, []coordinator.Key) error{do.claim, do.complete} {
		for _, batch := range batches {
			if err := step(ctx, batch); err != nil {
				return err
			}
		}
		if err := look(); err != nil {
			return err
		}
	}
	for _, batch := range batches {
		if err := do.verify(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}
