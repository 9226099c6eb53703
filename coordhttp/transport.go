package coordhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
)

// Transport sends requests with an idempotency key and retries them with the same key and the same body, so that they take effect
// once. The zero value is ready; its fields must not change while it is in use. Methods that are safe pass unchanged.
//
// It retries network errors, 425, 429, 5xx, and 409 with Retry-After, until the request's context ends. It never retries 422 or other answers, nor
// a 5xx that is a replay, since that one is final. What it gives up on it returns as it came.
type Transport struct {
	// Base sends the requests; nil is http.DefaultTransport.
	Base http.RoundTripper
	// Header is the key's header; empty is Idempotency-Key.
	Header string
	// Raw sends the key without the quotes of RFC 9651, for services that want it so.
	Raw bool
	// Tries is how often a request is sent at most; 0 is 6.
	Tries int
	// Pause is before the first retry, with jitter; it doubles each time, up to MaxPause. 0 is 200ms and 10s. A Retry-After that is longer
	// than MaxPause ends the tries.
	Pause, MaxPause time.Duration
	// MaxBody is how many bytes of a body without GetBody are held in memory to be sent again; 0 is 1 MiB. A request with a longer one is sent once.
	MaxBody int64
	// NewKey makes keys; nil makes UUIDv7s.
	NewKey func() (string, error)

	wait func(context.Context, time.Duration) error // a test's
}

type contextKey struct{}

// WithKey returns a context whose requests have this key, such as one that was stored before the first try to survive a restart.
// One key is for one request: with another one it is answered with 422. A redirect that keeps method and body keeps the key.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, contextKey{}, key)
}

// RoundTrip sends r until it has an answer that is worth returning.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if safe(r.Method) {
		return base(t.Base).RoundTrip(r)
	}
	out := r.Clone(r.Context()) // a RoundTripper leaves its request as it is
	out.Trailer = r.Trailer     // but for these, which the caller sets while the body is read
	if err := t.setKey(out); err != nil {
		closeBody(r)
		return nil, err
	}
	again, err := t.bodyOf(out)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	pauses := &backoff.ExponentialBackOff{
		InitialInterval: or(t.Pause, 200*time.Millisecond), RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier: 2, MaxInterval: or(t.MaxPause, 10*time.Second),
	}
	pauses.Reset()
	for try := 1; ; try++ {
		response, err := base(t.Base).RoundTrip(out)
		pause, retry := t.verdict(response, err, pauses)
		if !retry || again == nil || try >= or(t.Tries, 6) || r.Context().Err() != nil || !outlasts(r.Context(), pause) {
			return response, err
		}
		discard(response)
		if err := t.sleep(r.Context(), pause); err != nil {
			return nil, err
		}
		if out, err = again(); err != nil {
			return nil, err
		}
	}
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func safe(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// setKey gives the request its key, unless the caller has set the header himself.
func (t *Transport) setKey(out *http.Request) error {
	name := or(t.Header, "Idempotency-Key")
	for there := range out.Header {
		if strings.EqualFold(there, name) {
			return nil
		}
	}
	if out.Header == nil {
		out.Header = http.Header{}
	}
	if out.Response != nil && out.Response.Request != nil { // a redirect, to the same operation elsewhere
		if value := out.Response.Request.Header.Get(name); value != "" {
			out.Header.Set(name, value)
			return nil
		}
	}
	key, given := out.Context().Value(contextKey{}).(string)
	if !given {
		var err error
		if key, err = t.newKey(); err != nil {
			return fmt.Errorf("coordhttp: cannot make an idempotency key: %w", err)
		}
	}
	value := key
	if !t.Raw {
		var err error
		if value, err = quoteKey(key); err != nil {
			return invalid(fmt.Errorf("the key %q has bytes that no header can hold: %w", key, err))
		}
	}
	out.Header.Set(name, value)
	if _, err := readKey(out.Header, name, false); err != nil {
		return invalid(fmt.Errorf("the key %q is none: %w", key, err))
	}
	return nil
}

func (t *Transport) newKey() (string, error) {
	if t.NewKey != nil {
		return t.NewKey()
	}
	id, err := uuid.NewV7()
	return id.String(), err
}

// bodyOf makes the body one that can be sent again, and returns what makes the request for another try; nil where there can be none.
func (t *Transport) bodyOf(out *http.Request) (again func() (*http.Request, error), err error) {
	switch {
	case out.Body == nil || out.Body == http.NoBody:
		return func() (*http.Request, error) { return out.Clone(out.Context()), nil }, nil
	case out.Trailer != nil:
		return nil, nil // they are known at the end of this very body
	case out.GetBody == nil:
		body, most := out.Body, or(t.MaxBody, 1<<20)
		held, err := readUnder(out.Context(), body, most+1)
		if err != nil {
			return nil, fmt.Errorf("coordhttp: cannot read the request's body: %w", err)
		}
		if int64(len(held)) > most {
			out.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(bytes.NewReader(held), body), body}
			return nil, nil
		}
		_ = body.Close()
		out.ContentLength = int64(len(held))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(held)), nil }
		out.Body, _ = out.GetBody()
	}
	return func() (*http.Request, error) {
		body, err := out.GetBody()
		if err != nil {
			return nil, fmt.Errorf("coordhttp: cannot send the request's body again: %w", err)
		}
		next := out.Clone(out.Context())
		next.Body = body
		return next, nil
	}, nil
}

// readUnder reads at most so many bytes, until ctx ends.
func readUnder(ctx context.Context, body io.ReadCloser, most int64) ([]byte, error) {
	defer context.AfterFunc(ctx, func() { _ = body.Close() })() // which ends a read that waits
	type read struct {
		held []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		held, err := io.ReadAll(io.LimitReader(body, most))
		done <- read{held, err}
	}()
	select {
	case r := <-done:
		return r.held, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// verdict says whether to try again, and when.
func (t *Transport) verdict(response *http.Response, err error, pauses *backoff.ExponentialBackOff) (time.Duration, bool) {
	pause := pauses.NextBackOff()
	if err != nil {
		return pause, !stays(err)
	}
	after, told := retryAfter(response.Header.Get("Retry-After"))
	switch status := response.StatusCode; {
	case status == http.StatusConflict && told:
	case status == http.StatusTooEarly, status == http.StatusTooManyRequests:
	case status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported && !replayed(response.Header):
	default:
		return 0, false
	}
	if told {
		pause = max(pause, after)
		return pause, after <= or(t.MaxPause, 10*time.Second)
	}
	return pause, true
}

// neverSent are what [http.Transport] says of requests that cannot be sent. It has no types for them.
var neverSent = []string{"unsupported protocol scheme", "net/http: invalid ", "http: no Host in request URL", "http: nil Request."}

// stays says whether an error is there for every try.
func stays(err error) bool {
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return untrusted || slices.ContainsFunc(neverSent, func(text string) bool { return strings.Contains(err.Error(), text) })
}

// replayed says whether an answer is a stored one, by either profile's header.
func replayed(h http.Header) bool {
	return h.Get(Draft07().ReplayedHeader) == "true" || h.Get(Stripe().ReplayedHeader) == "true"
}

// retryAfter reads the header: seconds, or a date.
func retryAfter(value string) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second, true // out of range it is the greatest, 68 years
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0), true
	}
	return 0, false
}

// outlasts says whether ctx is still there after a pause: if not, what there is now is better than the end of the context.
func outlasts(ctx context.Context, pause time.Duration) bool {
	end, has := ctx.Deadline()
	return !has || time.Until(end) > pause
}

// discard ends a response. It does not read the rest, which may be long in coming: the next try takes another connection.
func discard(response *http.Response) {
	if response != nil {
		_ = response.Body.Close()
	}
}

func (t *Transport) sleep(ctx context.Context, d time.Duration) error {
	if t.wait != nil {
		return t.wait(ctx, d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
