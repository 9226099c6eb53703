package coordmsg

import (
	"errors"
	"fmt"
	"time"

	"github.com/onceward/coordinator"
)

// Action is what a consumer is to do with a message.
type Action int

const (
	// Ack: it has taken effect, now or before. Acknowledge it.
	Ack Action = iota + 1
	// Retry: it has not, or that is not known. Have it delivered again, after [Verdict].After.
	Retry
	// Park: to deliver it again is of no use. Put it where people look, with the verdict, and then acknowledge it.
	Park
)

// String returns "ack", "retry" or "park".
func (a Action) String() string {
	switch a {
	case Ack:
		return "ack"
	case Retry:
		return "retry"
	case Park:
		return "park"
	}
	return fmt.Sprintf("Action(%d)", int(a))
}

// Reason says why; its values are good labels for metrics.
type Reason string

// The reasons, each of one action.
const (
	Done Reason = "done" // Ack: it has taken effect; Verdict.Replayed says whether that was before

	InProgress  Reason = "in_progress" // Retry: another consumer works on it
	Failed      Reason = "failed"      // Retry: the handler returned an error
	Lost        Reason = "lost"        // Retry: the lease ended before the work did; what was written behind a fence later was refused
	Unavailable Reason = "unavailable" // Retry: Redis is away, or what became of a call is not known
	Misused     Reason = "misused"     // Retry: an option cannot be used; no message is to blame

	Final     Reason = "final"     // Park: the handler returned a coordinator.Final error
	Poisoned  Reason = "poisoned"  // Park: as many attempts as MaxAttempts allows have failed, panicked or crashed
	Uncertain Reason = "uncertain" // Park: an attempt ended without an outcome, and coordinator.QuarantineLapsed was asked for
	Reused    Reason = "reused"    // Park: another message had this key
	Expired   Reason = "expired"   // Park: it is older than results are kept, and may have taken effect
	Invalid   Reason = "invalid"   // Park: its key cannot be used, or its IssuedAt or MinToken is too far ahead
	Corrupt   Reason = "corrupt"   // Park: what Redis holds for it cannot be read
)

// Verdict is what to do with a message, and why.
type Verdict struct {
	Action Action
	Reason Reason
	// After is how long to wait before the message is delivered again; 0 but for Retry.
	After time.Duration
	// Replayed says that this was decided when the message was handled before: Done, Final and Poisoned are kept as long as results are.
	Replayed bool
	// Attempt is the number of the attempt that this is about; 0 where it is not known.
	Attempt int
	// Checkpoint is what the message's attempts saved last, for the record of a parked one; nil when there is none, and where nothing
	// was claimed and nothing is stored, as with Uncertain.
	Checkpoint []byte
	// Result is what the handler stored with lease.Complete, where it did so itself; nil otherwise.
	Result []byte
	// Err is what went wrong. With Ack it is nil or coordinator.ErrNotReplicated: the effect stands, but a failover may forget it.
	Err error
}

// String is the verdict in a few words, for logs.
func (v Verdict) String() string {
	text := fmt.Sprintf("%v (%s)", v.Action, v.Reason)
	if v.Action == Retry {
		text += fmt.Sprintf(" after %v", v.After)
	}
	if v.Attempt > 0 {
		text += fmt.Sprintf(", attempt %d", v.Attempt)
	}
	if v.Err != nil {
		text += ": " + v.Err.Error()
	}
	return text
}

// reasons says what an error of the core is to a message: the first that it is.
var reasons = [...]struct {
	err    error
	action Action
	reason Reason
}{
	{coordinator.ErrInProgress, Retry, InProgress},
	{coordinator.ErrMismatch, Park, Reused},
	{coordinator.ErrUncertain, Park, Uncertain},
	{coordinator.ErrKeyExpired, Park, Expired},
	{coordinator.ErrInvalid, Park, Invalid},
	{coordinator.ErrCorrupt, Park, Corrupt},
	{coordinator.ErrLeaseLost, Retry, Lost},
	{coordinator.ErrStaleToken, Retry, Lost},
}

// verdictOf is what an error of the core, from a claim or a completion, means for the message.
func (s *settings) verdictOf(err error) Verdict {
	if result, ok := coordinator.ResultOf(err); ok {
		return replayed(result, err)
	}
	v := Verdict{Action: Retry, Reason: Unavailable, After: s.after(1), Err: err}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			v.Action, v.Reason = r.action, r.reason
			break
		}
	}
	var busy *coordinator.InProgressError
	if errors.As(err, &busy) {
		v.Attempt = busy.Attempt
		v.After = max(busy.RetryAfter, soonest)
	}
	if v.Action == Park {
		v.After = 0
	}
	return v
}

// soonest is the least wait of a message that is in progress: a lease that ends this moment is not worth a hot loop.
const soonest = 100 * time.Millisecond
