package main

import (
	"bytes"
	"context"

	"github.com/onceward/coordinator"
)

// memory fills the server with records and asks it how much its data grew: the bytes of one record, in
// flight and completed, with and without a fingerprint, and of the bare pair. They are the allocator's bytes of names and
// values; the tables that hold them are Redis's own and the same for every key (16 bytes of object, 48 of
// table entries and some 16 of table slots, with a TTL).
func (l *lab) memory(ctx context.Context, rounds, keys int) ([]figure, error) {
	print := bytes.Repeat([]byte{0xa5}, fingerprintBytes)
	var plain, printed, bare [2][]float64 // in flight, completed
	for range rounds {
		fills := []struct {
			into *[2][]float64
			fill func() (inFlight, completed float64, err error)
		}{
			{&plain, func() (float64, float64, error) { return l.libraryFill(ctx, keys) }},
			{&printed, func() (float64, float64, error) {
				return l.libraryFill(ctx, keys, coordinator.Fingerprint(print))
			}},
			{&bare, func() (float64, float64, error) { return l.bareFill(ctx, keys) }},
		}
		for _, f := range fills {
			inFlight, completed, err := f.fill()
			if err != nil {
				return nil, err
			}
			f.into[0] = append(f.into[0], inFlight)
			f.into[1] = append(f.into[1], completed-payloadBytes)
		}
	}
	const bytes = "bytes"
	return []figure{
		figureOf(nameBeyond, "Redis memory of a completed record beyond the payload", bytes, plain[1]).atMost(mostBeyond),
		figureOf(nameInFlight, "Redis memory of a record in flight", bytes, plain[0]).atMost(mostInFlight),
		figureOf("fingerprint_"+nameBeyond, "completed beyond the payload, with a fingerprint of 32 bytes", bytes, printed[1]),
		figureOf("fingerprint_"+nameInFlight, "in flight, with a fingerprint of 32 bytes", bytes, printed[0]),
		figureOf("bare_"+nameBeyond, "SET PX of the payload, beyond the payload", bytes, bare[1]),
		figureOf("bare_"+nameInFlight, "SET NX PX of an owner", bytes, bare[0]),
	}, nil
}

func (l *lab) libraryFill(ctx context.Context, keys int, opts ...coordinator.ClaimOption) (inFlight, completed float64, err error) {
	var leases []*coordinator.Lease
	claim := func(keys []coordinator.Key) error {
		batch, err := l.claim(ctx, keys, opts...)
		leases = append(leases, batch...)
		return err
	}
	complete := func(keys []coordinator.Key) error {
		commands, err := l.completions(ctx, leases[:len(keys)])
		if err != nil {
			return err
		}
		leases = leases[len(keys):]
		return l.complete(ctx, commands)
	}
	return l.fill(ctx, keys, claim, complete)
}

func (l *lab) bareFill(ctx context.Context, keys int) (inFlight, completed float64, err error) {
	claim := func(keys []coordinator.Key) error { return l.set(ctx, l.bareClaims(keys)) }
	complete := func(keys []coordinator.Key) error { return l.set(ctx, l.bareCompletions(keys)) }
	return l.fill(ctx, keys, claim, complete)
}

// fill claims and completes keys on an empty server and returns the bytes per record after each.
func (l *lab) fill(ctx context.Context, keys int, claim, complete func([]coordinator.Key) error) (inFlight, completed float64, err error) {
	if err := l.clear(ctx); err != nil {
		return 0, 0, err
	}
	batches := batchesOf(keys)
	n := float64(len(batches) * pipeline)
	var bytes [3]float64
	for i, step := range []func([]coordinator.Key) error{nil, claim, complete} {
		if step != nil {
			for _, batch := range batches {
				if err := step(batch); err != nil {
					return 0, 0, err
				}
			}
		}
		if bytes[i], err = l.info(ctx, "memory", "used_memory_dataset"); err != nil {
			return 0, 0, err
		}
	}
	return (bytes[1] - bytes[0]) / n, (bytes[2] - bytes[0]) / n, nil
}
