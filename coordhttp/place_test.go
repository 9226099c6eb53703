package coordhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
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
	os.Exit(code)
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

// serve starts a service of one tenant, a new one, behind the middleware.
func serve(t testing.TB, c *coordinator.Coordinator, handler http.Handler, opts ...coordhttp.Option) *site {
	t.Helper()
	tenant := unique(t)
	return serveAs(t, c, handler, append([]coordhttp.Option{coordhttp.Tenant(func(*http.Request) (string, error) { return tenant, nil })}, opts...)...)
}

func serveAs(t testing.TB, c *coordinator.Coordinator, handler http.Handler, opts ...coordhttp.Option) *site {
	t.Helper()
	s := &site{outcomes: map[string]int{}}
	observed := coordhttp.Observe(func(_ *http.Request, outcome string, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outcomes[outcome]++
	})
	once, err := coordhttp.New(c, append([]coordhttp.Option{observed}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(once(handler))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// site is a service that listens.
type site struct {
	url      string
	mu       sync.Mutex
	outcomes map[string]int
}

func (s *site) seen() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.outcomes)
}

// reply is an answer as a client has it.
type reply struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

func (r *reply) kind() string {
	if r.header.Get("Content-Type") != "application/problem+json" {
		return ""
	}
	_, kind, _ := strings.Cut(r.body, "#")
	kind, _, _ = strings.Cut(kind, `"`)
	return kind
}

// post sends a request with these headers, in pairs.
func (s *site) post(t testing.TB, path, body string, headers ...string) *reply {
	t.Helper()
	r, err := s.send(t.Context(), http.MethodPost, path, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *site) send(ctx context.Context, method, path, body string, headers ...string) (*reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return &reply{response.StatusCode, response.Header, string(text), response.Trailer}, err
}

const idem = "Idempotency-Key"

// counted answers with how often it has run.
func counted(runs *atomic.Int64, status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := runs.Add(1)
		w.Header().Set("X-Run", fmt.Sprint(n))
		w.WriteHeader(status)
		fmt.Fprintf(w, "run %d", n)
	})
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

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := g.runs.Add(1)
	g.begun <- r.Context()
	<-g.release
	w.Header().Set("X-Run", fmt.Sprint(n))
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "run %d", n)
}

func wantProblem(t testing.TB, r *reply, status int, kind coordhttp.Kind) {
	t.Helper()
	if r.status != status || r.kind() != string(kind) || !strings.Contains(r.body, `"detail":"`) {
		t.Errorf("%d %s %.200q; want %d %s", r.status, r.kind(), r.body, status, kind)
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

var errNobody = errors.New("nobody")
