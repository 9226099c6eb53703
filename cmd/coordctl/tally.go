package main

import (
	"sync"
	"sync/atomic"
)

// tally counts what the services do. It is theirs, and asks the library for nothing.
type tally struct {
	replays, inProgress, staleRefused atomic.Int64

	mu         sync.Mutex
	requests   int
	executions int
	takeovers  int
	payments   map[string]bool // those asked for
	open       map[string]bool // those on which a run has begun that did not give its key up
}

func newTally() *tally {
	return &tally{payments: map[string]bool{}, open: map[string]bool{}}
}

// requested counts a request that reached a worker.
func (t *tally) requested(payment string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	t.payments[payment] = true
}

// began counts a run of the work. It is a takeover when a run before it ended without a word.
func (t *tally) began(payment string) (takeover bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.executions++
	takeover = t.open[payment]
	if takeover {
		t.takeovers++
	}
	t.open[payment] = true
	return takeover
}

// gaveUp notes that a run ended in an error while it held its key, and so gives it back.
func (t *tally) gaveUp(payment string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, payment)
}
