package main

import (
	"bytes"
	"context"

	"github.com/onceward/coordinator"
)

// The figures of row 6.
const (
	nameBeyond   = "completed_bytes_beyond_payload"
	nameInFlight = "in_flight_bytes"
)

const sameMemory = `The server is filled with records and used_memory_dataset is divided by their number. The key is a UUID in the scope "pay". The bare values
are what SET stores under a name as long: an owner in flight, then the payload; they hold no token, no times, no state and no fingerprint.`

const fingerprintBytes = 32

// memory is row 6. It fills the server with records and asks it how much its data grew: the bytes of one record, in
// flight and completed, with and without a fingerprint, and of the bare pair. They are the allocator's bytes of names and
// values; the tables that hold them are Redis's own and the same for every key (16 bytes of object, 48 of
// table entries and some 16 of table slots, with a TTL).
func (l *lab) memory(ctx context.Context) ([]figure, error) {
	print := bytes.Repeat([]byte{0xa5}, fingerprintBytes)
	var plain, printed, bare [2][]float64 // in flight, completed
	for round := range min(l.rounds, 2) { // what an allocator does hardly varies
		l.progress.step("round %d", round+1)
		for _, f := range []struct {
			into *[2][]float64
			do   steps
		}{
			{&plain, l.librarySteps()},
			{&printed, l.librarySteps(coordinator.Fingerprint(print))},
			{&bare, l.bareSteps()},
		} {
			inFlight, completed, err := l.bytes(ctx, l.keys, f.do)
			if err != nil {
				return nil, err
			}
			f.into[0] = append(f.into[0], inFlight)
			f.into[1] = append(f.into[1], completed-payloadBytes)
		}
	}
	const bytes = "bytes"
	return []figure{
		figureOf(nameBeyond, "Redis memory of a completed record beyond the payload", bytes, plain[1]).atMost(240),
		figureOf(nameInFlight, "Redis memory of a record in flight", bytes, plain[0]).atMost(220),
		figureOf("fingerprint_"+nameBeyond, "completed beyond the payload, with a fingerprint of 32 bytes", bytes, printed[1]),
		figureOf("fingerprint_"+nameInFlight, "in flight, with a fingerprint of 32 bytes", bytes, printed[0]),
		figureOf("bare_"+nameBeyond, "SET PX of the payload, beyond the payload", bytes, bare[1]),
		figureOf("bare_"+nameInFlight, "SET NX PX of an owner", bytes, bare[0]),
	}, nil
}

// bytes fills the server once and returns the bytes of one record in flight and completed.
func (l *lab) bytes(ctx context.Context, keys int, do steps) (inFlight, completed float64, err error) {
	var at []float64
	err = l.fill(ctx, keys, do, func() error {
		now, err := l.info(ctx, "memory", "used_memory_dataset")
		at = append(at, now)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	n := float64(keys)
	return (at[1] - at[0]) / n, (at[2] - at[0]) / n, nil
}
