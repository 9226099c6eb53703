package coordgrpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/sealed"
)

// Server makes the interceptors of a server. It is safe for concurrent use.
type Server struct {
	*settings
	c       *coordinator.Coordinator
	box     *sealed.Box
	streams atomic.Int64
}

// New makes interceptors on c: one of [Tenant] and [SingleTenant] is required. Its errors are coordinator.ErrInvalid.
func New(c *coordinator.Coordinator, opts ...Option) (*Server, error) {
	if c == nil {
		return nil, invalid(errors.New("the coordinator is nil"))
	}
	s, err := newSettings(opts)
	if err != nil {
		return nil, err
	}
	box, err := sealed.New(s.compress, s.keys)
	if err != nil {
		return nil, invalid(err)
	}
	return &Server{settings: s, c: c, box: box}, nil
}

// Unary is the interceptor of unary methods. Chain it inside of authentication, and inside of what recovers from panics.
func (s *Server) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		o, refused := s.begin(ctx, req, info.FullMethod, handler)
		switch {
		case refused != nil:
			return nil, s.refuse(ctx, info.FullMethod, *refused)
		case o == nil:
			s.observe(ctx, info.FullMethod, OutcomePassed, nil)
			return handler(ctx, req)
		}
		return o.run()
	}
}

// Stream is an interceptor that lets streams pass and counts them. A stream is a conversation, of which no answer can be stored as a
// whole: it runs as often as it is called. Where one comes with a key, its header metadata says idempotency-unprotected: true.
func (s *Server) Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		s.streams.Add(1)
		outcome := OutcomeStream
		if _, err := readKey(stream.Context()); !errors.Is(err, errNoKey) {
			outcome = OutcomeKeyedStream
			_ = stream.SetHeader(metadata.Pairs(UnprotectedMetadata, "true")) // nothing is sent yet
		}
		s.observe(stream.Context(), info.FullMethod, outcome, nil)
		return handler(srv, stream)
	}
}

// Streams is how many streams have passed through.
func (s *Server) Streams() int64 { return s.streams.Load() }

// refuse makes a status of this package's own, and tells the observer.
func (s *Server) refuse(ctx context.Context, method string, r refusal) error {
	s.observe(ctx, method, string(r.reason), r.err)
	return r.status(ctx)
}

// operation is one call that is to take effect once.
type operation struct {
	*Server
	ctx     context.Context // the call's
	method  string
	req     any
	handler grpc.UnaryHandler
	key     coordinator.Key
	made    time.Time // when the client made the key; zero where it does not say
	sum     []byte    // the fingerprint
	stream  grpc.ServerTransportStream

	released atomic.Bool // the handler says that nothing took place
}

// begin is nil where a call passes through.
func (s *Server) begin(ctx context.Context, req any, method string, handler grpc.UnaryHandler) (*operation, *refusal) {
	if !s.covers(method) {
		return nil, nil
	}
	id, err := readKey(ctx)
	if err == nil && s.validate != nil {
		err = s.validate(id)
	}
	switch {
	case errors.Is(err, errNoKey) && !s.required:
		return nil, nil
	case errors.Is(err, errNoKey):
		return nil, &refusal{reason: ReasonKeyMissing, detail: "send " + KeyMetadata + " with a key that is unique to the operation, a UUIDv7 best"}
	case err != nil:
		return nil, &refusal{reason: ReasonKeyMalformed, detail: err.Error(), err: err}
	}
	tenant, err := s.tenant(ctx, method)
	if err != nil || tenant == "" {
		return nil, &refusal{reason: ReasonTenantUnknown, err: err}
	}
	o := &operation{
		Server: s, ctx: ctx, method: method, req: req, handler: handler,
		key: coordinator.Key{Scope: coordinator.JoinScope(tenant, method), ID: id}, stream: grpc.ServerTransportStreamFromContext(ctx),
	}
	if s.resource != nil {
		o.key.Resource = s.resource(ctx, method, req)
	}
	if made, is := coordinator.UUIDv7Time(id); is && !s.anyAge {
		o.made = made
	}
	what, err := s.identify(ctx, method, req)
	if err != nil {
		return nil, &refusal{reason: ReasonMisconfigured, err: err}
	}
	o.sum = sumOf(method, what)
	return o, nil
}

// ofGRPC are gRPC's own services, whose methods change nothing. A user's package may be called grpc too.
var ofGRPC = []string{"/grpc.health.", "/grpc.reflection.", "/grpc.channelz."}

func (s *Server) covers(method string) bool {
	if s.methods == nil {
		return !slices.ContainsFunc(ofGRPC, func(name string) bool { return strings.HasPrefix(method, name) })
	}
	return slices.ContainsFunc(s.methods, func(name string) bool {
		return name == method || strings.HasSuffix(name, "/") && strings.HasPrefix(method, name)
	})
}

// identify is what a request is known by.
func (s *Server) identify(ctx context.Context, method string, req any) ([]byte, error) {
	if s.fingerprint != nil {
		return s.fingerprint(ctx, method, req)
	}
	m := messageOf(req)
	if m == nil {
		return nil, fmt.Errorf("a request of %s is a %T, no protobuf message; say by Fingerprint how to compare it", method, req)
	}
	return marshal(m)
}

// run claims the key, and does what follows from the answer.
func (o *operation) run() (any, error) {
	lease, err := o.c.Claim(asking{o.ctx}, o.key, o.claimOptions()...)
	if err == nil {
		return o.execute(lease)
	}
	unknown, mayHaveRun := errors.AsType[*coordinator.UnknownError](err)
	if mayHaveRun {
		defer func() { go o.giveBack(unknown.Owner) }() // when the call is answered, also where a handler panics that was let through
	}
	if result, done := coordinator.ResultOf(err); done {
		return o.replay(result)
	}
	away := mayHaveRun || errors.Is(err, coordinator.ErrUnavailable) // not ErrNotReplicated, which may be about an operation that is done
	if away && o.open && o.ctx.Err() == nil {
		o.observe(o.ctx, o.method, OutcomeUnprotected, err)
		o.recorder().mark(UnprotectedMetadata)
		return o.handler(context.WithValue(o.ctx, operationKey{}, o), o.req)
	}
	return nil, o.refuse(o.ctx, o.method, refusalOf(o.ctx, err, o.made))
}

// asking is a call's context that ends with it and does not say when. Most calls have a deadline, and a claim goes on until its
// own: with Redis away nobody would hear of it before the deadline. So coordinator.WithTimeout bounds it.
type asking struct{ context.Context }

// Deadline says that there is none.
func (asking) Deadline() (time.Time, bool) { return time.Time{}, false }

func (o *operation) claimOptions() []coordinator.ClaimOption {
	opts := append(make([]coordinator.ClaimOption, 0, 5), coordinator.Fingerprint(o.sum))
	if !o.made.IsZero() {
		opts = append(opts, coordinator.IssuedAt(o.made))
	}
	if o.lease > 0 {
		opts = append(opts, coordinator.LeaseFor(o.lease))
	}
	if o.quarantine {
		opts = append(opts, coordinator.QuarantineLapsed())
	}
	if o.wait > 0 {
		opts = append(opts, coordinator.WaitUpTo(o.wait))
	}
	return opts
}

func (o *operation) recorder() *recorder { return &recorder{method: o.method, stream: o.stream} }

// giveBack frees a key that may have been claimed without our knowing. No caller waits for it: Redis was slow enough already.
func (o *operation) giveBack(owner string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.ctx), time.Second)
	defer cancel()
	_ = o.c.GiveBack(ctx, o.key, owner) // what cannot be given back lapses
}

// release frees the key. A lease that was lost is left to lapse: in quarantine nobody but a person may free it.
func (o *operation) release(lease *coordinator.Lease) {
	if lease.Context().Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.ctx), time.Second)
	defer cancel()
	_ = lease.Release(ctx) // what cannot be released lapses
}

type operationKey struct{}

// KeyFrom returns the key of the operation that a handler runs for, to fence its writes with for instance; see
// [coordinator.Coordinator.Fence]. False where a call passed through without a key.
func KeyFrom(ctx context.Context) (coordinator.Key, bool) {
	o, there := ctx.Value(operationKey{}).(*operation)
	if !there {
		return coordinator.Key{}, false
	}
	return o.key, true
}

// ReleaseKey is for a handler that knows that the operation has not taken place: its answer is not kept, whatever it is, and a
// retry runs the handler again. It does nothing for a call that passed through.
func ReleaseKey(ctx context.Context) {
	if o, there := ctx.Value(operationKey{}).(*operation); there {
		o.released.Store(true)
	}
}

// execute runs the handler under the lease, stores its answer and returns it: in this order, so that nobody has an answer that a
// retry may not get.
func (o *operation) execute(lease *coordinator.Lease) (any, error) {
	ctx, cancel := o.handlerContext(lease)
	defer cancel()
	rec := o.recorder()
	settled := false
	defer func() {
		if !settled { // a panic, which goes on, or runtime.Goexit
			rec.pass()
			o.release(lease)
			o.observe(o.ctx, o.method, OutcomePanicked, nil)
		}
	}()
	resp, err := o.handler(grpc.NewContextWithServerTransportStream(context.WithValue(ctx, operationKey{}, o), rec), o.req)
	a := answerOf(resp, err)
	a.header, a.trailer = rec.close()
	stopped := ctx.Err() != nil && (a.code == codes.Canceled || a.code == codes.DeadlineExceeded)
	nothing := stopped || o.released.Load() || err != nil && (a.code == codes.OK || !o.store(a.code))
	settled = true
	lost := errors.Is(context.Cause(lease.Context()), coordinator.ErrLeaseLost)
	if lost && stopped && o.ctx.Err() == nil || lost && errors.Is(err, coordinator.ErrLeaseLost) || isStale(err, lease.Token()) {
		o.release(lease)
		return o.overtaken()
	}
	if nothing {
		o.release(lease)
		o.observe(o.ctx, o.method, OutcomeReleased, err)
		rec.pass()
		return resp, err
	}
	failed := o.keep(lease, a)
	_, done := coordinator.ResultOf(failed)
	switch {
	case failed == nil || errors.Is(failed, coordinator.ErrNotReplicated): // it stands
		if a.kind == kindUnkept {
			o.observe(o.ctx, o.method, OutcomeUnkept, nil)
		} else {
			o.observe(o.ctx, o.method, OutcomeExecuted, nil)
		}
	case done, errors.Is(failed, coordinator.ErrLeaseLost), errors.Is(failed, coordinator.ErrStaleToken):
		return o.overtaken()
	default: // nobody else has answered; the work is done, and the caller is better off with its answer than without
		o.observe(o.ctx, o.method, OutcomeUnstored, failed)
		rec.mark(UnstoredMetadata)
		go o.keepLater(lease, a, failed)
	}
	rec.pass()
	return resp, err
}

// isStale says whether an error is a fence's that has refused this grant: it is about us, and no answer to the call.
func isStale(err error, token coordinator.Token) bool {
	stale, is := errors.AsType[*coordinator.StaleTokenError](err)
	return is && stale.Token == token
}

// handlerContext ends with the lease, and with the call unless the handler is detached.
func (o *operation) handlerContext(lease *coordinator.Lease) (context.Context, func()) {
	if o.detach {
		return lease.Context(), func() {}
	}
	ctx, cancel := context.WithCancelCause(coordinator.ContextWithGrant(o.ctx, lease.Grant()))
	stop := context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}

// keep completes the operation, whether its caller is still there or not. An answer that is too large is not kept.
func (o *operation) keep(lease *coordinator.Lease, a *answer) error {
	ctx, bound := context.WithoutCancel(o.ctx), sealed.Bound(o.key.Scope, o.key.ID, o.key.Resource)
	text := a.encode()
	err := coordinator.ErrTooLarge
	if len(text) <= mostKept {
		err = lease.Complete(ctx, o.box.Seal(text, bound))
	}
	if errors.Is(err, coordinator.ErrTooLarge) {
		a.kind = kindUnkept
		err = lease.Complete(ctx, o.box.Seal(a.encode(), bound))
	}
	return err
}

// keepLater goes on trying to store what could not be, until the lease has ended: were that left, the key would be in progress for
// as long as the lease is renewed, and the work would be done again after that. Its caller has its answer.
func (o *operation) keepLater(lease *coordinator.Lease, a *answer, err error) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 50*time.Millisecond, time.Second
	for errors.Is(err, coordinator.ErrUnknown) || errors.Is(err, coordinator.ErrUnavailable) {
		pause := time.NewTimer(pauses.NextBackOff())
		select {
		case <-pause.C:
		case <-lease.Context().Done():
			pause.Stop()
			return
		}
		err = o.keep(lease, a)
	}
	o.release(lease) // of what can never be stored, and would be renewed for nobody
}

// overtaken answers where another run has taken over: with what that one has stored, if it has.
func (o *operation) overtaken() (any, error) {
	result, err := o.c.Result(context.WithoutCancel(o.ctx), o.key, o.sum)
	switch {
	case err == nil:
		return o.replay(result)
	case errors.Is(err, coordinator.ErrInProgress):
		return nil, o.refuse(o.ctx, o.method, refusalOf(o.ctx, err, o.made))
	}
	return nil, o.refuse(o.ctx, o.method, refusal{reason: ReasonLeaseLost, err: err, after: retrySoon, detail: "send the call again, with the same key"})
}

// replay answers with what is stored.
func (o *operation) replay(result coordinator.Result) (any, error) {
	if result.Failed { // by an operator: a handler's answer is never stored so
		return nil, o.refuse(o.ctx, o.method, refusal{reason: ReasonSettledAsFailed})
	}
	text, err := o.box.Open(result.Payload, sealed.Bound(o.key.Scope, o.key.ID, o.key.Resource))
	if err != nil {
		return nil, o.refuse(o.ctx, o.method, refusal{reason: ReasonAnswerUnreadable, err: err})
	}
	a, err := decodeAnswer(text)
	if err != nil {
		return nil, o.refuse(o.ctx, o.method, refusal{reason: ReasonAnswerUnreadable, err: err})
	}
	if a.kind == kindUnkept {
		return nil, o.refuse(o.ctx, o.method, refusal{reason: ReasonNotReplayable, more: map[string]string{"code": a.code.String()}})
	}
	resp, final, err := a.response(o.types)
	if err != nil {
		return nil, o.refuse(o.ctx, o.method, refusal{reason: ReasonAnswerUnreadable, err: err})
	}
	o.observe(o.ctx, o.method, OutcomeReplayed, nil)
	rec := o.recorder()
	rec.mark(ReplayedMetadata)
	rec.set(a.header, a.trailer)
	return resp, final
}
