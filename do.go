package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Codec turns values into payloads and back.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

type doRequest struct {
	claim []ClaimOption
	codec Codec
}

type codecOption struct{ codec Codec }

func (o codecOption) applyDo(r *doRequest) error {
	if o.codec == nil {
		return fmt.Errorf("%w: WithCodec needs a Codec; leave it out for JSON", ErrInvalid)
	}
	r.codec = o.codec
	return nil
}

// WithCodec sets how [Do] stores results; the default is JSON.
func WithCodec(codec Codec) DoOption { return codecOption{codec} }

// Final marks an error as the outcome of the operation: [Do] stores its text, and everybody, the first
// caller too, gets it as *[CompletedError] with Result.Failed. Final(nil) is nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return &finalError{err}
}

// IsFinal reports whether err is, or wraps, an error of [Final]: for packages that run handlers as [Do] does.
func IsFinal(err error) bool {
	_, final := errors.AsType[*finalError](err)
	return final
}

type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// Do claims key, runs fn under a context that ends with ctx or the lease, stores what it returns and
// replays it to everyone else; replayed says that v was stored before. An error or a panic of fn releases the key
// before Do returns or panics on, within a second; [Final] errors are stored. What fn did outside of the fence
// may have been done more than once. Other errors are those of Claim and Complete; when a result could not be
// stored, v is returned beside the error.
func Do[T any](ctx context.Context, c *Coordinator, key Key, fn func(context.Context, *Lease) (T, error), opts ...DoOption) (v T, replayed bool, err error) {
	ctx, end := c.begin(ctx, "do", key)
	defer func() { end(outcomeOf(err), err) }()
	r := doRequest{codec: jsonCodec{}}
	for _, opt := range opts {
		if opt == nil {
			return v, false, fmt.Errorf("%w: an option is nil; leave it out", ErrInvalid)
		}
		if err := opt.applyDo(&r); err != nil {
			return v, false, err
		}
	}
	lease, err := c.Claim(ctx, key, r.claim...)
	if err != nil {
		var unknown *UnknownError
		if errors.As(err, &unknown) && c.tidy(ctx, func(ctx context.Context) { _ = c.GiveBack(ctx, key, unknown.Owner) }) {
			err = &UnknownError{Key: key, Err: unknown.Err} // asking again with that owner would race with the giving back
		}
		return replay[T](r.codec, err)
	}
	return perform(ctx, lease, fn, r.codec)
}

// replay turns a stored result into Do's return values; other errors pass.
func replay[T any](codec Codec, err error) (v T, replayed bool, _ error) {
	result, ok := ResultOf(err)
	if !ok || result.Failed {
		return v, ok, err
	}
	if err := codec.Unmarshal(result.Payload, &v); err != nil {
		return v, true, fmt.Errorf("%w: the stored result does not decode into %T: %w", ErrCorrupt, v, err)
	}
	return v, true, nil
}

// perform runs fn under the lease and stores its outcome.
func perform[T any](ctx context.Context, lease *Lease, fn func(context.Context, *Lease) (T, error), codec Codec) (v T, replayed bool, err error) {
	working, cancel := context.WithCancelCause(ContextWithGrant(ctx, lease.Grant()))
	defer cancel(context.Canceled)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()

	settled := false
	defer func() {
		if !settled { // a panic, or runtime.Goexit, of fn or of the codec
			releaseFor(ctx, lease)
		}
	}()
	v, err = fn(working, lease)

	// Storing takes place also when the caller has gone, within a moment from now.
	detached, done := outliving(ctx, tidyTime)
	defer done()
	var final *finalError
	if err != nil && !errors.As(err, &final) {
		settled = true
		releaseFor(ctx, lease)
		if lease.lost() && !errors.Is(err, context.Cause(lease.ctx)) && !errors.Is(err, ErrStaleToken) {
			err = fmt.Errorf("%w: %w", lease.lostError(), err)
		}
		return v, false, err
	}
	err = lease.store(detached, v, final, codec)
	settled = true
	if errors.Is(err, ErrInvalid) || errors.Is(err, ErrTooLarge) {
		releaseFor(ctx, lease) // it cannot be stored, now or later
	} else if err != nil {
		lease.finish(nil) // nobody else will store it: let the lease lapse, and not renew it on
	}
	if _, own := ResultOf(err); own && final == nil {
		return replay[T](codec, err) // fn finished the lease itself, otherwise
	}
	return v, false, err
}

// store keeps v, or the final error, as the outcome; for a final error the outcome is what it returns.
func (l *Lease) store(ctx context.Context, v any, final *finalError, codec Codec) error {
	if final != nil {
		payload := []byte(final.Error())
		if err := l.Fail(ctx, payload); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return &CompletedError{Key: l.key, Result: Result{Payload: payload, Failed: true, Token: l.grant.Token, CompletedAt: l.completedAt}}
	}
	payload, err := codec.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: the result does not encode: %w", ErrInvalid, err)
	}
	return l.Complete(ctx, payload)
}

// outliving returns a context with ctx's values that ends d after ctx does.
func outliving(ctx context.Context, d time.Duration) (context.Context, func()) {
	if ctx.Done() == nil {
		return ctx, func() {} // it does not end
	}
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, func() { cancel(context.Cause(ctx)) })
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() {
		stop()
		cancel(context.Canceled)
	}
}

func releaseFor(ctx context.Context, lease *Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	_ = lease.Release(ctx) // what cannot be released lapses by itself
}
