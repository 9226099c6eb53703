package coordhttp_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/coordtest"
)

// A handler that stops because its client has gone, and says nothing, has no outcome.
func TestSilenceOfAClientThatHasGone(t *testing.T) {
	begun := make(chan struct{}, 2)
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		if runs.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = s.send(ctx, "POST", "/", "", idem, "k")
	}()
	<-begun
	leave()
	<-gone
	eventually(t, "the handler returns", func() bool { return s.seen()[coordhttp.OutcomeReleased] == 1 })
	if r := s.post(t, "/", "", idem, "k"); r.status != 201 || runs.Load() != 2 {
		t.Errorf("%+v, ran %d times", r, runs.Load())
	}
}

// A detached handler that streams does not hear that its client has gone, and finishes.
func TestDetachedStreamFinishes(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		for range 300 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
				panic(http.ErrAbortHandler) // as httputil.ReverseProxy
			}
		}
	}), coordhttp.DetachHandler())
	request, err := http.NewRequestWithContext(t.Context(), "POST", s.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(idem, "k")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyN(io.Discard, response.Body, 10)
	_ = response.Body.Close()
	eventually(t, "it is stored", func() bool { return s.seen()[coordhttp.OutcomeUnkept] == 1 })
	wantProblem(t, s.post(t, "/", "", idem, "k"), 409, coordhttp.KindNotReplayable)
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}

// What could not be stored at once is stored as soon as it can be.
func TestStoredLater(t *testing.T) {
	env := coordtest.New(t)
	var runs atomic.Int64
	s := serve(t, env.Coordinator, counted(&runs, 201))
	env.FailNext("complete")
	if r := s.post(t, "/", "", idem, "k"); r.status != 201 || r.header.Get("Idempotency-Unstored") != "true" {
		t.Errorf("%+v", r)
	}
	eventually(t, "it is replayed", func() bool { return s.post(t, "/", "", idem, "k").header.Get("Idempotency-Replayed") == "true" })
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}

// A request that is let through goes as if nothing were around it: panics, hijacks, outer writers.
func TestLetThrough(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"panic": func(http.ResponseWriter, *http.Request) { panic("handler") },
		"hijack": func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = rw.WriteString("HTTP/1.1 500 Taken\r\nContent-Length: 0\r\n\r\n")
			_ = rw.Flush()
			_ = conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := coordtest.New(t)
			once, err := coordhttp.New(env.Coordinator, coordhttp.SingleTenant(), coordhttp.PassWhenUnavailable())
			if err != nil {
				t.Fatal(err)
			}
			inner := once(handler)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					if recover() != nil {
						w.WriteHeader(http.StatusInternalServerError)
					}
				}()
				inner.ServeHTTP(w, r)
			}))
			t.Cleanup(server.Close)
			env.DropNext("claim")
			if r := (&site{url: server.URL}).post(t, "/", "", idem, "k"); r.status != 500 {
				t.Errorf("%+v", r)
			}
			key := coordinator.Key{Scope: coordinator.JoinScope("*", "POST", "/"), ID: "k"}
			eventually(t, "the key is given back", func() bool {
				record, err := env.Coordinator.Inspect(t.Context(), key)
				return err == nil && record.State == coordinator.StateReleased
			})
		})
	}
}

// The mark of a resource is no name of a coordinator's, even where both have one prefix.
func TestGuardBesideACoordinator(t *testing.T) {
	env := coordtest.New(t, coordinator.WithPrefix("pay"))
	guard := func(prefix string) (func(http.Handler) http.Handler, error) {
		return coordhttp.RequireGrant(coordhttp.GrantGuard{Redis: env.Client, Prefix: prefix, Resource: func(*http.Request) (string, error) { return "account/1", nil }})
	}
	require, err := guard("pay")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		lease, err := env.Coordinator.Claim(t.Context(), coordinator.Key{ID: fmt.Sprint(i), Resource: "account/1"})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set(coordhttp.GrantHeader, lease.Grant().String())
		w := httptest.NewRecorder()
		require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if err := lease.Complete(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"a}b", "{a", "a b", "ü"} {
		if _, err := guard(prefix); err == nil {
			t.Errorf("the prefix %q was taken", prefix)
		}
	}
}

// A policy that panics is as a handler that does.
func TestPolicyPanics(t *testing.T) {
	env := coordtest.New(t)
	profile := coordhttp.Draft07()
	profile.Store = func(int) bool { panic("policy") }
	var runs atomic.Int64
	s := serveAs(t, env.Coordinator, counted(&runs, 201), coordhttp.SingleTenant(), coordhttp.WithProfile(profile))
	if r, err := s.send(t.Context(), "POST", "/", "", idem, "k"); err == nil {
		t.Errorf("%+v", r)
	}
	record, err := env.Coordinator.Inspect(t.Context(), coordinator.Key{Scope: coordinator.JoinScope("*", "POST", "/"), ID: "k"})
	if err != nil || record.State != coordinator.StateReleased {
		t.Errorf("%+v, %v", record, err)
	}
}

// Replays have the headers of the first answer: none that it did not have, its body's whoever has set them, its own type.
func TestHeadersOfReplays(t *testing.T) {
	for name, c := range map[string]struct {
		outer, inner func(h http.Header)
		body         string
		name         string
	}{
		"no type":        {inner: func(h http.Header) { h["Content-Type"] = nil }, body: "<html>", name: "Content-Type"},
		"a type deleted": {outer: func(h http.Header) { h.Set("Content-Type", "application/json") }, inner: func(h http.Header) { h.Del("Content-Type") }, body: "<html>", name: "Content-Type"},
		"another gone":   {outer: func(h http.Header) { h.Set("Cache-Control", "no-store") }, inner: func(h http.Header) { h.Del("Cache-Control") }, name: "Cache-Control"},
		"by chance the same": {outer: func(h http.Header) { h.Set("Content-Language", h.Get("X-Turn")) }, inner: func(h http.Header) {
			h.Set("Content-Language", "1")
		}, name: "Content-Language"},
	} {
		t.Run(name, func(t *testing.T) {
			once, err := coordhttp.New(coordtest.New(t).Coordinator, coordhttp.SingleTenant())
			if err != nil {
				t.Fatal(err)
			}
			inner := once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				c.inner(w.Header())
				fmt.Fprint(w, c.body)
			}))
			turn := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				turn++
				w.Header().Set("X-Turn", fmt.Sprint(turn))
				if c.outer != nil {
					c.outer(w.Header())
				}
				inner.ServeHTTP(w, r)
			}))
			t.Cleanup(server.Close)
			s := &site{url: server.URL}
			first, again := s.post(t, "/", "", idem, "k"), s.post(t, "/", "", idem, "k")
			if a, b := first.header.Values(c.name), again.header.Values(c.name); fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%s: %q, then %q", c.name, a, b)
			}
		})
	}
}

// An answer that is shorter than it was announced is no answer.
func TestHalfAnAnswer(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if runs.Add(1) == 1 {
			w.Header().Set("Content-Length", "100")
		}
		fmt.Fprint(w, "half of it")
	}))
	if r, err := s.once(t, "k"); err == nil {
		t.Errorf("%+v", r)
	}
	if r := s.post(t, "/", "", idem, "l"); r.status != 200 {
		t.Errorf("%+v", r)
	}
	if r := s.post(t, "/", "", idem, "k"); r.status == 200 && r.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("%+v", r)
	}
}

// The header that was written goes out before a connection is taken over.
func TestHijackAfterHeader(t *testing.T) {
	s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4")
		w.WriteHeader(http.StatusAccepted)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = rw.WriteString("text")
		_ = rw.Flush()
		_ = conn.Close()
	}))
	if r := s.post(t, "/", "", idem, "k"); r.status != 202 || r.body != "text" {
		t.Errorf("%+v", r)
	}
}

func TestNumbersThatFloatsCannotHold(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, counted(&runs, 200), coordhttp.CanonicalJSON())
	const asJSON = "application/json"
	s.post(t, "/", `{"account":9007199254740992}`, idem, "k", "Content-Type", asJSON)
	wantProblem(t, s.post(t, "/", `{"account":9007199254740993}`, idem, "k", "Content-Type", asJSON), 422, coordhttp.KindKeyReused)
}

// What a client says about its length takes no memory.
func TestBodyOfAnyLength(t *testing.T) {
	once, err := coordhttp.New(coordtest.New(t).Coordinator, coordhttp.SingleTenant(), coordhttp.MaxBody(math.MaxInt64))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/", strings.NewReader("short"))
	r.ContentLength = 1 << 50
	r.Header.Set(idem, "k")
	w := httptest.NewRecorder()
	once(http.NotFoundHandler()).ServeHTTP(w, r)
	if w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestHostInTheFingerprint(t *testing.T) {
	once, err := coordhttp.New(coordtest.New(t).Coordinator, coordhttp.SingleTenant(), coordhttp.FingerprintHeaders("host"))
	if err != nil {
		t.Fatal(err)
	}
	handler := once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) }))
	for host, want := range map[string]int{"a.example": 200, "b.example": 200} {
		r := httptest.NewRequest("POST", "http://"+host+"/pay", nil)
		r.Header.Set(idem, host)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d", host, w.Code)
		}
		r = httptest.NewRequest("POST", "http://c.example/pay", nil)
		r.Header.Set(idem, host)
		w = httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != 422 {
			t.Errorf("%s again as c.example: %d", host, w.Code)
		}
	}
}

// A grant does not follow a redirect to another host.
func TestGrantsAndRedirects(t *testing.T) {
	var got []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, "elsewhere "+r.Header.Get(coordhttp.GrantHeader))
	}))
	t.Cleanup(elsewhere.Close)
	here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, "here "+r.Header.Get(coordhttp.GrantHeader))
		http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1), http.StatusTemporaryRedirect)
	}))
	t.Cleanup(here.Close)
	g := coordinator.Grant{Token: 7, Owner: owner("a")}
	request, err := http.NewRequestWithContext(coordinator.ContextWithGrant(t.Context(), g), "POST", here.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: &coordhttp.GrantTransport{}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if want := "[here " + g.String() + " elsewhere ]"; fmt.Sprint(got) != want {
		t.Errorf("%v; want %s", got, want)
	}
}

// A body that nobody writes does not outlast the client's timeout.
func TestTransportsBodyEndsInTime(t *testing.T) {
	body, _ := io.Pipe()
	client := &http.Client{Transport: &coordhttp.Transport{}, Timeout: 50 * time.Millisecond}
	begin := time.Now()
	response, err := client.Post("http://127.0.0.1:1", "text/plain", body)
	if err == nil {
		_ = response.Body.Close()
	}
	if err == nil || time.Since(begin) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

// Trailers of a request reach the service.
func TestTransportsTrailers(t *testing.T) {
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got = r.Trailer.Get("X-Sum")
	}))
	t.Cleanup(server.Close)
	request, err := http.NewRequestWithContext(t.Context(), "POST", server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Trailer = http.Header{"X-Sum": nil}
	request.Body = io.NopCloser(io.MultiReader(strings.NewReader("body"), then(func() { request.Trailer.Set("X-Sum", "4") })))
	request.ContentLength = -1
	response, err := (&coordhttp.Transport{}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if got != "4" {
		t.Errorf("the trailer is %q", got)
	}
}

// then is a reader that does something and ends.
type then func()

func (f then) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}
