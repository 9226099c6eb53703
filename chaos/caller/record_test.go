package caller

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/history"
)

func TestOutcome(t *testing.T) {
	for _, test := range []struct {
		err  error
		want history.Outcome
	}{
		{nil, history.OK},
		{&coordinator.CompletedError{}, history.Replayed},
		{&coordinator.InProgressError{}, history.InProgress},
		{&coordinator.StaleTokenError{}, history.Stale},
		{&coordinator.UnknownError{Err: coordinator.ErrUnavailable}, history.Unknown}, // the more telling of two
		{fmt.Errorf("%w: %w", coordinator.ErrNotReplicated, coordinator.ErrUnknown), history.NotReplicated},
		{coordinator.ErrMismatch, history.Mismatch},
		{coordinator.ErrUncertain, history.Uncertain},
		{coordinator.ErrLeaseLost, history.LeaseLost},
		{coordinator.ErrNotFound, history.NotFound},
		{coordinator.ErrUnavailable, history.Unavailable},
		{coordinator.ErrClosed, history.Closed},
		{coordinator.ErrCorrupt, history.Failed},
		{coordinator.ErrInvalid, history.Failed},
		{errors.New("anything"), history.Failed},
	} {
		if got := Outcome(test.err); got != test.want {
			t.Errorf("Outcome(%v) = %s, want %s", test.err, got, test.want)
		}
	}
}

// TestRecorder checks that an operation which never ended stays in the history, and one that did has its end.
func TestRecorder(t *testing.T) {
	dir := t.TempDir()
	out, err := history.Create(filepath.Join(dir, "process.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(out, 3)
	r.Begin(history.Event{Caller: 1, Domain: "d", Key: "k", Op: history.Claim})
	step := r.Begin(history.Event{Caller: 2, Domain: "d", Key: "k", Op: history.Write, Token: 5})
	if got := step.End(&coordinator.StaleTokenError{Token: 5, Current: 9}); got != history.Stale {
		t.Errorf("End() = %s", got)
	}
	if err := errors.Join(r.Err(), out.Close()); err != nil {
		t.Fatal(err)
	}
	h, err := history.Read(dir)
	if err != nil || len(h.Events) != 2 {
		t.Fatalf("%+v, %v", h, err)
	}
	first, second := h.Events[0], h.Events[1]
	if !first.Pending() || first.Process != 3 || first.Caller != 1 {
		t.Errorf("%+v", first)
	}
	if second.Pending() || second.Outcome != history.Stale || second.Current != 9 || second.Return < second.Call {
		t.Errorf("%+v", second)
	}
	r.Begin(history.Event{})
	if r.Err() == nil {
		t.Error("a history that cannot be written is no failure")
	}
}
