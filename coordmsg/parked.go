package coordmsg

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/onceward/coordinator"
)

// parked is the stored outcome of a message that was parked, so that its duplicates are parked for the same reason.
type parked struct {
	Version    int    `json:"coordmsg"`
	Reason     Reason `json:"reason"`
	Attempts   int    `json:"attempts"`
	Error      string `json:"error"`
	Checkpoint []byte `json:"checkpoint,omitempty"`
}

const (
	parkedVersion = 1
	// longestText is how many bytes of an error are stored.
	longestText = 4096
)

// park stores that the message is given up after so many attempts.
func (s *settings) park(ctx context.Context, lease *coordinator.Lease, reason Reason, attempts int, failure error) Verdict {
	p := parked{Version: parkedVersion, Reason: reason, Attempts: attempts, Error: failure.Error(), Checkpoint: lease.Checkpoint()}
	if len(p.Error) > longestText {
		p.Error = strings.ToValidUTF8(p.Error[:longestText], "") + " …"
	}
	v := Verdict{Action: Park, Reason: reason, Attempt: p.Attempts, Checkpoint: p.Checkpoint, Err: failure}
	store := func(ctx context.Context) error {
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		return lease.Fail(ctx, text)
	}
	err := s.store(ctx, lease, store)
	if errors.Is(err, coordinator.ErrTooLarge) { // what is stored need not have all that the verdict has
		p.Checkpoint, p.Error = nil, "the error and the checkpoint are too large to be stored"
		err = s.store(ctx, lease, store)
	}
	switch {
	case err == nil, errors.Is(err, coordinator.ErrNotReplicated): // it stands
		return v
	case errors.Is(err, coordinator.ErrTooLarge): // not even that: WithMaxPayload is tiny
		s.release(ctx, lease)
		return v
	}
	return s.unstored(ctx, lease, err)
}

// replayed is the verdict on a message that has its outcome; err is what carries it.
func replayed(result coordinator.Result, err error) Verdict {
	if !result.Failed {
		return Verdict{Action: Ack, Reason: Done, Replayed: true, Result: result.Payload}
	}
	var p parked
	if json.Unmarshal(result.Payload, &p) != nil || p.Version != parkedVersion {
		// The handler, or somebody who works without this package, has called lease.Fail.
		return Verdict{Action: Park, Reason: Final, Replayed: true, Result: result.Payload, Err: err}
	}
	return Verdict{Action: Park, Reason: p.Reason, Replayed: true, Attempt: p.Attempts, Checkpoint: p.Checkpoint, Err: &parkedError{p.Error, err}}
}

// parkedError has the text of the error that a message was parked with, and is what the claim returned.
type parkedError struct {
	text string
	err  error
}

func (e *parkedError) Error() string { return e.text }
func (e *parkedError) Unwrap() error { return e.err }
