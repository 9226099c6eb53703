package faults

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/faultproxy"
)

func callers() []Fault { return []Fault{stopHolders{}, killHolders{}} }

// stopHolders halts up to half of the processes for longer than a lease and its grace, and lets them run on: what they
// were about to write comes too late.
type stopHolders struct{}

func (stopHolders) Name() string  { return "stop-holders" }
func (stopHolders) Group() string { return Callers }

func (s stopHolders) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	if len(t.Processes) == 0 {
		return nil, ErrUnsupported
	}
	f := history.Fault{Name: s.Name(), Effect: history.Stop, Start: history.Now()}
	var errs []error
	first, stopped := t.number(len(t.Processes)), []Process{}
	for i := range 1 + t.number((len(t.Processes)+1)/2) {
		at := (first + i) % len(t.Processes)
		if t.atWork(ctx, at) {
			f.Detail = atWork
		}
		p := t.Processes[at]
		if err := p.Stop(); err != nil {
			errs = append(errs, err)
			continue
		}
		stopped = append(stopped, p)
		f.Processes = append(f.Processes, p.ID())
		f.Count++
	}
	pause(ctx, t.beyond())
	for _, p := range stopped {
		errs = append(errs, p.Cont())
	}
	return happened(f), errors.Join(errs...)
}

// killHolders ends a process, and starts another in its place.
type killHolders struct{}

func (killHolders) Name() string  { return "kill-holders" }
func (killHolders) Group() string { return Callers }

func (k killHolders) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	if len(t.Processes) == 0 {
		return nil, ErrUnsupported
	}
	f := history.Fault{Name: k.Name(), Effect: history.Stop, Start: history.Now()}
	at := t.number(len(t.Processes))
	if t.atWork(ctx, at) {
		f.Detail = atWork
	}
	p := t.Processes[at]
	f.Processes = []int{p.ID()}
	if err := p.Kill(); err != nil {
		return nil, err
	}
	f.Count = 1
	pause(ctx, t.between(0, t.Lease))
	kept, cancel := detached(ctx)
	defer cancel()
	err := p.Respawn(kept)
	return happened(f), err
}

const atWork = "with a request under way"

// atWork waits until a request of the process is under way, where that has a network of its own, and holds it up for
// long enough for the process to be stopped or killed first. It reports whether there is such a request.
func (t *Target) atWork(ctx context.Context, process int) bool {
	if len(t.Networks) != len(t.Processes) {
		return false
	}
	const (
		patience = time.Second
		under    = 30 * time.Millisecond
	)
	seen := make(chan struct{})
	var once sync.Once
	rule := func(r faultproxy.Request) faultproxy.Verdict {
		v := faultproxy.Verdict{}
		if works(r) {
			once.Do(func() {
				v = faultproxy.Verdict{Action: faultproxy.Delay, For: under}
				close(seen)
			})
		}
		return v
	}
	for _, l := range t.Networks[process].links {
		defer l.impose(rule)()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-seen:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
