package coordgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordgrpc"
	"github.com/onceward/coordinator/coordtest"
)

func TestOptionsThatAreNone(t *testing.T) {
	c := coordtest.New(t).Coordinator
	tenant := coordgrpc.Tenant(func(context.Context, string) (string, error) { return "t", nil })
	single := coordgrpc.SingleTenant()
	for name, opts := range map[string][]coordgrpc.Option{
		"no tenant":            {},
		"both tenants":         {tenant, single},
		"a tenant of nil":      {coordgrpc.Tenant(nil)},
		"nil":                  {single, nil},
		"no methods":           {single, coordgrpc.Methods()},
		"a method":             {single, coordgrpc.Methods("Pay")},
		"a service":            {single, coordgrpc.Methods("/")},
		"a resource of nil":    {single, coordgrpc.Resource(nil)},
		"a fingerprint of nil": {single, coordgrpc.Fingerprint(nil)},
		"a policy of nil":      {single, coordgrpc.Store(nil)},
		"types of nil":         {single, coordgrpc.ResponseTypes(nil)},
		"a negative wait":      {single, coordgrpc.Wait(-1)},
		"a short lease":        {single, coordgrpc.LeaseFor(time.Millisecond)},
		"a negative size":      {single, coordgrpc.Compress(-1)},
		"a short key":          {single, coordgrpc.Encrypt(coordgrpc.Encryption{Current: "k", Keys: map[string][]byte{"k": []byte("short")}})},
		"no current key":       {single, coordgrpc.Encrypt(coordgrpc.Encryption{Current: "k"})},
		"an observer of nil":   {single, coordgrpc.Observe(nil)},
		"a check of nil":       {single, coordgrpc.ValidateKey(nil)},
	} {
		if _, err := coordgrpc.New(c, opts...); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := coordgrpc.New(nil, single); !errors.Is(err, coordinator.ErrInvalid) {
		t.Errorf("no coordinator: %v", err)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	var runs atomic.Int64
	c := coordtest.New(t).Coordinator
	s := serve(t, c, counted(&runs), coordgrpc.RequireKey())
	wantReason(t, s.call(t, ""), codes.InvalidArgument, coordgrpc.ReasonKeyMissing)
	for name, pairs := range map[string][]string{
		"empty":         {idem, ""},
		"twice":         {idem, "k", idem, "k"},
		"two":           {idem, "k", idem, "l"},
		"two in one":    {idem, "k,l"},
		"too long":      {idem, strings.Repeat("k", 256)},
		"a space":       {idem, "k l"},
		"quotes":        {idem, `"k"`},
		"one and empty": {idem, "k", idem, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, s.call(t, "", pairs...), codes.InvalidArgument, coordgrpc.ReasonKeyMalformed)
		})
	}
	if runs.Load() != 0 {
		t.Errorf("ran %d times", runs.Load())
	}
	wantRun(t, s.call(t, "", idem, strings.Repeat("k", 255)), "run 1", false)
	uuids := serve(t, c, counted(&runs), coordgrpc.ValidateKey(coordgrpc.UUIDOnly))
	wantReason(t, uuids.call(t, "", idem, "k"), codes.InvalidArgument, coordgrpc.ReasonKeyMalformed)
	wantReason(t, uuids.call(t, "", idem, "{"+keyOf(0)[1:35]+"}"), codes.InvalidArgument, coordgrpc.ReasonKeyMalformed)
	wantRun(t, uuids.call(t, "", idem, keyOf(0)), "run 2", false)
}

// A check whose text is no UTF-8 does not spoil the status.
func TestTextsOfChecks(t *testing.T) {
	s := serve(t, coordtest.New(t).Coordinator, counted(new(atomic.Int64)), coordgrpc.ValidateKey(func(string) error { return errors.New("\xff") }))
	wantReason(t, s.call(t, "", idem, "k"), codes.InvalidArgument, coordgrpc.ReasonKeyMalformed)
}

func TestWhatPassesThrough(t *testing.T) {
	var runs atomic.Int64
	c := coordtest.New(t).Coordinator
	s := serve(t, c, counted(&runs))
	for range 2 {
		if r := s.call(t, ""); r.err != nil || r.replayed() {
			t.Error(r.err)
		}
	}
	if runs.Load() != 2 || s.seen()[coordgrpc.OutcomePassed] != 2 {
		t.Errorf("ran %d times, %v", runs.Load(), s.seen())
	}
	// By default gRPC's own services are not covered, and those of a package whose name is like theirs are.
	once, err := coordgrpc.New(c, coordgrpc.SingleTenant(), coordgrpc.RequireKey())
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, listenWith(t, func(s *grpc.Server) {
		testpb.RegisterTestServiceServer(s, &testService{unary: counted(&runs)})
		healthpb.RegisterHealthServer(s, health.NewServer())
	}, grpc.UnaryInterceptor(once.Unary())))
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := testpb.NewTestServiceClient(conn).EmptyCall(t.Context(), &testpb.Empty{}); coordgrpc.ReasonOf(err) != coordgrpc.ReasonKeyMissing {
		t.Error(err)
	}
	one, err := coordgrpc.New(c, coordgrpc.SingleTenant(), coordgrpc.RequireKey(), coordgrpc.Methods(emptyCall))
	if err != nil {
		t.Fatal(err)
	}
	client := testpb.NewTestServiceClient(dial(t, listen(t, counted(&runs), grpc.UnaryInterceptor(one.Unary()))))
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := client.EmptyCall(t.Context(), &testpb.Empty{}); coordgrpc.ReasonOf(err) != coordgrpc.ReasonKeyMissing {
		t.Error(err)
	}
}

// One key of two tenants, or of two methods: different operations.
func TestKeysDoNotMeet(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		prefix := unique(t)
		s := serveAs(t, p.coordinator(t), counted(&runs), coordgrpc.Tenant(func(ctx context.Context, method string) (string, error) {
			switch name := strings.Join(metadata.ValueFromIncomingContext(ctx, "x-tenant"), ""); name {
			case "nobody":
				return "", errNobody
			case "":
				return "", nil
			default:
				return prefix + name, nil
			}
		}))
		wantRun(t, s.call(t, "", idem, "k", "x-tenant", "one"), "run 1", false)
		wantRun(t, s.call(t, "", idem, "k", "x-tenant", "two"), "run 2", false)
		wantRun(t, s.call(t, "", idem, "k", "x-tenant", "one"), "run 1", true)
		wantRun(t, s.call(t, "", idem, "k", "x-tenant", "two"), "run 2", true)
		ctx := metadata.AppendToOutgoingContext(t.Context(), idem, "k", "x-tenant", "one")
		for range 2 {
			if _, err := s.EmptyCall(ctx, &testpb.Empty{}); err != nil || runs.Load() != 3 {
				t.Errorf("another method: %v, ran %d times", err, runs.Load())
			}
		}
		for _, tenant := range []string{"nobody", ""} {
			r := s.call(t, "", idem, "k", "x-tenant", tenant)
			wantReason(t, r, codes.PermissionDenied, coordgrpc.ReasonTenantUnknown)
			if strings.Contains(r.err.Error(), "nobody") {
				t.Errorf("the tenant's error is told: %v", r.err)
			}
		}
	})
}

func TestFingerprints(t *testing.T) {
	c := coordtest.New(t).Coordinator
	var runs atomic.Int64
	first := coordgrpc.Fingerprint(func(_ context.Context, method string, req any) ([]byte, error) {
		body := req.(*testpb.SimpleRequest).GetPayload().GetBody()
		if method != unaryCall || string(body) == "?" {
			return nil, errNobody
		}
		return body[:1], nil
	})
	s := serve(t, c, counted(&runs), first)
	wantRun(t, s.call(t, "ab", idem, "k"), "run 1", false)
	wantRun(t, s.call(t, "ac", idem, "k"), "run 1", true)
	wantReason(t, s.call(t, "bc", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonKeyReused)
	wantReason(t, s.call(t, "?", idem, "k"), codes.Internal, coordgrpc.ReasonMisconfigured)

	// Fields that this binary does not know are compared too.
	plain := serve(t, c, counted(&runs))
	for i, want := range []coordgrpc.Reason{"", "", coordgrpc.ReasonKeyReused} {
		r := &testpb.SimpleRequest{}
		r.ProtoReflect().SetUnknown([]byte{0xa0, 0x7d, byte(i / 2)}) // field 2004, a varint
		if _, err := plain.UnaryCall(metadata.AppendToOutgoingContext(t.Context(), idem, "k"), r); coordgrpc.ReasonOf(err) != want {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// What handlers see: the key, the grant, and the resource that was asked for.
func TestWhatHandlersSee(t *testing.T) {
	var seen, none atomic.Value
	s := serve(t, coordtest.New(t).Coordinator, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		key, there := coordgrpc.KeyFrom(ctx)
		g, granted := coordinator.GrantFrom(ctx)
		if there != granted {
			t.Errorf("key: %t, grant: %t", there, granted)
		}
		if there {
			seen.Store(key)
		} else {
			none.Store(true)
		}
		if there && g.Token <= 0 {
			t.Errorf("the token is %d", g.Token)
		}
		return said("done"), nil
	}, coordgrpc.LeaseFor(time.Second), coordgrpc.Resource(func(_ context.Context, method string, req any) string {
		return "account/" + string(req.(*testpb.SimpleRequest).GetPayload().GetBody())
	}))
	s.call(t, "7", idem, "k")
	want := s.key("k")
	if want.Resource = "account/7"; seen.Load() != any(want) {
		t.Errorf("%+v", seen.Load())
	}
	if s.call(t, "7"); none.Load() == nil {
		t.Error("a call without a key has one")
	}
}

// raw is a codec of bytes, for services that speak no protobuf.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (raw) Name() string { return "raw" }

// Requests that are no protobuf messages need Fingerprint, and responses that are none are not kept.
func TestOtherCodecs(t *testing.T) {
	c := coordtest.New(t).Coordinator
	var runs atomic.Int64
	desc := &grpc.ServiceDesc{ServiceName: "raw.Service", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Do", Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := new([]byte)
			if err := decode(in); err != nil {
				return nil, err
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/raw.Service/Do"}, func(context.Context, any) (any, error) {
				runs.Add(1)
				out := []byte("done")
				return &out, nil
			})
		},
	}}}
	call := func(opts ...coordgrpc.Option) []error {
		once, err := coordgrpc.New(c, append(opts, coordgrpc.SingleTenant())...)
		if err != nil {
			t.Fatal(err)
		}
		addr := listenWith(t, func(s *grpc.Server) { s.RegisterService(desc, struct{}{}) }, grpc.ForceServerCodecV2(raw{}), grpc.UnaryInterceptor(once.Unary()))
		conn := dial(t, addr, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
		var errs []error
		for range 2 {
			in, out := []byte("in"), []byte(nil)
			errs = append(errs, conn.Invoke(metadata.AppendToOutgoingContext(t.Context(), idem, "k"), "/raw.Service/Do", &in, &out))
		}
		return errs
	}
	for _, err := range call() {
		if coordgrpc.ReasonOf(err) != coordgrpc.ReasonMisconfigured || runs.Load() != 0 {
			t.Errorf("%v, ran %d times", err, runs.Load())
		}
	}
	errs := call(coordgrpc.Fingerprint(func(_ context.Context, _ string, req any) ([]byte, error) { return *req.(*[]byte), nil }))
	if errs[0] != nil || coordgrpc.ReasonOf(errs[1]) != coordgrpc.ReasonNotReplayable || runs.Load() != 1 {
		t.Errorf("%v, ran %d times", errs, runs.Load())
	}
}

var _ encoding.CodecV2 = raw{}

// A response that is none is a mistake, and the operation is done.
func TestNoResponse(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		runs.Add(1)
		return &testpb.SimpleResponse{Username: "\xff"}, nil // which does not marshal
	})
	if r := s.call(t, "", idem, "k"); r.status.Code() != codes.Internal {
		t.Error(r.err)
	}
	wantReason(t, s.call(t, "", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonNotReplayable)
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}

// A panic goes on, and the key is free.
func TestPanicReleases(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		s := serve(t, p.coordinator(t), func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			if runs.Add(1) == 1 {
				panic("bug")
			}
			return said("run %d", runs.Load()), nil
		})
		if r := s.call(t, "", idem, "k"); r.status.Code() != codes.Internal || r.status.Message() != "recovered: bug" {
			t.Error(r.err)
		}
		wantRun(t, s.call(t, "", idem, "k"), "run 2", false)
		if s.seen()[coordgrpc.OutcomePanicked] != 1 {
			t.Error(s.seen())
		}
	})
}

// A caller that leaves, or whose deadline passes, takes the handler's context with it: what stops then is no outcome.
func TestCallersThatLeave(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		for name, leave := range map[string]func(context.Context) (context.Context, context.CancelFunc){
			"cancelled": context.WithCancel,
			"too late": func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 2*time.Second) // of which the dialing and the claim are a small part
			},
		} {
			t.Run(name, func(t *testing.T) {
				var runs atomic.Int64
				begun := make(chan struct{}, 10)
				s := serve(t, c, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
					n := runs.Add(1)
					begun <- struct{}{}
					if n == 1 {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return said("run %d", n), nil
				})
				ctx, cancel := leave(t.Context())
				first := s.later(ctx, "", idem, "k")
				wait(t, "the handler begins", begun)
				if name == "cancelled" {
					cancel()
				}
				if r := <-first; r.status.Code() != codes.Canceled && r.status.Code() != codes.DeadlineExceeded {
					t.Error(r.err)
				}
				cancel()
				eventually(t, "the key is free", func() bool { return s.seen()[coordgrpc.OutcomeReleased] == 1 })
				wantRun(t, s.call(t, "", idem, "k"), "run 2", false)
			})
		}
		// What is done is kept, whether anybody waits for it or not; a handler that is detached does not notice at all.
		for name, opts := range map[string][]coordgrpc.Option{"goes on": nil, "detached": {coordgrpc.DetachHandler()}} {
			t.Run(name, func(t *testing.T) {
				g := newGate()
				s := serve(t, c, g.handle, opts...)
				ctx, cancel := context.WithCancel(t.Context())
				first := s.later(ctx, "", idem, "k")
				handler := wait(t, "the handler begins", g.begun)
				cancel()
				<-first
				if name == "goes on" {
					<-handler.Done()
				} else if len(metadata.ValueFromIncomingContext(handler, idem)) != 1 {
					t.Error("a detached handler has not the call's values")
				}
				close(g.release)
				eventually(t, "it is kept", func() bool { return s.seen()[coordgrpc.OutcomeExecuted] == 1 })
				wantRun(t, s.call(t, "", idem, "k"), "run 1", true)
			})
		}
	})
	g := newGate()
	s := serve(t, coordtest.New(t).Coordinator, g.handle, coordgrpc.DetachHandler())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	first := s.later(ctx, "", idem, "k")
	handler := wait(t, "the handler begins", g.begun)
	<-first
	if handler.Err() != nil {
		t.Errorf("the context of a detached handler ends with its caller: %v", handler.Err())
	}
	close(g.release)
}

// A handler whose lease is lost is told so, and its caller gets what the successor has answered.
func TestLeaseIsLost(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		for name, one := range map[string]struct {
			successor func(t *testing.T, s *site)
			returns   func(ctx context.Context) (*testpb.SimpleResponse, error)
			want      func(t *testing.T, r *reply)
		}{
			"nobody, stopped": {
				returns: func(ctx context.Context) (*testpb.SimpleResponse, error) { return nil, ctx.Err() },
				want:    func(t *testing.T, r *reply) { wantReason(t, r, codes.Aborted, coordgrpc.ReasonLeaseLost) },
			},
			"nobody, done": {
				returns: func(context.Context) (*testpb.SimpleResponse, error) { return said("late"), nil },
				want:    func(t *testing.T, r *reply) { wantReason(t, r, codes.Aborted, coordgrpc.ReasonLeaseLost) },
			},
			"its own error": {
				returns: func(context.Context) (*testpb.SimpleResponse, error) {
					return nil, status.Error(codes.Unavailable, "own")
				},
				want: func(t *testing.T, r *reply) {
					if r.status.Message() != "own" {
						t.Error(r.err)
					}
				},
			},
			"another, stopped": {
				successor: func(t *testing.T, s *site) { wantRun(t, s.call(t, "", idem, "k"), "run 2", false) },
				returns:   func(ctx context.Context) (*testpb.SimpleResponse, error) { return nil, context.Cause(ctx) },
				want:      func(t *testing.T, r *reply) { wantRun(t, r, "run 2", true) },
			},
			"another, fenced": {
				successor: func(t *testing.T, s *site) { wantRun(t, s.call(t, "", idem, "k"), "run 2", false) },
				returns: func(ctx context.Context) (*testpb.SimpleResponse, error) {
					key, _ := coordgrpc.KeyFrom(ctx)
					g, _ := coordinator.GrantFrom(ctx)
					fence := c.Fence(key)
					err := fence.Do(context.WithoutCancel(ctx), g, "SET", "sink:"+fence.Tag(), "late").Err()
					if !errors.Is(err, coordinator.ErrStaleToken) {
						t.Errorf("the fence lets it pass: %v", err)
					}
					return nil, fmt.Errorf("write: %w", err)
				},
				want: func(t *testing.T, r *reply) { wantRun(t, r, "run 2", true) },
			},
			"nobody, told why": {
				returns: func(ctx context.Context) (*testpb.SimpleResponse, error) { return nil, context.Cause(ctx) },
				want:    func(t *testing.T, r *reply) { wantReason(t, r, codes.Aborted, coordgrpc.ReasonLeaseLost) },
			},
			"another's token": { // of a lease that the handler has had itself, for something else
				returns: func(context.Context) (*testpb.SimpleResponse, error) {
					return nil, &coordinator.StaleTokenError{Token: 1, Current: 2}
				},
				want: func(t *testing.T, r *reply) {
					if r.status.Code() != codes.Unknown {
						t.Error(r.err)
					}
				},
			},
			"another, done": {
				successor: func(t *testing.T, s *site) { wantRun(t, s.call(t, "", idem, "k"), "run 2", false) },
				returns:   func(context.Context) (*testpb.SimpleResponse, error) { return said("late"), nil },
				want:      func(t *testing.T, r *reply) { wantRun(t, r, "run 2", true) },
			},
			"another, told": {
				successor: func(t *testing.T, s *site) { wantRun(t, s.call(t, "", idem, "k"), "run 2", false) },
				returns:   func(ctx context.Context) (*testpb.SimpleResponse, error) { return nil, ctx.Err() },
				want:      func(t *testing.T, r *reply) { wantRun(t, r, "run 2", true) },
			},
		} {
			t.Run(name, func(t *testing.T) {
				var runs atomic.Int64
				begun, taken := make(chan struct{}, 1), make(chan struct{})
				s := serve(t, c, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
					_ = grpc.SetHeader(ctx, metadata.Pairs("x-run", fmt.Sprint(runs.Load()+1)))
					if n := runs.Add(1); n > 1 {
						return said("run %d", n), nil
					}
					begun <- struct{}{}
					<-ctx.Done()
					if !errors.Is(context.Cause(ctx), coordinator.ErrLeaseLost) {
						t.Errorf("it ends with %v", context.Cause(ctx))
					}
					<-taken
					return one.returns(ctx)
				}, coordgrpc.LeaseFor(300*time.Millisecond))
				first := s.later(t.Context(), "", idem, "k")
				<-begun
				if err := c.Expire(t.Context(), s.key("k")); err != nil {
					t.Fatal(err)
				}
				if one.successor != nil {
					one.successor(t, s)
				}
				close(taken)
				r := <-first
				one.want(t, r)
				if r.replayed() && fmt.Sprint(r.header.Get("x-run")) != "[2]" {
					t.Errorf("the header is the other one's with ours: %v", r.header)
				}
			})
		}
	})
}

// The successor's answer is marked also where the one before it has sent a header of its own.
func TestLeaseIsLostAfterTheHeader(t *testing.T) {
	env := coordtest.New(t)
	var runs atomic.Int64
	begun, taken := make(chan struct{}, 1), make(chan struct{})
	s := serve(t, env.Coordinator, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		if n := runs.Add(1); n > 1 {
			return said("run %d", n), nil
		}
		if err := grpc.SendHeader(ctx, nil); err != nil {
			t.Error(err)
		}
		begun <- struct{}{}
		<-taken
		return said("late"), nil
	})
	first := s.later(t.Context(), "", idem, "k")
	<-begun
	env.Lapse(s.key("k"))
	wantRun(t, s.call(t, "", idem, "k"), "run 2", false)
	close(taken)
	if r := <-first; r.err != nil || r.body != "run 2" || fmt.Sprint(r.trailer.Get(coordgrpc.ReplayedMetadata)) != "[true]" {
		t.Errorf("%q, %v, %v", r.body, r.err, r.trailer)
	}
}

// Where a successor is at work, the one before it says so.
func TestLeaseIsLostToOneAtWork(t *testing.T) {
	env := coordtest.New(t)
	g := newGate()
	s := serve(t, env.Coordinator, g.handle, coordgrpc.LeaseFor(300*time.Millisecond))
	first := s.later(t.Context(), "", idem, "k")
	ctx := <-g.begun
	if err := env.Coordinator.Expire(t.Context(), s.key("k")); err != nil {
		t.Fatal(err)
	}
	lease, err := env.Coordinator.Claim(t.Context(), s.key("k")) // of no fingerprint: another request
	if err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	close(g.release)
	wantReason(t, <-first, codes.Aborted, coordgrpc.ReasonLeaseLost)
	_ = lease.Release(t.Context())

	g = newGate()
	s = serve(t, env.Coordinator, g.handle, coordgrpc.LeaseFor(300*time.Millisecond))
	first = s.later(t.Context(), "", idem, "k")
	ctx = <-g.begun
	if err := env.Coordinator.Expire(t.Context(), s.key("k")); err != nil {
		t.Fatal(err)
	}
	second := s.later(t.Context(), "", idem, "k")
	<-g.begun
	<-ctx.Done()
	g.release <- struct{}{} // one of the two
	select {
	case r := <-first:
		wantReason(t, r, codes.Aborted, coordgrpc.ReasonInProgress)
		g.release <- struct{}{}
		wantRun(t, <-second, "run 2", false)
	case r := <-second:
		wantRun(t, r, "run 2", false)
		g.release <- struct{}{}
		wantRun(t, <-first, "run 2", true)
	}
}

// What can never be stored is not renewed up to its maximum lifetime.
func TestAnswerThatCannotBeStored(t *testing.T) {
	env := coordtest.New(t, coordinator.WithMaxPayload(16))
	s := serve(t, env.Coordinator, counted(new(atomic.Int64)),
		coordgrpc.Encrypt(coordgrpc.Encryption{Current: "k", Keys: map[string][]byte{"k": []byte(strings.Repeat("k", 32))}})) // more than 16 bytes
	wantRun(t, s.call(t, "", idem, "k"), "run 1", false)
	eventually(t, "the key is free", func() bool { return env.Record(s.key("k")).State == coordinator.StateReleased })
}

// While Redis is away nothing runs, or runs unprotected and says so.
func TestRedisAway(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t, coordinator.WithTimeout(500*time.Millisecond))
		var runs atomic.Int64
		s, open := serve(t, c, counted(&runs)), serve(t, c, counted(&runs), coordgrpc.PassWhenUnavailable())
		g := newGate()
		amid := serve(t, c, g.handle, coordgrpc.LeaseFor(2*time.Second))
		first := amid.later(t.Context(), "", idem, "k")
		<-g.begun
		p.kill(t)
		inTime := func(s *site) *reply { // long before its deadline each call has an answer
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			return s.send(ctx, "", idem, "k")
		}
		wantReason(t, inTime(s), codes.Unavailable, coordgrpc.ReasonUnavailable)
		if runs.Load() != 0 {
			t.Errorf("ran %d times", runs.Load())
		}
		for n := range 2 {
			r := inTime(open)
			wantRun(t, r, fmt.Sprintf("run %d", n+1), false)
			if fmt.Sprint(r.header.Get(coordgrpc.UnprotectedMetadata)) != "[true]" {
				t.Error(r.header)
			}
		}
		close(g.release)
		r := <-first
		wantRun(t, r, "run 1", false)
		if fmt.Sprint(r.header.Get(coordgrpc.UnstoredMetadata)) != "[true]" || amid.seen()[coordgrpc.OutcomeUnstored] != 1 {
			t.Errorf("%v, %v", r.header, amid.seen())
		}
	})
}

// hung is a Redis that takes connections and says nothing.
func hung(t testing.TB) *redis.Client {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
	}()
	return redis.NewClient(&redis.Options{Addr: listener.Addr().String(), MaxRetries: -1})
}

// Nobody waits for what may have been claimed to be given back.
func TestGivingBackIsNotWaitedFor(t *testing.T) {
	p := &place{client: func() redis.UniversalClient { return hung(t) }}
	c := p.coordinator(t, coordinator.WithTimeout(300*time.Millisecond))
	var runs atomic.Int64
	shut, open := serve(t, c, counted(&runs)), serve(t, c, counted(&runs), coordgrpc.PassWhenUnavailable())
	within := func(s *site) *reply {
		begun := time.Now()
		r := s.call(t, "", idem, "k")
		if took := time.Since(begun); took > time.Second { // 300ms, and not the second of the give-back
			t.Errorf("it took %v", took)
		}
		return r
	}
	wantReason(t, within(shut), codes.Unavailable, coordgrpc.ReasonUnavailable)
	wantRun(t, within(open), "run 1", false)
}

// A call that ends while Redis is asked, here by the service's own limit, is told so.
func TestCallEnds(t *testing.T) {
	c := (&place{client: func() redis.UniversalClient { return hung(t) }}).coordinator(t)
	once, err := coordgrpc.New(c, coordgrpc.SingleTenant())
	if err != nil {
		t.Fatal(err)
	}
	for code, end := range map[codes.Code]func(context.Context) (context.Context, context.CancelFunc){
		codes.DeadlineExceeded: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 100*time.Millisecond)
		},
		codes.Canceled: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(100*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		limits := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, cancel := end(ctx)
			defer cancel()
			return handler(ctx, req)
		}
		s := &site{}
		s.TestServiceClient = testpb.NewTestServiceClient(dial(t, listen(t, counted(new(atomic.Int64)), grpc.ChainUnaryInterceptor(limits, once.Unary()))))
		wantReason(t, s.call(t, "", idem, "k"), code, coordgrpc.ReasonGone)
	}
}

// Redis that answers is not away: an operation whose result the replicas have not confirmed is done, and does not run again, and a
// claim that they have not confirmed may be asked for again.
func TestReplicasThatLag(t *testing.T) {
	server := miniredis.RunT(t)
	place := &place{client: func() redis.UniversalClient { return redis.NewClient(&redis.Options{Addr: server.Addr()}) }}
	lagging := place.coordinator(t, coordinator.WithReplicas(1, 50*time.Millisecond)) // miniredis has no replica
	var runs atomic.Int64
	tenant := coordgrpc.SingleTenant()
	first := serveAs(t, place.coordinator(t), counted(&runs), tenant)
	wantRun(t, first.call(t, "", idem, "k"), "run 1", false)
	open := serveAs(t, lagging, counted(&runs), tenant, coordgrpc.PassWhenUnavailable())
	for _, key := range []string{"k", "l"} {
		wantReason(t, open.call(t, "", idem, key), codes.Unavailable, coordgrpc.ReasonUnavailable)
	}
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}

// A reply that is lost does not lock the caller out, nor is what could not be stored at once forgotten.
func TestLostReplies(t *testing.T) {
	env := coordtest.New(t)
	var runs atomic.Int64
	s := serve(t, env.Coordinator, counted(&runs))
	env.DropNext("claim")
	wantReason(t, s.call(t, "", idem, "k"), codes.Unavailable, coordgrpc.ReasonUnavailable)
	eventually(t, "the key is given back", func() bool {
		return env.Record(s.key("k")).State == coordinator.StateReleased
	})
	wantRun(t, s.call(t, "", idem, "k"), "run 1", false)

	env.FailNext("complete")
	r := s.call(t, "", idem, "l")
	wantRun(t, r, "run 2", false)
	if fmt.Sprint(r.header.Get(coordgrpc.UnstoredMetadata)) != "[true]" {
		t.Error(r.header)
	}
	eventually(t, "it is stored later", func() bool {
		return env.Record(s.key("l")).State == coordinator.StateCompleted
	})
	wantRun(t, s.call(t, "", idem, "l"), "run 2", true)
}

// An option that the coordinator refuses is told as the service's own mistake.
func TestMisconfigured(t *testing.T) {
	s := serve(t, coordtest.New(t).Coordinator, counted(new(atomic.Int64)), coordgrpc.LeaseFor(2*time.Hour))
	wantReason(t, s.call(t, "", idem, "k"), codes.Internal, coordgrpc.ReasonMisconfigured)
	// And is not the client's, whose clock may be ahead by a moment.
	wantReason(t, s.call(t, "", idem, keyOf(2*time.Second)), codes.Internal, coordgrpc.ReasonMisconfigured)
}

// A record that cannot be read, here one of a newer version and in progress, is not said to be done.
func TestRecordOfANewerVersion(t *testing.T) {
	env := coordtest.New(t)
	g := newGate()
	s := serve(t, env.Coordinator, g.handle)
	first := s.later(t.Context(), "", idem, "k")
	<-g.begun
	for _, e := range env.Stored() {
		if err := env.Client.Set(t.Context(), e.Name, "9"+e.Value[1:], 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r := s.call(t, "", idem, "k")
	wantReason(t, r, codes.Internal, coordgrpc.ReasonRecordUnreadable)
	if strings.Contains(r.status.Message(), "done") || g.runs.Load() != 1 {
		t.Errorf("%v, ran %d times", r.err, g.runs.Load())
	}
	close(g.release)
	<-first
}

// Streams pass, counted, and those that come with a key are told that it does nothing.
func TestStreams(t *testing.T) {
	s := serve(t, coordtest.New(t).Coordinator, counted(new(atomic.Int64)), coordgrpc.RequireKey())
	for i, pairs := range [][]string{{}, {idem, "k"}, {idem, "k"}, {idem, "k", idem, "l"}} {
		stream, err := s.FullDuplexCall(metadata.AppendToOutgoingContext(t.Context(), pairs...))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte("a")}}); err != nil {
			t.Fatal(err)
		}
		r, err := stream.Recv()
		if err != nil || string(r.GetPayload().GetBody()) != "a0" {
			t.Fatalf("%v, %v", r, err)
		}
		header, err := stream.Header()
		if marked := len(header.Get(coordgrpc.UnprotectedMetadata)) == 1; err != nil || marked != (i > 0) {
			t.Errorf("%v, %v", header, err)
		}
		_ = stream.CloseSend()
		_, _ = stream.Recv()
	}
	if got := fmt.Sprint(s.seen()); got != "map[keyed_stream:3 stream:1]" || s.server.Streams() != 4 {
		t.Errorf("%s, %d", got, s.server.Streams())
	}
}

// The interceptor works without a server around it, and from many goroutines.
func TestWithoutServer(t *testing.T) {
	once, err := coordgrpc.New(coordtest.New(t).Coordinator, coordgrpc.SingleTenant())
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	for i := range 10 {
		calls.Go(func() {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(idem, fmt.Sprint(i)))
			for range 2 {
				resp, err := once.Unary()(ctx, &testpb.SimpleRequest{}, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, func(ctx context.Context, _ any) (any, error) {
					_ = grpc.SetHeader(ctx, metadata.Pairs("x", "y"))
					_ = grpc.SendHeader(ctx, nil)
					return said("done"), nil
				})
				if r, is := resp.(*testpb.SimpleResponse); err != nil || !is || string(r.GetPayload().GetBody()) != "done" {
					t.Errorf("%v, %v", resp, err)
				}
			}
		})
	}
	calls.Wait()
}
