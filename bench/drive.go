package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// contender is one way of doing a piece of work.
type contender struct {
	name string
	op   func(context.Context) error // does it once
}

// pace is what a contender did in one slice.
type pace struct {
	rate   float64 // operations in a second
	p50    float64 // of one operation, µs; of a single caller only
	allocs float64 // of this process for an operation
	client float64 // CPU of this process for an operation, µs
	server float64 // CPU of Redis for an operation, µs
}

// race lets the contenders run in turns, each for one slice in a round, and in every round another one goes first, so that
// what else the machine does meets all of them. It returns each contender's paces by rounds. before is called before each slice.
func (l *lab) race(ctx context.Context, callers int, contenders []contender, before func(context.Context) error) ([][]pace, error) {
	paces := make([][]pace, len(contenders))
	for round := -1; round < l.rounds; round++ {
		slice := l.slice
		if round < 0 {
			slice /= 5 // dials, loads scripts, and does not count
		}
		for turn := range contenders {
			i := (turn + round + len(contenders)) % len(contenders)
			l.progress.step("round %d of %d: %s", round+1, l.rounds, contenders[i].name)
			if err := before(ctx); err != nil {
				return nil, err
			}
			p, err := l.drive(ctx, callers, slice, contenders[i].op)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			if round >= 0 {
				paces[i] = append(paces[i], p)
			}
		}
	}
	return paces, nil
}

// drive lets callers repeat op for the time of a slice.
func (l *lab) drive(ctx context.Context, callers int, slice time.Duration, op func(context.Context) error) (p pace, err error) {
	var (
		done  atomic.Bool
		total atomic.Int64
		times []time.Duration
		group sync.WaitGroup
		errs  = make([]error, callers)
	)
	runtime.GC() // nobody pays for what others left behind
	before, err := l.meters(ctx)
	if err != nil {
		return p, err
	}
	begin := time.Now()
	timer := time.AfterFunc(slice, func() { done.Store(true) })
	defer timer.Stop()
	for caller := range callers {
		group.Go(func() {
			var n int64
			for more := true; more; more = errs[caller] == nil && !done.Load() { // once at least
				if callers > 1 {
					errs[caller] = op(ctx)
				} else { // asking for the time would slow down the fastest rows
					start := time.Now()
					errs[caller] = op(ctx)
					times = append(times, time.Since(start))
				}
				n++
			}
			total.Add(n)
		})
	}
	group.Wait()
	took := time.Since(begin)
	after, errAfter := l.meters(ctx)
	if err := errors.Join(append(errs, errAfter)...); err != nil {
		return p, err
	}
	n := float64(total.Load())
	p = pace{
		rate: n / took.Seconds(), allocs: (after.allocs - before.allocs) / n,
		client: (after.client - before.client) / n, server: (after.server - before.server) / n,
	}
	if len(times) > 0 {
		slices.Sort(times)
		p.p50 = micros(times[len(times)/2])
	}
	return p, nil
}

// meters are what this process and the server have used up so far.
type meters struct {
	allocs         float64
	client, server float64 // µs
}

func (l *lab) meters(ctx context.Context) (m meters, err error) {
	if m.server, err = l.serverCPU(ctx); err != nil {
		return m, err
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m.allocs = float64(stats.Mallocs)
	m.client, err = clientCPU()
	return m, err
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
func millis(d time.Duration) float64 { return micros(d) / 1e3 }

func rateOf(p pace) float64   { return p.rate }
func p50Of(p pace) float64    { return p.p50 }
func allocsOf(p pace) float64 { return p.allocs }
func clientOf(p pace) float64 { return p.client }
func serverOf(p pace) float64 { return p.server }

// each takes one number out of every round.
func each(paces []pace, of func(pace) float64) []float64 {
	numbers := make([]float64, len(paces))
	for i, p := range paces {
		numbers[i] = of(p)
	}
	return numbers
}

// ratios compares round by round.
func ratios(ours, theirs []pace, of func(pace) float64) []float64 {
	numbers := make([]float64, len(ours))
	for i := range ours {
		numbers[i] = of(ours[i]) / of(theirs[i])
	}
	return numbers
}

// details are figures for information: what each contender did and what it cost.
func details(row string, contenders []contender, paces [][]pace) (all []figure) {
	for i, c := range contenders {
		name := row + "_" + c.name
		all = append(all,
			figureOf(name+"_rate", c.name, "operations a second", each(paces[i], rateOf)),
			figureOf(name+"_server", c.name, "µs of Redis CPU for one", each(paces[i], serverOf)),
			figureOf(name+"_client", c.name, "µs of client CPU for one", each(paces[i], clientOf)),
			figureOf(name+"_allocs", c.name, "allocations for one", each(paces[i], allocsOf)),
		)
	}
	return all
}
