package main

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// row is one line of the table of targets: a kind of work, measured against others' or against a limit.
type row struct {
	number  int
	quick   bool // is part of --quick
	what    string
	same    string // why the work compared is the same, or what the peers do not do
	measure func(*lab, context.Context) ([]figure, error)
}

// rows are all of them, in the order of their numbers. Each one's file says what it does.
var rows = []row{
	{1, true, "fresh claim and completion, 64 callers", sameFresh, (*lab).fresh},
	{2, true, "fresh claim and completion, one caller", sameFreshAlone, (*lab).freshAlone},
	{3, true, "Redis CPU of a fresh claim and completion", sameFreshCPU, (*lab).freshCPU},
	{4, true, "replay, 64 callers", sameReplay, (*lab).replay},
	{5, true, "hot replays from the local cache, 64 callers", sameCached, (*lab).cached},
	{6, true, "Redis memory of a record", sameMemory, (*lab).memory},
	{7, false, "many leases held by one coordinator", sameHeld, (*lab).held},
	{8, false, "many waiters on one key", sameWaiting, (*lab).waiting},
	{9, true, "claiming many keys over three masters", sameMany, (*lab).many},
	{10, false, "growth: many records, many leases", sameGrowth, (*lab).growth},
	{11, false, "a network that takes 1 ms more", sameDelay, (*lab).delay},
	{12, false, "an HTTP endpoint behind the middleware", sameWeb, (*lab).web},
	{13, false, "a transaction in PostgreSQL with a fence, and with the ledger", samePostgres, (*lab).postgres},
}

// effort is how much is done to measure: enough for numbers that hold, for a quick look, or for a test.
type effort struct {
	rounds   int
	slice    time.Duration // of one contender in one round
	callers  int
	pipeline int // commands that go out together, on either side of a comparison of CPU
	keys     int // records of one round, where CPU and memory are counted

	leases int           // held in rows 7 and 10
	lease  time.Duration // each one's

	waiters, processes int
	working            time.Duration // how long the waited-for work takes
	waitRounds         int

	batch int // of ClaimMany

	records     int           // of the full server in row 10
	short       time.Duration // lease of the few leases there
	leaseWindow time.Duration // in which renewals are counted there
}

var full = effort{
	rounds: 7, slice: 300 * time.Millisecond, callers: 64, pipeline: 100, keys: 20_000,
	leases: 100_000, lease: 30 * time.Second,
	waiters: 1000, processes: 10, working: 34 * time.Second, waitRounds: 2,
	batch: 1000, records: 2_000_000, short: 300 * time.Millisecond, leaseWindow: 10 * time.Second,
}

var quick = effort{
	rounds: 3, slice: 200 * time.Millisecond, callers: 64, pipeline: 100, keys: 10_000,
	leases: 20_000, lease: 10 * time.Second,
	waiters: 1000, processes: 10, working: 6 * time.Second, waitRounds: 1,
	batch: 1000, records: 200_000, short: 300 * time.Millisecond, leaseWindow: 3 * time.Second,
}

// measure starts a server and measures the rows on it, one after the other. A row that fails is reported as failed, and
// the others go on; an error means that nothing could be measured, or that ctx has ended. profiles is a directory, or empty.
func measure(ctx context.Context, e effort, chosen []row, p *progress, profiles string) (*report, error) {
	l, err := newLab(ctx, e)
	if err != nil {
		return nil, err
	}
	defer l.close()
	defer p.end()
	l.progress = p
	r := &report{
		Go: runtime.Version(), CPUs: runtime.NumCPU(), Rounds: e.rounds, Slice: e.slice.String(), Payload: payloadBytes,
	}
	if r.Server, err = l.version(ctx); err != nil {
		return nil, err
	}
	for _, row := range chosen {
		p.row(row)
		if err := l.clear(ctx); err != nil {
			return nil, err
		}
		figures, err := profiled(profiles, row, func() ([]figure, error) { return row.measure(l, ctx) })
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			err = fmt.Errorf("row %d: %w", row.number, err)
		}
		r.add(row, figures, err)
	}
	return r, nil
}
