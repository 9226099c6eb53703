package coordgrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordgrpc"
	"github.com/onceward/coordinator/internal/redistest"
)

// pool is the cluster that the tests share, which is started for the first that needs it.
var pool = struct {
	once    sync.Once
	cluster *redistest.Cluster
	err     error
}{}

func TestMain(m *testing.M) {
	code := m.Run()
	if pool.cluster != nil {
		pool.cluster.Stop()
	}
	if left := leftBehind(); code == 0 && left != "" {
		fmt.Println("goroutines are left behind:\n" + left)
		code = 1
	}
	os.Exit(code)
}

// leftBehind are goroutines in code of ours or of gRPC's after all tests, given some time to end.
func leftBehind() string {
	var left []byte
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); runtime.Gosched() {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left = nil
		for i, one := range bytes.Split(stacks, []byte("\n\n")) {
			if i > 0 && (bytes.Contains(one, []byte("/coordgrpc.")) || bytes.Contains(one, []byte("google.golang.org/grpc"))) {
				left = append(append(left, one...), "\n\n"...)
			}
		}
		if left == nil {
			break
		}
		pause := time.NewTimer(10 * time.Millisecond)
		<-pause.C
	}
	return string(left)
}

// place is a Redis that a test runs on, with a way to take it away.
type place struct {
	client func() redis.UniversalClient
	kill   func(t *testing.T)
}

// everywhere runs a test on miniredis and on a cluster.
func everywhere(t *testing.T, test func(t *testing.T, p *place)) {
	t.Run("miniredis", func(t *testing.T) {
		server := miniredis.RunT(t)
		test(t, &place{
			client: func() redis.UniversalClient { return redis.NewClient(&redis.Options{Addr: server.Addr()}) },
			kill:   func(*testing.T) { server.Close() },
		})
	})
	t.Run("cluster", func(t *testing.T) {
		redistest.Need(t)
		cluster := sharedCluster(t)
		test(t, &place{
			client: func() redis.UniversalClient { return cluster.Client(nil) },
			kill: func(t *testing.T) {
				t.Cleanup(func() {
					ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
					defer cancel()
					if err := cluster.Heal(ctx); err != nil {
						t.Error(err)
					}
				})
				for _, node := range cluster.Nodes() {
					if err := node.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			},
		})
	})
}

func sharedCluster(t *testing.T) *redistest.Cluster {
	t.Helper()
	pool.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		pool.cluster, pool.err = redistest.StartCluster(ctx, 3, 0)
	})
	if pool.err != nil {
		t.Fatal(pool.err)
	}
	return pool.cluster
}

func (p *place) coordinator(t testing.TB, opts ...coordinator.Option) *coordinator.Coordinator {
	t.Helper()
	rdb := p.client()
	c, err := coordinator.New(rdb, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = rdb.Close()
	})
	return c
}

var service atomic.Int64

// unique is a name that no other test uses, on whatever Redis.
func unique(t testing.TB) string {
	return fmt.Sprintf("%s-%d-%d", t.Name(), os.Getpid(), service.Add(1))
}

// The methods of gRPC's own test service that are used here.
const (
	unaryCall = "/grpc.testing.TestService/UnaryCall"
	emptyCall = "/grpc.testing.TestService/EmptyCall"
)

type handle func(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error)

// service of gRPC's interop tests: unary, and a stream that echoes.
type testService struct {
	testpb.UnimplementedTestServiceServer
	unary handle
}

func (s *testService) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return s.unary(ctx, r)
}

func (s *testService) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	_, err := s.unary(ctx, &testpb.SimpleRequest{})
	return &testpb.Empty{}, err
}

func (s *testService) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	g, _ := coordinator.GrantFrom(stream.Context())
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		body := append(r.GetPayload().GetBody(), fmt.Sprint(g.Token)...)
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: body}}); err != nil {
			return err
		}
	}
}

// site is a service that listens.
type site struct {
	testpb.TestServiceClient
	addr     string
	tenant   string
	server   *coordgrpc.Server
	mu       sync.Mutex
	outcomes map[string]int
}

func (s *site) seen() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.outcomes)
}

// key is what the coordinator knows a call of UnaryCall by.
func (s *site) key(id string) coordinator.Key {
	return coordinator.Key{Scope: coordinator.JoinScope(s.tenant, unaryCall), ID: id}
}

// serve starts a service of one tenant, a new one, behind the interceptors, and what recovers from panics around them.
func serve(t testing.TB, c *coordinator.Coordinator, unary handle, opts ...coordgrpc.Option) *site {
	t.Helper()
	tenant := unique(t)
	s := serveAs(t, c, unary, append([]coordgrpc.Option{coordgrpc.Tenant(func(context.Context, string) (string, error) { return tenant, nil })}, opts...)...)
	s.tenant = tenant
	return s
}

func serveAs(t testing.TB, c *coordinator.Coordinator, unary handle, opts ...coordgrpc.Option) *site {
	t.Helper()
	s := &site{outcomes: map[string]int{}}
	observed := coordgrpc.Observe(func(_ context.Context, _, outcome string, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outcomes[outcome]++
	})
	server, err := coordgrpc.New(c, append([]coordgrpc.Option{observed}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.server = server
	s.addr = listen(t, unary, grpc.ChainUnaryInterceptor(recovers, server.Unary()), grpc.ChainStreamInterceptor(server.Stream()))
	s.TestServiceClient = testpb.NewTestServiceClient(dial(t, s.addr))
	return s
}

// listen starts a server on loopback.
func listen(t testing.TB, unary handle, opts ...grpc.ServerOption) string {
	t.Helper()
	return listenWith(t, func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, &testService{unary: unary}) }, opts...)
}

func listenWith(t testing.TB, register func(*grpc.Server), opts ...grpc.ServerOption) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func dial(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// recovers is what services chain around everything.
func recovers(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = status.Errorf(codes.Internal, "recovered: %v", p)
		}
	}()
	return handler(ctx, req)
}

// reply is an answer as a client has it.
type reply struct {
	body            string
	status          *status.Status
	err             error
	header, trailer metadata.MD
}

func (r *reply) replayed() bool {
	return slices.Equal(r.header.Get(coordgrpc.ReplayedMetadata), []string{"true"})
}

func (r *reply) retryInfo() bool {
	for _, detail := range r.status.Details() {
		if _, is := detail.(*errdetails.RetryInfo); is {
			return true
		}
	}
	return false
}

// call calls UnaryCall with this metadata, in pairs.
func (s *site) call(t testing.TB, body string, pairs ...string) *reply {
	t.Helper()
	return s.send(t.Context(), body, pairs...)
}

func (s *site) send(ctx context.Context, body string, pairs ...string) *reply {
	r := &reply{}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, pairs...), 20*time.Second)
	defer cancel()
	resp, err := s.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(body)}}, grpc.Header(&r.header), grpc.Trailer(&r.trailer))
	r.body, r.err, r.status = string(resp.GetPayload().GetBody()), err, status.Convert(err)
	return r
}

const idem = coordgrpc.KeyMetadata

func said(format string, args ...any) *testpb.SimpleResponse {
	return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: fmt.Appendf(nil, format, args...)}}
}

// counted answers with how often it has run.
func counted(runs *atomic.Int64) handle {
	return func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return said("run %d", runs.Add(1)), nil
	}
}

// gate is a handler that waits to be let go on, and says when it has begun.
type gate struct {
	runs    atomic.Int64
	begun   chan context.Context
	release chan struct{}
}

func newGate() *gate {
	return &gate{begun: make(chan context.Context, 300), release: make(chan struct{})}
}

func (g *gate) handle(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	n := g.runs.Add(1)
	g.begun <- ctx
	<-g.release
	return said("run %d", n), nil
}

// later is a call whose answer comes by a channel.
func (s *site) later(ctx context.Context, body string, pairs ...string) <-chan *reply {
	answer := make(chan *reply, 1)
	go func() { answer <- s.send(ctx, body, pairs...) }()
	return answer
}

func wantReason(t testing.TB, r *reply, code codes.Code, reason coordgrpc.Reason) {
	t.Helper()
	if r.status.Code() != code || coordgrpc.ReasonOf(r.err) != reason {
		t.Errorf("%v, %s, %q; want %v %s", r.err, coordgrpc.ReasonOf(r.err), r.body, code, reason)
	}
	retries := code == codes.Aborted || code == codes.Unavailable
	if r.retryInfo() != retries {
		t.Errorf("%s with RetryInfo: %t; want %t", reason, r.retryInfo(), retries)
	}
	if r.replayed() {
		t.Errorf("%s is marked as a replay", reason)
	}
}

func wantRun(t testing.TB, r *reply, body string, replayed bool) {
	t.Helper()
	if r.err != nil || r.body != body || r.replayed() != replayed {
		t.Errorf("%q, %v, %v; want %q, replayed: %t", r.body, r.err, r.header, body, replayed)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
		pause := time.NewTimer(5 * time.Millisecond)
		<-pause.C
	}
}

// wait is the next of a channel, which has a limit.
func wait[T any](t testing.TB, what string, next <-chan T) T {
	t.Helper()
	select {
	case v := <-next:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("not within 20 s: %s", what)
		panic(what)
	}
}

var errNobody = errors.New("nobody")
