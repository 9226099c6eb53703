package coordgrpc

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/onceward/coordinator"
)

// Client makes the interceptors of a client: unary calls get an idempotency key and are retried with the same key and the same
// request, so that they take effect once. The zero value is ready; its fields must not change while it is in use.
//
// It retries UNAVAILABLE, and ABORTED, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, INTERNAL and UNKNOWN where the status has a RetryInfo,
// until the call's context ends. The zero value does so with every method, also those of services that know no idempotency-key, where a
// retry may take effect again: name those that do by Methods. It never retries FAILED_PRECONDITION and INVALID_ARGUMENT, nor a replay, since that one is final.
// What it gives up on it returns as it came.
type Client struct {
	// Methods says which methods get a key and are retried: those that are behind [Server.Unary], or that may be repeated anyway. nil is
	// all. Others pass unchanged.
	Methods func(fullMethod string) bool
	// Retry adds to what is retried: it is asked about a status that would be returned otherwise.
	Retry func(*status.Status) bool
	// Tries is how often a call is sent at most; 0 is 6.
	Tries int
	// Pause is before the first retry, with jitter; it doubles each time, up to MaxPause. 0 is 200ms and 10s. A RetryInfo that is longer
	// than MaxPause ends the tries.
	Pause, MaxPause time.Duration
	// NewKey makes keys; nil makes UUIDv7s.
	NewKey func() (string, error)
	// GrantTo says which calls get the grant of their context, such as those to one's own services; nil is none, since a grant is
	// a credential.
	GrantTo func(target, fullMethod string) bool
}

type contextKey struct{}

// WithKey returns a context whose call has this key, such as one that was stored before the first try to survive a restart. One
// key is for one call: with another request it is answered with [ReasonKeyReused]. A key in the outgoing metadata goes before it.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, contextKey{}, key)
}

// Unary is the interceptor of unary calls. Chained outside of others, it has them see each try.
func (c *Client) Unary() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx = c.grant(ctx, cc, method)
		if c.Methods != nil && !c.Methods(method) {
			return invoke(ctx, method, req, reply, cc, opts...)
		}
		ctx, err := c.key(ctx)
		if err != nil {
			return err
		}
		pauses := &backoff.ExponentialBackOff{
			InitialInterval: or(c.Pause, 200*time.Millisecond), RandomizationFactor: backoff.DefaultRandomizationFactor,
			Multiplier: 2, MaxInterval: or(c.MaxPause, 10*time.Second),
		}
		pauses.Reset()
		for try := 1; ; try++ {
			var header, trailer metadata.MD
			err := invoke(ctx, method, req, reply, cc, slices.Concat(opts, []grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer)})...)
			pause, retry := c.verdict(err, metadata.Join(header, trailer), pauses)
			if !retry || try >= or(c.Tries, 6) || ctx.Err() != nil || !outlasts(ctx, pause) {
				return err
			}
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return status.FromContextError(ctx.Err()).Err()
			}
		}
	}
}

// Stream is the interceptor of streams: it sends the grant, and no key, as streams take effect as often as they are sent.
func (c *Client) Stream() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(c.grant(ctx, cc, method), desc, cc, method, opts...)
	}
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// grant adds the grant of the context, unless the caller has set one. A call without a connection, as in tests, goes to nobody.
func (c *Client) grant(ctx context.Context, cc *grpc.ClientConn, method string) context.Context {
	if g, there := coordinator.GrantFrom(ctx); there && cc != nil && c.GrantTo != nil && c.GrantTo(cc.Target(), method) && !sends(ctx, GrantMetadata) {
		return metadata.AppendToOutgoingContext(ctx, GrantMetadata, g.String())
	}
	return ctx
}

func sends(ctx context.Context, name string) bool {
	md, _ := metadata.FromOutgoingContext(ctx)
	return len(md.Get(name)) > 0
}

// key gives the call its key, unless the caller has set the metadata himself.
func (c *Client) key(ctx context.Context) (context.Context, error) {
	if sends(ctx, KeyMetadata) {
		return ctx, nil
	}
	key, given := ctx.Value(contextKey{}).(string)
	if !given {
		var err error
		if key, err = c.newKey(); err != nil {
			return ctx, status.Error(codes.Internal, fmt.Sprintf("coordgrpc: cannot make an idempotency key: %v", err))
		}
	}
	if err := checkKey(key); err != nil {
		return ctx, refusal{reason: ReasonKeyMalformed, detail: err.Error()}.status(ctx)
	}
	return metadata.AppendToOutgoingContext(ctx, KeyMetadata, key), nil
}

func (c *Client) newKey() (string, error) {
	if c.NewKey != nil {
		return c.NewKey()
	}
	id, err := uuid.NewV7()
	return id.String(), err
}

// verdict says whether to try again, and when.
func (c *Client) verdict(err error, marks metadata.MD, pauses *backoff.ExponentialBackOff) (time.Duration, bool) {
	s := statusOf(err)
	switch {
	case err == nil, slices.Contains(marks.Get(ReplayedMetadata), "true"):
		return 0, false
	case s.Code() == codes.FailedPrecondition, s.Code() == codes.InvalidArgument:
		return 0, false
	}
	pause := pauses.NextBackOff()
	after, told := retryDelay(s)
	if s.Code() != codes.Unavailable && (StoreFinal(s.Code()) || !told) && (c.Retry == nil || !c.Retry(s)) {
		return 0, false
	}
	return max(pause, after), after <= or(c.MaxPause, 10*time.Second)
}

// retryDelay is what a status says about trying again.
func retryDelay(s *status.Status) (time.Duration, bool) {
	for _, detail := range s.Details() {
		if info, is := detail.(*errdetails.RetryInfo); is {
			return max(info.GetRetryDelay().AsDuration(), 0), true
		}
	}
	return 0, false
}

// outlasts says whether ctx is still there after a pause: if not, what there is now is better than the end of the context.
func outlasts(ctx context.Context, pause time.Duration) bool {
	end, has := ctx.Deadline()
	return !has || time.Until(end) > pause
}
