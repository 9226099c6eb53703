package coordhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/coordtest"
)

// within fails where something takes too long, rather than to wait for the whole test's end.
func within[T any](t testing.TB, limit time.Duration, what string, from <-chan T) T {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case v := <-from:
		return v
	case <-timer.C:
		t.Fatalf("not within %v: %s", limit, what)
		panic("unreachable")
	}
}

// An answer that cannot be stored ends as any other, whatever tells its client where it ends: the storing goes on without it.
func TestUnstoredAnswersEnd(t *testing.T) {
	long := func(w http.ResponseWriter) { fmt.Fprint(w, "answer") }
	for name, c := range map[string]struct {
		h2     bool
		answer func(w http.ResponseWriter)
	}{
		"HTTP 1":          {answer: long},
		"HTTP 1, trailer": {answer: func(w http.ResponseWriter) { long(w); w.Header().Set(http.TrailerPrefix+"X-Sum", "1") }},
		"HTTP 1, stream":  {answer: func(w http.ResponseWriter) { long(w); w.(http.Flusher).Flush() }},
		"HTTP 2":          {h2: true, answer: long},
		"HTTP 2, stream":  {h2: true, answer: func(w http.ResponseWriter) { long(w); w.(http.Flusher).Flush() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := miniredis.RunT(t)
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
			c0, err := coordinator.New(rdb, coordinator.WithLease(time.Minute), coordinator.WithTimeout(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = rdb.Close() })
			working := make(chan struct{}, 2)
			once, err := coordhttp.New(c0, coordhttp.SingleTenant(), coordhttp.Background(func(work func()) {
				working <- struct{}{}
				go func() {
					work()
					working <- struct{}{}
				}()
			}))
			if err != nil {
				t.Fatal(err)
			}
			site := httptest.NewUnstartedServer(once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				server.Close()
				c.answer(w)
			})))
			if site.EnableHTTP2 = c.h2; c.h2 {
				site.StartTLS()
			} else {
				site.Start()
			}
			t.Cleanup(site.Close)
			t.Cleanup(func() { _ = c0.Close() }) // which ends what goes on
			done := make(chan error, 1)
			go func() {
				done <- func() error {
					r, err := http.NewRequestWithContext(t.Context(), "POST", site.URL, nil)
					if err != nil {
						return err
					}
					r.Header.Set(idem, "k")
					response, err := site.Client().Do(r)
					if err != nil {
						return err
					}
					defer response.Body.Close()
					if body, err := io.ReadAll(response.Body); err != nil || string(body) != "answer" || c.h2 != (response.ProtoMajor == 2) {
						return fmt.Errorf("%q, %w", body, err)
					}
					return nil
				}()
			}()
			if err := within(t, 20*time.Second, "the answer's end", done); err != nil {
				t.Error(err)
			}
			within(t, 20*time.Second, "the storing goes on", working)
			_ = c0.Close()
			within(t, 20*time.Second, "the storing ends with the coordinator", working)
		})
	}
}

// A claim whose outcome is unknown is given back without its client, who may come again at once.
func TestGivenBackInTheBackground(t *testing.T) {
	env := coordtest.New(t)
	hold, done := make(chan struct{}), make(chan struct{})
	s := serveAs(t, env.Coordinator, http.NotFoundHandler(), coordhttp.SingleTenant(), coordhttp.Background(func(work func()) {
		go func() {
			defer close(done)
			<-hold
			work()
		}()
	}))
	env.DropNext("claim")
	wantProblem(t, s.post(t, "/", "", idem, "k"), 503, coordhttp.KindUnavailable)
	wantProblem(t, s.post(t, "/", "", idem, "k"), 409, coordhttp.KindInProgress)
	close(hold)
	within(t, 20*time.Second, "it is given back", done)
	if r := s.post(t, "/", "", idem, "k"); r.status != 404 {
		t.Errorf("%+v", r)
	}
}

// A client that leaves while its key is claimed is no sign that Redis is away.
func TestClientLeavesTheClaim(t *testing.T) {
	var seen []string
	once, err := coordhttp.New(coordtest.New(t).Coordinator, coordhttp.SingleTenant(), coordhttp.PassWhenUnavailable(),
		coordhttp.Observe(func(_ *http.Request, outcome string, _ error) { seen = append(seen, outcome) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequestWithContext(ctx, "POST", "/", nil)
	r.Header.Set(idem, "k")
	w := httptest.NewRecorder()
	once(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") })).ServeHTTP(w, r)
	if fmt.Sprint(seen) != "[gone]" || w.Code != 503 {
		t.Errorf("%v, %d", seen, w.Code)
	}
}

// Where replicas do not confirm, there may be an outcome: nobody is let past it.
func TestOpenIsNotForWantOfReplicas(t *testing.T) {
	server := miniredis.RunT(t) // which has none
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := coordinator.New(rdb, coordinator.WithReplicas(1, 10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var runs atomic.Int64
	s := serve(t, c, counted(&runs, 201), coordhttp.PassWhenUnavailable())
	wantProblem(t, s.post(t, "/", "", idem, "k"), 503, coordhttp.KindUnavailable)
	if runs.Load() != 0 {
		t.Error("the handler ran")
	}
}
