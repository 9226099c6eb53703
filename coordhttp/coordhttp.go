package coordhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/sealed"
)

// New makes a middleware on c: one of [Tenant] and [SingleTenant] is required. Its errors are coordinator.ErrInvalid.
func New(c *coordinator.Coordinator, opts ...Option) (func(http.Handler) http.Handler, error) {
	if c == nil {
		return nil, invalid(errors.New("the coordinator is nil"))
	}
	s, err := newSettings(opts)
	if err != nil {
		return nil, err
	}
	if s.tenant == nil {
		return nil, invalid(errors.New("say whose answers are whose: Tenant(...), or SingleTenant() where all callers may see each other's"))
	}
	box, err := sealed.New(s.compress, s.keys)
	if err != nil {
		return nil, invalid(err)
	}
	return func(next http.Handler) http.Handler {
		return &middleware{settings: s, c: c, box: box, next: next}
	}, nil
}

type middleware struct {
	*settings
	c    *coordinator.Coordinator
	box  *sealed.Box
	next http.Handler
}

// retrySoon is how long a client is told to wait for what may be over in a moment.
const retrySoon = time.Second

// marks of answers that did not go the usual way
const (
	unprotectedHeader = "Idempotency-Unprotected"
	unstoredHeader    = "Idempotency-Unstored"
)

// operation is one request that is to take effect once.
type operation struct {
	*middleware
	w    http.ResponseWriter
	r    *http.Request
	key  coordinator.Key
	body []byte
	sum  []byte // the fingerprint

	released atomic.Bool // the handler says that nothing took place
}

func (m *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !m.covers(r.Method) {
		m.pass(w, r)
		return
	}
	id, err := m.keyOf(r)
	switch {
	case errors.Is(err, errNoKey) && !m.required:
		m.pass(w, r)
		return
	case errors.Is(err, errNoKey):
		m.problem(w, r, Problem{Kind: KindKeyMissing, Detail: "Send the " + m.header + " header, with a key that is unique to the operation, a UUIDv7 best."})
		return
	case err != nil:
		m.problem(w, r, Problem{Kind: KindKeyMalformed, Detail: fmt.Sprintf("The %s header is not usable: %v.", m.header, err)})
		return
	}
	tenant, err := m.tenant(r)
	if err != nil || tenant == "" {
		m.problem(w, r, Problem{Kind: KindTenantUnknown, Err: err, Detail: "Send the request with the credentials of the account that it is for, and the same key. Nothing was run."})
		return
	}
	body, failed := m.read(w, r)
	if failed != nil {
		m.problem(w, r, *failed)
		return
	}
	path := sentPath(r)
	o := &operation{middleware: m, w: w, r: r, body: body, key: coordinator.Key{Scope: m.scopeOf(tenant, r, path), ID: id}}
	if m.resource != nil {
		o.key.Resource = m.resource(r)
	}
	o.sum = m.fingerprint(r, path, body)
	o.run()
}

// scopeOf keeps tenants apart, and operations: by what Scope says, or by the method and the pattern that has matched, the path where
// none has.
func (m *middleware) scopeOf(tenant string, r *http.Request, path string) string {
	switch {
	case m.scope != nil:
		return coordinator.JoinScope(tenant, m.scope(r))
	case r.Pattern != "":
		return coordinator.JoinScope(tenant, r.Method, r.Pattern)
	}
	return coordinator.JoinScope(tenant, r.Method, path)
}

// sentPath is the path that was asked for: what stands around the middleware, such as http.StripPrefix, may have made another one
// of it, and the same one of two.
func sentPath(r *http.Request) string {
	if r.RequestURI != "" { // it came over a connection
		if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
			return u.EscapedPath()
		}
	}
	return r.URL.EscapedPath()
}

func (m *middleware) covers(method string) bool {
	if m.methods != nil {
		return m.methods[method]
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return false
	}
	return true
}

func (m *middleware) pass(w http.ResponseWriter, r *http.Request) {
	m.observe(r, OutcomePassed, nil)
	m.next.ServeHTTP(w, r)
}

func (m *middleware) keyOf(r *http.Request) (string, error) {
	key, err := readKey(r.Header, m.header, m.quotedOnly)
	if err == nil && m.validate != nil {
		err = m.validate(key)
	}
	return key, err
}

// problem answers with a problem, and tells the observer.
func (m *middleware) problem(w http.ResponseWriter, r *http.Request, p Problem) {
	m.observe(r, string(p.Kind), p.Err)
	m.answer(w, r, p)
}

// read returns the whole body, since what is compared must be what the handler gets.
func (m *middleware) read(w http.ResponseWriter, r *http.Request) ([]byte, *Problem) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > m.maxBody {
		w.Header().Set("Connection", "close") // rather than to read it all
		return nil, m.tooLarge()
	}
	body, err := readAll(http.MaxBytesReader(w, r.Body, m.maxBody), r.ContentLength)
	if over, is := errors.AsType[*http.MaxBytesError](err); is && over != nil {
		return nil, m.tooLarge()
	}
	if err == nil && r.ContentLength >= 0 && int64(len(body)) != r.ContentLength {
		err = fmt.Errorf("%d bytes instead of %d", len(body), r.ContentLength)
	}
	if err != nil {
		return nil, &Problem{Kind: KindBodyUnreadable, Err: err, Detail: "The body ended early, or is not as long as it was said to be. Send the whole request again, with the same key. Nothing was run."}
	}
	return body, nil
}

// readAll is io.ReadAll for who has been told how much it will be, -1 for not, without more memory than that and a byte to find the
// end by: most bodies are short. A client's word is trusted up to 64 KiB, before it has sent as much.
func readAll(r io.Reader, length int64) ([]byte, error) {
	if length < 0 {
		length = 512
	}
	b := make([]byte, 0, min(length, 64<<10)+1)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if len(b) == cap(b) {
			b = slices.Grow(b, cap(b))
		}
	}
}

func (m *middleware) tooLarge() *Problem {
	return &Problem{Kind: KindBodyTooLarge, Detail: fmt.Sprintf("Requests with an idempotency key may have %d bytes.", m.maxBody)}
}

// run claims the key, and does what follows from the answer.
func (o *operation) run() {
	ctx := o.r.Context()
	lease, err := o.c.Claim(ctx, o.key, o.claimOptions()...)
	if err == nil {
		o.execute(lease)
		return
	}
	unknown, mayHaveRun := errors.AsType[*coordinator.UnknownError](err)
	if mayHaveRun {
		// When the client is answered, also where a handler panics that was let through; the client does not wait for it.
		defer o.background(func() { o.giveBack(unknown.Owner) })
	}
	if result, done := coordinator.ResultOf(err); done {
		o.replay(result)
		return
	}
	// ErrNotReplicated is no absence: it may be that of an outcome, which a run would repeat.
	away := mayHaveRun || errors.Is(err, coordinator.ErrUnavailable)
	if away && o.open && ctx.Err() == nil {
		o.observe(o.r, OutcomeUnprotected, err)
		o.w.Header().Set(unprotectedHeader, "true")
		o.next.ServeHTTP(o.w, o.handlerRequest(o.detached(ctx)))
		return
	}
	p := problemOf(err)
	if p.Kind == KindUnavailable && ctx.Err() != nil {
		o.observe(o.r, OutcomeGone, err) // which says nothing about Redis
		o.answer(o.w, o.r, p)            // for those who are still there when a context ends, as http.TimeoutHandler is
		return
	}
	o.problem(o.w, o.r, p)
}

func (o *operation) claimOptions() []coordinator.ClaimOption {
	opts := append(make([]coordinator.ClaimOption, 0, 4), coordinator.Fingerprint(o.sum))
	if made, is := coordinator.UUIDv7Time(o.key.ID); is && !o.anyAge {
		opts = append(opts, coordinator.IssuedAt(made))
	}
	if o.quarantine {
		opts = append(opts, coordinator.QuarantineLapsed())
	}
	if o.wait > 0 {
		opts = append(opts, coordinator.WaitUpTo(o.wait))
	}
	return opts
}

// problemOf is what a claim's error is answered with.
func problemOf(err error) Problem {
	p := Problem{Err: err, Kind: KindUnavailable, RetryAfter: retrySoon, Detail: "Send the request again, with the same key."}
	switch {
	case errors.Is(err, coordinator.ErrInProgress):
		p.Kind, p.Detail = KindInProgress, "Send the request again, with the same key, for its answer."
	case errors.Is(err, coordinator.ErrMismatch):
		p = Problem{Err: err, Kind: KindKeyReused, Detail: "The key came with another request before. Make a new key for a new operation."}
	case errors.Is(err, coordinator.ErrKeyExpired):
		p = Problem{Err: err, Kind: KindKeyExpired, Detail: "The operation may have been done. Find out; make a new key only if it was not."}
	case errors.Is(err, coordinator.ErrUncertain):
		p = Problem{Err: err, Kind: KindUncertain, Detail: "The operation may have been done, in part or as a whole. It has to be looked into."}
	case errors.Is(err, coordinator.ErrInvalid):
		p = Problem{Err: err, Kind: KindKeyMalformed, Detail: "The key says that it was made in the future. Mend the clock that it came from."}
	case errors.Is(err, coordinator.ErrCorrupt):
		p = unreadable(err)
	}
	return p
}

// giveBack frees a key that may have been claimed without our knowing.
func (o *operation) giveBack(owner string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.r.Context()), time.Second)
	defer cancel()
	_ = o.c.GiveBack(ctx, o.key, owner) // what cannot be given back lapses
}

// execute runs the handler under the lease, stores its answer and sends it: in this order, so that nobody has an answer that a
// retry may not get.
func (o *operation) execute(lease *coordinator.Lease) {
	ctx, end := o.handlerContext(lease)
	defer end()
	rec := o.newRecorder(lease.Context())
	settled := false
	defer func() {
		if !settled { // a panic, which goes on, or runtime.Goexit
			rec.finish()
			o.release(lease)
			o.observe(o.r, OutcomePanicked, nil)
		}
	}()
	o.next.ServeHTTP(rec, o.handlerRequest(ctx))
	a := rec.finish()
	if a.cutOff {
		panic(http.ErrAbortHandler) // as net/http: the client must not take half of an answer for the whole
	}
	nothing := o.isNothing(ctx, a)
	settled = true
	if nothing {
		o.giveUp(lease, rec, a)
		return
	}
	err := o.store(lease, a)
	switch {
	case err == nil || errors.Is(err, coordinator.ErrNotReplicated): // it stands
		if a.unkept {
			o.observe(o.r, OutcomeUnkept, nil)
		} else {
			o.observe(o.r, OutcomeExecuted, nil)
		}
		o.send(rec, a)
	case a.streamed:
		o.observe(o.r, OutcomeUnstored, err)
	default:
		o.superseded(rec, a, err)
	}
	if mayBeStored(err) {
		o.background(func() { o.storeLater(lease, a) }) // the answer ends when the handler returns
	}
}

// isNothing says whether an answer is no outcome. Silence is none where the handler's context has ended, with its client or its
// lease: it has stopped, for all that can be told. Where the connection was taken over, nobody knows what was said, and it is one.
func (o *operation) isNothing(ctx context.Context, a *answer) bool {
	return o.released.Load() || a.silent && ctx.Err() != nil || a.status >= 200 && !o.profile.Store(a.status)
}

// giveUp frees the key where there is no outcome, and answers.
func (o *operation) giveUp(lease *coordinator.Lease, rec *recorder, a *answer) {
	lost := context.Cause(lease.Context())
	freed := o.release(lease)
	switch {
	case !freed && a.streamed:
		o.observe(o.r, string(KindUncertain), lost)
	case !freed:
		o.problem(o.w, o.r, problemOf(fmt.Errorf("%w: %w", coordinator.ErrUncertain, lost)))
	case a.silent && lost != nil:
		o.problem(o.w, o.r, problemOf(lost)) // an empty 200 would say that it is done
	default:
		o.observe(o.r, OutcomeReleased, nil)
		o.send(rec, a)
	}
}

// storeLater goes on trying to store what could not be, until the lease has ended: were that left, the key would be in progress for
// as long as the lease is renewed, and the work would be done again after that.
func (o *operation) storeLater(lease *coordinator.Lease, a *answer) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 50*time.Millisecond, time.Second
	for again := true; again; again = mayBeStored(o.store(lease, a)) {
		pause := time.NewTimer(pauses.NextBackOff())
		select {
		case <-pause.C:
		case <-lease.Context().Done():
			pause.Stop()
			return
		}
	}
}

// mayBeStored says whether another try to store may go better.
func mayBeStored(err error) bool {
	return errors.Is(err, coordinator.ErrUnknown) || errors.Is(err, coordinator.ErrUnavailable)
}

// release frees the key, but for one that is for quarantine, where the lease ended amid the work.
func (o *operation) release(lease *coordinator.Lease) bool {
	if o.quarantine && lease.Context().Err() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.r.Context()), time.Second)
	defer cancel()
	_ = lease.Release(ctx) // what cannot be released lapses
	return true
}

// store completes the operation, whether its client is still there or not. An answer that is too long after all is not kept.
func (o *operation) store(lease *coordinator.Lease, a *answer) error {
	ctx, bound := context.WithoutCancel(o.r.Context()), bindingOf(o.key)
	err := lease.Complete(ctx, o.box.Seal(a.encode(), bound))
	if errors.Is(err, coordinator.ErrTooLarge) {
		a.unkept = true
		err = lease.Complete(ctx, o.box.Seal(a.encode(), bound))
	}
	return err
}

func (o *operation) send(rec *recorder, a *answer) {
	if !a.streamed {
		rec.send(a)
	}
}

// superseded answers where the handler's answer could not be stored: with what another run has stored, if there is any.
func (o *operation) superseded(rec *recorder, a *answer, err error) {
	result, done := coordinator.ResultOf(err)
	if !done && (errors.Is(err, coordinator.ErrLeaseLost) || errors.Is(err, coordinator.ErrStaleToken)) {
		var lookup error
		if result, lookup = o.c.Result(context.WithoutCancel(o.r.Context()), o.key, o.sum); errors.Is(lookup, coordinator.ErrInProgress) {
			o.problem(o.w, o.r, problemOf(lookup))
			return
		}
		done = lookup == nil
	}
	if done {
		o.replay(result)
		return
	}
	// Nobody else has answered. The work is done, and the client is better off with its answer than without.
	o.observe(o.r, OutcomeUnstored, err)
	rec.committed.Set(unstoredHeader, "true")
	o.send(rec, a)
}

// replay answers with what is stored.
func (o *operation) replay(result coordinator.Result) {
	if result.Failed { // by an operator: a handler's answer is never stored so
		o.problem(o.w, o.r, Problem{Kind: KindSettledAsFailed, Detail: "Somebody has looked into it: it has not taken place as it was meant to, and this key does not run it again. Make a new key if it is to be tried anew."})
		return
	}
	a, err := o.unseal(result.Payload)
	if err != nil {
		o.problem(o.w, o.r, unreadable(err))
		return
	}
	if a.unkept {
		o.problem(o.w, o.r, Problem{
			Kind: KindNotReplayable, OriginalStatus: a.status,
			Detail: "The answer was streamed, or too long. Look at what the operation has made; do not send it again with a new key.",
		})
		return
	}
	o.observe(o.r, OutcomeReplayed, nil)
	replay(o.w, a, o.profile.ReplayedHeader)
}

func unreadable(err error) Problem {
	return Problem{Kind: KindAnswerUnreadable, Err: err, Detail: "The service has to mend this. Look at what the operation has made; do not send it again with a new key."}
}

func (o *operation) unseal(stored []byte) (*answer, error) {
	text, err := o.box.Open(stored, bindingOf(o.key))
	if err != nil {
		return nil, err
	}
	return decodeAnswer(text)
}

func isUUID(key string) bool {
	return len(key) == 36 && uuid.Validate(key) == nil
}
