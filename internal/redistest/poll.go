package redistest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// pollEvery is short against everything waited for here (tens of
	// milliseconds to seconds), and long enough not to load two cores.
	pollEvery = 20 * time.Millisecond

	// patience bounds every wait whose context has no deadline: a test which
	// hangs until the test binary is shot tells nothing about the reason.
	patience = 30 * time.Second
)

// errGiveUp, when wrapped by a condition's error, ends the waiting: what is
// waited for can no longer happen.
var errGiveUp = errors.New("gave up")

// until polls cond until it returns nil. Conditions are errors rather than
// booleans, so that a timeout can say what was still missing.
func until(ctx context.Context, what string, cond func(context.Context) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, errGiveUp) {
			return fmt.Errorf("redistest: waiting for %s: %w", what, err)
		}
		// Once ctx has ended, err is merely its echo; the last real
		// reason is worth more.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("redistest: waiting for %s: %w (last: %w)", what, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// bounded gives ctx a deadline if it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, patience)
}
