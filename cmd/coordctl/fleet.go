package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const workers = 4

// longestPause ends a pause during which nobody else books the payment.
const longestPause = 6 * time.Second

// fleet keeps a number of workers running, replaces those that crash, and lets trouble strike them.
type fleet struct {
	*world
	ledger *ledger // looked at from outside, past the workers' troubles

	pausing sync.Mutex // one worker is paused at a time, so that the others can go on

	mu      sync.Mutex
	over    bool // no worker starts any more
	started int
	up      []*worker
	gone    []*worker // crashed; their last requests may still be ending
}

// add starts one more worker.
func (f *fleet) add() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return errOver
	}
	f.started++
	w, err := f.newWorker(fmt.Sprintf("worker-%d", f.started))
	if err != nil {
		return err
	}
	f.up = append(f.up, w)
	return nil
}

// pick returns where to send a request: any worker that is not known to be dead, as a load balancer does.
func (f *fleet) pick(r *rand.Rand) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up[r.IntN(len(f.up))].url
}

// stop ends all workers.
func (f *fleet) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	f.mu.Lock()
	f.over = true
	all := slices.Concat(f.gone, f.up)
	f.mu.Unlock()
	for _, w := range all {
		w.stop(ctx)
	}
}

var (
	errCrashed = errors.New("the worker has crashed")
	errOver    = errors.New("the demo is over")
)

// strike lets happen to a worker what the schedule has for the payment in its hands.
func (f *fleet) strike(w *worker, at moment, payment string) error {
	w.gate.pass() // a paused process gets nowhere
	if w.isDown() {
		return errCrashed
	}
	switch f.schedule.take(payment, at) {
	case crashBefore:
		f.diary.note(bad, w.name, "crashes before it books %s", payment)
		return f.crash(w)
	case crashAfter:
		f.diary.note(bad, w.name, "crashes after it booked %s, before it could say so", payment)
		return f.crash(w)
	case pause:
		return f.pause(w, payment)
	}
	return nil
}

// crash ends a worker in the middle of its work and starts another, as a supervisor does.
func (f *fleet) crash(w *worker) error {
	if err := f.add(); err != nil {
		return err
	}
	f.mu.Lock()
	f.up = slices.DeleteFunc(f.up, func(other *worker) bool { return other == w })
	f.gone = append(f.gone, w)
	f.mu.Unlock()
	w.crash()
	return errCrashed
}

// pause stops a worker until somebody else has booked the payment that it was about to book.
func (f *fleet) pause(w *worker, payment string) error {
	f.pausing.Lock()
	defer f.pausing.Unlock()
	if w.isDown() { // it crashed over another payment meanwhile; whoever takes this one over is paused instead
		f.schedule.put(payment, pause)
		return errCrashed
	}
	reopen := w.gate.shut()
	defer reopen()
	f.diary.note(warn, w.name, "is paused before it books %s, and does not know it", payment)
	began := time.Now()
	for f.ctx.Err() == nil && time.Since(began) < longestPause {
		if booked, err := f.ledger.entries(f.ctx, paymentKey(payment)); err == nil && len(booked) > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	f.diary.note(warn, w.name, "wakes up after %v and goes on to book %s", time.Since(began).Round(10*time.Millisecond), payment)
	return nil
}
