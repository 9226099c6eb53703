package coordgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordgrpc"
	"github.com/onceward/coordinator/coordtest"
)

// script is a service that answers by a list, the last one for ever.
type script struct {
	answers []error // nil: done
	mu      sync.Mutex
	keys    []string
	grants  []string
	times   []time.Time
}

func (s *script) handle(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
	s.keys = append(s.keys, strings.Join(metadata.ValueFromIncomingContext(ctx, idem), " "))
	s.grants = append(s.grants, strings.Join(metadata.ValueFromIncomingContext(ctx, coordgrpc.GrantMetadata), " "))
	err := s.answers[min(len(s.keys), len(s.answers))-1]
	if errors.Is(err, errReplay) {
		err = status.Error(codes.Unavailable, "a replay")
		_ = grpc.SetHeader(ctx, metadata.Pairs(coordgrpc.ReplayedMetadata, "true"))
	}
	return said("try %d", len(s.keys)), err
}

var errReplay = errors.New("as a replay")

// again is a status with a RetryInfo.
func again(code codes.Code, after time.Duration) error {
	s, err := status.New(code, "again").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func (s *script) client(t *testing.T, c *coordgrpc.Client) testpb.TestServiceClient {
	t.Helper()
	if c.Pause == 0 {
		c.Pause = time.Millisecond
	}
	return testpb.NewTestServiceClient(dial(t, listen(t, s.handle), grpc.WithChainUnaryInterceptor(c.Unary()), grpc.WithChainStreamInterceptor(c.Stream())))
}

func TestClientRetries(t *testing.T) {
	of := func(code codes.Code) error { return status.Error(code, "x") }
	for name, c := range map[string]struct {
		answers []error
		client  coordgrpc.Client
		tries   int
		code    codes.Code
	}{
		"done":                            {answers: []error{nil}, tries: 1},
		"unavailable":                     {answers: []error{of(codes.Unavailable), of(codes.Unavailable), nil}, tries: 3},
		"always":                          {answers: []error{of(codes.Unavailable)}, tries: 6, code: codes.Unavailable},
		"as often as asked for":           {answers: []error{of(codes.Unavailable)}, client: coordgrpc.Client{Tries: 2}, tries: 2, code: codes.Unavailable},
		"aborted":                         {answers: []error{of(codes.Aborted), nil}, tries: 1, code: codes.Aborted},
		"in progress":                     {answers: []error{again(codes.Aborted, 1), nil}, tries: 2},
		"exhausted":                       {answers: []error{of(codes.ResourceExhausted), nil}, tries: 1, code: codes.ResourceExhausted},
		"exhausted for now":               {answers: []error{again(codes.ResourceExhausted, 1), again(codes.Internal, 1), again(codes.Unknown, 1), nil}, tries: 4},
		"failed precondition":             {answers: []error{again(codes.FailedPrecondition, 1), nil}, client: coordgrpc.Client{Retry: func(*status.Status) bool { return true }}, tries: 1, code: codes.FailedPrecondition},
		"invalid argument":                {answers: []error{again(codes.InvalidArgument, 1), nil}, client: coordgrpc.Client{Retry: func(*status.Status) bool { return true }}, tries: 1, code: codes.InvalidArgument},
		"not found":                       {answers: []error{again(codes.NotFound, 1), nil}, tries: 1, code: codes.NotFound},
		"a replay":                        {answers: []error{errReplay, nil}, client: coordgrpc.Client{Retry: func(*status.Status) bool { return true }}, tries: 1, code: codes.Unavailable},
		"internal":                        {answers: []error{of(codes.Internal), nil}, tries: 1, code: codes.Internal},
		"internal, by wish":               {answers: []error{of(codes.Internal), nil}, client: coordgrpc.Client{Retry: func(s *status.Status) bool { return s.Code() == codes.Internal }}, tries: 2},
		"not for an hour":                 {answers: []error{again(codes.Unavailable, time.Hour), nil}, tries: 1, code: codes.Unavailable},
		"a negative time":                 {answers: []error{again(codes.Aborted, -time.Hour), nil}, tries: 2},
		"a method that is not among them": {answers: []error{of(codes.Unavailable), nil}, client: coordgrpc.Client{Methods: func(m string) bool { return m != unaryCall }}, tries: 1, code: codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: c.answers}
			var header metadata.MD
			resp, err := s.client(t, &c.client).UnaryCall(t.Context(), &testpb.SimpleRequest{}, grpc.Header(&header))
			if status.Code(err) != c.code || len(s.keys) != c.tries {
				t.Fatalf("%v after %d tries; want %v after %d", err, len(s.keys), c.code, c.tries)
			}
			if err == nil && (string(resp.GetPayload().GetBody()) != fmt.Sprintf("try %d", c.tries) || len(header) == 0) {
				t.Errorf("%v, %v", resp, header)
			}
			for _, key := range s.keys {
				if _, v7 := coordinator.UUIDv7Time(key); key != s.keys[0] || v7 == (c.client.Methods != nil) {
					t.Errorf("the keys are %q", s.keys)
				}
			}
		})
	}
}

// A mark in the trailer counts as well: the header may have been sent before there was one.
func TestClientReadsTrailers(t *testing.T) {
	var runs atomic.Int64
	addr := listen(t, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		runs.Add(1)
		_ = grpc.SendHeader(ctx, nil)
		_ = grpc.SetTrailer(ctx, metadata.Pairs(coordgrpc.ReplayedMetadata, "true"))
		return nil, status.Error(codes.Unavailable, "a replay")
	})
	client := testpb.NewTestServiceClient(dial(t, addr, grpc.WithUnaryInterceptor((&coordgrpc.Client{Pause: time.Millisecond}).Unary())))
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); status.Code(err) != codes.Unavailable || runs.Load() != 1 {
		t.Errorf("%v after %d tries", err, runs.Load())
	}
}

// Who tests with interceptors alone has no connection.
func TestClientWithoutConnection(t *testing.T) {
	client := &coordgrpc.Client{GrantTo: func(string, string) bool { return true }}
	ctx := coordinator.ContextWithGrant(t.Context(), coordinator.Grant{Token: 1, Owner: strings.Repeat("a", 32)})
	err := client.Unary()(ctx, unaryCall, nil, nil, nil, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get(idem)) != 1 || len(md.Get(coordgrpc.GrantMetadata)) != 0 {
			t.Errorf("it sends %v", md)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestClientWaits(t *testing.T) {
	s := &script{answers: []error{again(codes.Aborted, 200*time.Millisecond), nil}}
	if _, err := s.client(t, &coordgrpc.Client{}).UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if d := s.times[1].Sub(s.times[0]); d < 190*time.Millisecond {
		t.Errorf("it came again after %v", d)
	}
	// A pause that the call would not outlast ends the tries, with what there is.
	s = &script{answers: []error{again(codes.Aborted, 5*time.Second)}}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := s.client(t, &coordgrpc.Client{}).UnaryCall(ctx, &testpb.SimpleRequest{}); status.Code(err) != codes.Aborted || len(s.keys) != 1 || ctx.Err() != nil {
		t.Errorf("%v, %d tries", err, len(s.keys))
	}
	// Nor does a pause outlast the call.
	s = &script{answers: []error{again(codes.Aborted, 9*time.Second)}}
	leaving, leave := context.WithCancel(t.Context())
	client := s.client(t, &coordgrpc.Client{})
	ended := make(chan error, 1)
	go func() {
		_, err := client.UnaryCall(leaving, &testpb.SimpleRequest{})
		ended <- err
	}()
	eventually(t, "the first try", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.keys) == 1 })
	leave()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}

func TestClientKeys(t *testing.T) {
	own := metadata.AppendToOutgoingContext
	for name, c := range map[string]struct {
		ctx    context.Context
		client coordgrpc.Client
		want   string
		reason coordgrpc.Reason
		code   codes.Code
	}{
		"of the context":     {ctx: coordgrpc.WithKey(t.Context(), "mine"), want: "mine"},
		"of the metadata":    {ctx: own(coordgrpc.WithKey(t.Context(), "mine"), idem, "own"), want: "own"},
		"made":               {ctx: t.Context(), client: coordgrpc.Client{NewKey: func() (string, error) { return "made", nil }}, want: "made"},
		"not made":           {ctx: t.Context(), client: coordgrpc.Client{NewKey: func() (string, error) { return "", errNobody }}, code: codes.Internal},
		"malformed":          {ctx: coordgrpc.WithKey(t.Context(), "a b"), code: codes.InvalidArgument, reason: coordgrpc.ReasonKeyMalformed},
		"empty":              {ctx: coordgrpc.WithKey(t.Context(), ""), code: codes.InvalidArgument, reason: coordgrpc.ReasonKeyMalformed},
		"other methods' own": {ctx: own(t.Context(), idem, "own"), client: coordgrpc.Client{Methods: func(string) bool { return false }}, want: "own"},
	} {
		s := &script{answers: []error{nil}}
		_, err := s.client(t, &c.client).UnaryCall(c.ctx, &testpb.SimpleRequest{})
		if status.Code(err) != c.code || coordgrpc.ReasonOf(err) != c.reason || strings.Join(s.keys, "|") != c.want {
			t.Errorf("%s: %v, the keys %q", name, err, s.keys)
		}
	}
}

// dropping is a listener whose first connections break when the service has answered, before its client hears of it.
type dropping struct {
	net.Listener
	left atomic.Int64
	on   atomic.Bool // break now
}

func (d *dropping) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	return &dropped{conn, d}, err
}

type dropped struct {
	net.Conn
	d *dropping
}

func (c *dropped) Write(b []byte) (int, error) {
	if c.d.on.CompareAndSwap(true, false) {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// A call whose answer is lost with its connection is sent again and answered from the store: it takes effect once.
func TestClientOverBrokenConnections(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		once, err := coordgrpc.New(p.coordinator(t), coordgrpc.SingleTenant())
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		breaking := &dropping{Listener: listener}
		breaking.left.Store(3)
		var runs, calls atomic.Int64
		server := grpc.NewServer(grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			calls.Add(1)
			resp, err := handler(ctx, req)
			if breaking.left.Add(-1) >= 0 {
				breaking.on.Store(true) // what is written next is this answer
			}
			return resp, err
		}, once.Unary()))
		testpb.RegisterTestServiceServer(server, &testService{unary: counted(&runs)})
		go func() { _ = server.Serve(breaking) }()
		t.Cleanup(server.Stop)
		client := testpb.NewTestServiceClient(dial(t, listener.Addr().String(), grpc.WithUnaryInterceptor((&coordgrpc.Client{Pause: time.Millisecond, Tries: 50}).Unary())))
		var header metadata.MD
		resp, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}, grpc.WaitForReady(true), grpc.Header(&header))
		if err != nil || string(resp.GetPayload().GetBody()) != "run 1" || runs.Load() != 1 || calls.Load() < 4 {
			t.Errorf("%v, %v; ran %d times in %d calls", resp, err, runs.Load(), calls.Load())
		}
		if len(header.Get(coordgrpc.ReplayedMetadata)) != 1 {
			t.Error(header)
		}
	})
}

// Client and server together: what is in progress is waited for.
func TestClientAndServer(t *testing.T) {
	g := newGate()
	s := serve(t, coordtest.New(t).Coordinator, g.handle)
	client := testpb.NewTestServiceClient(dial(t, s.addr, grpc.WithUnaryInterceptor((&coordgrpc.Client{}).Unary())))
	ctx := coordgrpc.WithKey(t.Context(), "k")
	answers := make(chan string, 2)
	for range 2 {
		go func() {
			resp, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
			answers <- fmt.Sprint(string(resp.GetPayload().GetBody()), err)
		}()
	}
	<-g.begun
	eventually(t, "the other one is refused", func() bool { return s.seen()[string(coordgrpc.ReasonInProgress)] > 0 })
	close(g.release)
	for range 2 {
		if got := <-answers; got != "run 1<nil>" {
			t.Error(got)
		}
	}
}
