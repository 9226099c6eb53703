package caller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/history"
)

// Recorder writes what one process asks for and is told.
type Recorder struct {
	out     *history.Writer
	process int
	last    atomic.Int64
	texts   atomic.Int64
	failed  atomic.Pointer[error]
	stalls  stalls
}

// NewRecorder writes to out, in the name of a process.
func NewRecorder(out *history.Writer, process int) *Recorder {
	return &Recorder{out: out, process: process}
}

func (r *Recorder) write(line history.Line) {
	if err := r.out.Write(line); err != nil {
		r.failed.CompareAndSwap(nil, &err)
	}
}

// Err is the first failure to write; a history with gaps proves nothing.
func (r *Recorder) Err() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Begin records that an operation begins; the caller calls it at once.
func (r *Recorder) Begin(e history.Event) *Step {
	e.ID, e.Process, e.Call = r.last.Add(1), r.process, history.Now()
	r.write(history.Line{Event: &e})
	return &Step{Event: e, r: r}
}

// text makes a small payload that no other operation has.
func (r *Recorder) text(kind string) string {
	return fmt.Sprintf("%s%d.%d", kind, r.process, r.texts.Add(1))
}

// Step is an operation that has begun.
type Step struct {
	history.Event
	r *Recorder
}

// End records how it ended. What else is known of it stands in the event by then.
func (s *Step) End(err error) history.Outcome {
	s.Return, s.Outcome = history.Now(), Outcome(err)
	var (
		stale    *coordinator.StaleTokenError
		busy     *coordinator.InProgressError
		unknown  *coordinator.UnknownError
		finished *coordinator.CompletedError
	)
	if errors.As(err, &stale) {
		s.Current = int64(stale.Current)
	}
	if errors.As(err, &busy) {
		s.Attempt = busy.Attempt
	}
	if errors.As(err, &unknown) && unknown.Owner != "" {
		s.Owner = unknown.Owner
	}
	if errors.As(err, &finished) {
		s.Found, s.Failed = string(finished.Result.Payload), finished.Result.Failed
	}
	if err != nil {
		s.Err = err.Error()
	}
	s.r.write(history.Line{Event: &s.Event})
	return s.Outcome
}

// Claim claims and records it. The coordinator has a [Watcher].
func (r *Recorder) Claim(ctx context.Context, c *coordinator.Coordinator, e history.Event, key coordinator.Key, options ...coordinator.ClaimOption) (*coordinator.Lease, *Step, error) {
	outcome := new(string)
	ctx = context.WithValue(ctx, watchedKey{}, outcome)
	s := r.Begin(e)
	l, err := c.Claim(ctx, key, options...)
	if err != nil {
		s.End(err)
		return nil, s, err
	}
	s.Return, s.Outcome = history.Now(), history.Outcome(*outcome)
	s.Owner, s.Token, s.Attempt, s.Data = l.Grant().Owner, int64(l.Token()), l.Attempt(), string(l.Checkpoint())
	r.write(history.Line{Event: &s.Event})
	return l, s, nil
}

type watchedKey struct{}

// Watcher is the coordinator's observer: a call's outcome alone tells a takeover from another grant.
type Watcher struct{}

// Begin finds out who wants to know.
func (Watcher) Begin(ctx context.Context, _ string) (context.Context, func(coordinator.Event)) {
	outcome, asked := ctx.Value(watchedKey{}).(*string)
	if !asked {
		return ctx, func(coordinator.Event) {}
	}
	return ctx, func(e coordinator.Event) { *outcome = e.Outcome }
}

// Note has nothing to tell.
func (Watcher) Note(coordinator.Event) {}

// Outcome names an error, in the coordinator's own order: the more telling comes first.
func Outcome(err error) history.Outcome {
	if err == nil {
		return history.OK
	}
	for _, o := range []struct {
		err  error
		name history.Outcome
	}{
		{coordinator.ErrNotReplicated, history.NotReplicated}, {coordinator.ErrCompleted, history.Replayed},
		{coordinator.ErrInProgress, history.InProgress}, {coordinator.ErrMismatch, history.Mismatch},
		{coordinator.ErrUncertain, history.Uncertain}, {coordinator.ErrStaleToken, history.Stale},
		{coordinator.ErrLeaseLost, history.LeaseLost}, {coordinator.ErrNotFound, history.NotFound},
		{coordinator.ErrUnknown, history.Unknown}, {coordinator.ErrKeyExpired, history.Failed},
		{coordinator.ErrInvalid, history.Failed}, {coordinator.ErrTooLarge, history.Failed},
		{coordinator.ErrCorrupt, history.Failed}, {coordinator.ErrUnavailable, history.Unavailable},
		{coordinator.ErrClosed, history.Closed},
	} {
		if errors.Is(err, o.err) {
			return o.name
		}
	}
	if redis.HasErrorPrefix(err, "OOM") {
		return history.Unavailable // a fenced command's own error: it did not run
	}
	return history.Failed
}

// holding follows a lease's context from the grant until it ends.
type holding struct {
	r   *Recorder
	ctx context.Context

	mu   sync.Mutex
	line history.Holding
}

func (r *Recorder) hold(line history.Holding, l *coordinator.Lease) *holding {
	line.Process = r.process
	h := &holding{r: r, ctx: l.Context(), line: line}
	context.AfterFunc(h.ctx, h.ended)
	return h
}

// seen looks whether the context lives. The moment is taken before the look: the context lived then, however long
// this process was stopped in between.
func (h *holding) seen() bool {
	at := history.Now()
	if h.ctx.Err() != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Alive = max(h.line.Alive, at)
	return true
}

// note writes down what is known by now: this process may be killed before the end.
func (h *holding) note() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.line.Ended == 0 {
		h.write()
	}
}

// write is called with mu held.
func (h *holding) write() {
	h.line.Stopped = h.line.Stopped || h.r.stalls.since(h.line.Granted, time.Duration(h.line.Grace)/2)
	line := h.line
	h.r.write(history.Line{Holding: &line})
}

func (h *holding) ended() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Ended, h.line.Cause = history.Now(), "finished"
	switch cause := context.Cause(h.ctx); {
	case errors.Is(cause, coordinator.ErrLeaseLost):
		h.line.Cause = "lease_lost"
	case errors.Is(cause, coordinator.ErrClosed):
		h.line.Cause = "closed"
	}
	h.write()
}
