package coordinator

import (
	"context"
	"errors"
	"fmt"

	"github.com/onceward/coordinator/internal/carrier"
	"github.com/onceward/coordinator/internal/protocol"
)

// call is a request on its way, with what its errors speak of.
type call struct {
	carrier.Call
	key   Key
	owner string // for UnknownError
}

func newCall(key Key, owner string, q protocol.Request) *call {
	return &call{Call: carrier.Call{Request: q}, key: key, owner: owner}
}

// run sends calls, all in one go, until each has its reply or its error.
func (c *Coordinator) run(ctx context.Context, calls ...*call) {
	c.carrier.Run(ctx, carried(calls)...)
	for _, k := range calls {
		k.Err = k.failure()
	}
}

func carried(calls []*call) []*carrier.Call {
	out := make([]*carrier.Call, len(calls))
	for i, k := range calls {
		out[i] = &k.Call
	}
	return out
}

// failure is why a call has no reply, as one of our errors (P7).
func (k *call) failure() error {
	if k.Err == nil {
		return nil
	}
	var corrupt *protocol.CorruptError
	switch {
	case errors.As(k.Err, &corrupt):
		return fmt.Errorf("%w: %w", ErrCorrupt, k.Err)
	case k.MayHaveRun:
		return &UnknownError{Key: k.key, Owner: k.owner, Err: k.Err}
	case errors.Is(k.Err, ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, k.Err)
}

// done is the error of a call that answers nothing but that it was done.
func (k *call) done() error {
	if k.Err == nil && k.Reply.Code != protocol.OK {
		return k.unexpected()
	}
	return k.Err
}

// stale is the error of a grant with this token where the reply shows another one.
func (k *call) stale(token Token) error {
	return &StaleTokenError{Key: k.key, Token: token, Current: Token(k.Reply.Rec.Token)}
}

// unexpected is the error for replies that have no case of their own.
func (k *call) unexpected() error {
	if k.Reply.Code == protocol.Spent {
		return fmt.Errorf("%w: no token is left below 2^53 for %s; the server's clock is beyond the year 2255, or a token was set by hand", ErrUnavailable, label(k.key))
	}
	return fmt.Errorf("%w: script %s answered the code %d out of place", ErrCorrupt, k.Script.Verb, k.Reply.Code)
}
