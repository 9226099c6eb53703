package coordhttp_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/coordtest"
)

// What handlers do with their writer, what the first client gets, and what the second one gets.
func TestWriters(t *testing.T) {
	long := strings.Repeat("long ", 1000)
	for name, c := range map[string]struct {
		handler func(w http.ResponseWriter, r *http.Request)
		opts    []coordhttp.Option
		status  int
		body    string
		unkept  bool
	}{
		"nothing":      {handler: func(http.ResponseWriter, *http.Request) {}, status: 200},
		"a body alone": {handler: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "text") }, status: 200, body: "text"},
		"two statuses": {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(500) }, status: 201},
		"late headers": {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.Header().Set("X-Set", "late") }, status: 201},
		"no body": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			refused(t, w, http.ErrBodyNotAllowed)
		}, status: 204},
		"as a string": {handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "text") }, status: 200, body: "text"},
		"read from": {handler: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("text"))
		}, status: 200, body: "text"},
		"too long":         {handler: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, long) }, opts: []coordhttp.Option{coordhttp.MaxAnswer(100)}, status: 200, body: long, unkept: true},
		"too long, copied": {handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, strings.NewReader(long)) }, opts: []coordhttp.Option{coordhttp.MaxAnswer(100)}, status: 200, body: long, unkept: true},
		"too long in the end": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", long)
			fmt.Fprint(w, "text")
		}, opts: []coordhttp.Option{}, status: 200, body: "text", unkept: true},
		"flushed": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			fmt.Fprint(w, "te")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("xt"))
		}, status: 202, body: "text", unkept: true},
		"flushed, but held": {handler: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "te")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "xt")
		}, opts: []coordhttp.Option{coordhttp.HoldStreams()}, status: 200, body: "text"},
		"taken over": {handler: func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			refused(t, w, http.ErrHijacked)
			_, _ = rw.WriteString("HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\ntext")
			_ = rw.Flush()
		}, status: 202, body: "text", unkept: true},
	} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int64
			s := serve(t, coordtest.New(t, coordinator.WithMaxPayload(4096)).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				runs.Add(1)
				c.handler(w, r)
			}), c.opts...)
			first := s.post(t, "/", "", idem, "k")
			if first.status != c.status || first.body != c.body || first.header.Get("X-Set") != "" {
				t.Errorf("first %d %.50q", first.status, first.body)
			}
			eventually(t, "it is over", func() bool { return len(s.seen()) > 0 })
			again := s.post(t, "/", "", idem, "k")
			if c.unkept {
				wantProblem(t, again, 409, coordhttp.KindNotReplayable)
				if status := c.status; name != "taken over" && !strings.Contains(again.body, fmt.Sprintf(`"original_status":%d`, status)) {
					t.Errorf("%s", again.body)
				}
			} else if again.status != c.status || again.body != c.body || again.header.Get("Idempotency-Replayed") != "true" || again.header.Get("Content-Type") != first.header.Get("Content-Type") {
				t.Errorf("again %d %.50q %v", again.status, again.body, again.header)
			}
			if runs.Load() != 1 {
				t.Errorf("ran %d times", runs.Load())
			}
		})
	}
}

// refused wants a write to fail.
func refused(t *testing.T, w io.Writer, want error) {
	t.Helper()
	if _, err := w.Write([]byte("text")); !errors.Is(err, want) {
		t.Errorf("a write: %v; want %v", err, want)
	}
}

// A streamed answer arrives while the handler still works, and its trailers after it.
func TestStreamIsNotHeldBack(t *testing.T) {
	arrived := make(chan struct{})
	s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintln(w, "one")
		w.(http.Flusher).Flush()
		select {
		case <-arrived:
		case <-r.Context().Done():
			t.Error("the first line did not arrive")
		}
		fmt.Fprintln(w, "two")
		w.Header().Set("X-Sum", "2")
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
	}))
	request, err := http.NewRequestWithContext(t.Context(), "POST", s.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(idem, "k")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "one\n" {
		t.Fatalf("%q, %v", line, err)
	}
	close(arrived)
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "two\n" || response.Trailer.Get("X-Sum") != "2" || response.Trailer.Get("X-Late") != "late" {
		t.Errorf("%q, %v, %v", rest, response.Trailer, err)
	}
}

func TestEarlyHints(t *testing.T) {
	s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</other>; rel=next")
		w.WriteHeader(http.StatusCreated)
	}))
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, header.Get("Link")))
		return nil
	}})
	for range 2 {
		r, err := s.send(ctx, "POST", "/", "", idem, "k")
		if err != nil || r.status != 201 || fmt.Sprint(r.header.Values("Link")) != "[</other>; rel=next]" {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if fmt.Sprint(hints) != "[103</style.css>; rel=preload]" {
		t.Errorf("hints %v", hints)
	}
}

func TestPanicReleases(t *testing.T) {
	var runs atomic.Int64
	env := coordtest.New(t)
	once, err := coordhttp.New(env.Coordinator, coordhttp.SingleTenant())
	if err != nil {
		t.Fatal(err)
	}
	handler := once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if runs.Add(1) == 1 {
			fmt.Fprint(w, "half an ")
			panic("handler")
		}
		fmt.Fprint(w, "answer")
	}))
	request := func() *http.Request {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set(idem, "k")
		return r
	}
	func() {
		defer func() {
			if got := recover(); got != "handler" {
				t.Errorf("the panic went on as %v", got)
			}
		}()
		handler.ServeHTTP(httptest.NewRecorder(), request())
	}()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, request())
	if w.Body.String() != "answer" || runs.Load() != 2 {
		t.Errorf("%q, ran %d times", w.Body, runs.Load())
	}
}

// A status that is none panics before anything is stored, as it does in net/http.
func TestStatusThatIsNone(t *testing.T) {
	for _, status := range []int{0, 99, 1000} {
		env := coordtest.New(t)
		once, err := coordhttp.New(env.Coordinator, coordhttp.SingleTenant(), coordhttp.WithProfile(coordhttp.Stripe()))
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set(idem, "k")
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d: no panic", status)
				}
			}()
			once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })).ServeHTTP(httptest.NewRecorder(), r)
		}()
		w := httptest.NewRecorder()
		once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) })).ServeHTTP(w, r)
		if w.Code != 201 {
			t.Errorf("%d: then %d", status, w.Code)
		}
	}
}

// A goroutine of the handler's writes when the handler has returned.
func TestWriteAfterReturn(t *testing.T) {
	late, done := make(chan struct{}), make(chan error, 3)
	s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "text")
		go func() {
			<-late
			_, err := w.Write([]byte("late"))
			done <- err
			done <- http.NewResponseController(w).Flush()
			_, _, err = http.NewResponseController(w).Hijack()
			done <- err
		}()
	}))
	first := s.post(t, "/", "", idem, "k")
	close(late)
	for range 3 {
		if err := <-done; err == nil {
			t.Error("it was let write")
		}
	}
	if again := s.post(t, "/", "", idem, "k"); first.body != "text" || again.body != "text" {
		t.Errorf("%q, %q", first.body, again.body)
	}
}

// The marks of answers are the middleware's: a handler's own are neither kept nor replayed.
func TestMarksAreNotStored(t *testing.T) {
	for _, profile := range []coordhttp.Profile{coordhttp.Draft07(), coordhttp.Stripe()} {
		s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for _, name := range []string{profile.ReplayedHeader, "Idempotency-Unstored", "Idempotency-Unprotected"} {
				w.Header().Set(name, "false")
				w.Header().Set(http.TrailerPrefix+name, "false")
			}
		}), coordhttp.WithProfile(profile))
		s.post(t, "/", "", idem, "k")
		r := s.post(t, "/", "", idem, "k")
		if got := r.header.Values(profile.ReplayedHeader); fmt.Sprint(got) != "[true]" || r.header.Get("Idempotency-Unstored")+r.header.Get("Idempotency-Unprotected") != "" || len(r.trailer) > 0 {
			t.Errorf("%v, %v", r.header, r.trailer)
		}
	}
}

// What others around the middleware have set is theirs, and not stored.
func TestHeadersOfOthers(t *testing.T) {
	env := coordtest.New(t)
	once, err := coordhttp.New(env.Coordinator, coordhttp.SingleTenant())
	if err != nil {
		t.Fatal(err)
	}
	inner := once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, can := w.(interface{ CloseNotify() <-chan bool }); !can {
			t.Error("the writer is no http.CloseNotifier; net/http's own is")
		}
		if w.Header().Get("X-Request-Id") == "" {
			t.Error("the handler does not see what was set before")
		}
		w.Header().Set("X-Own", "own")
		w.Header().Set("X-Changed", "changed")
	}))
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", fmt.Sprint(requests.Add(1)))
		w.Header().Set("X-Changed", "before")
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s := &site{url: server.URL}
	for i := range 2 {
		if r := s.post(t, "/", "", idem, "k"); r.header.Get("X-Request-Id") != fmt.Sprint(i+1) || r.header.Get("X-Own") != "own" || r.header.Get("X-Changed") != "changed" {
			t.Errorf("%v", r.header)
		}
	}
}

// Stored answers: compressed, encrypted, moved, damaged, of a newer version, an operator's.
func TestStoredAnswers(t *testing.T) {
	env := coordtest.New(t)
	key := bytes.Repeat([]byte{1}, 32)
	encrypted := coordhttp.Encrypt(coordhttp.Encryption{Current: "a", Keys: map[string][]byte{"a": key}})
	text := strings.Repeat("text ", 1000)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
	single := coordhttp.SingleTenant()
	secret := serveAs(t, env.Coordinator, handler, single, encrypted, coordhttp.Compress(100))
	secret.post(t, "/", "", idem, "k")
	stored := env.Stored()
	if len(stored) != 1 || len(stored[0].Value) > 1000 || strings.Contains(stored[0].Value, "text") {
		t.Fatalf("stored: %d bytes", len(stored[0].Value))
	}
	if r := secret.post(t, "/", "", idem, "k"); r.body != text || r.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%d, %d bytes", r.status, len(r.body))
	}
	another := coordhttp.Encrypt(coordhttp.Encryption{Current: "a", Keys: map[string][]byte{"a": bytes.Repeat([]byte{2}, 32)}})
	for name, opts := range map[string][]coordhttp.Option{"no key": {single}, "another key": {single, another}} {
		t.Run(name, func(t *testing.T) {
			wantProblem(t, serveAs(t, env.Coordinator, handler, opts...).post(t, "/", "", idem, "k"), 500, coordhttp.KindAnswerUnreadable)
		})
	}

	// The record of one key put under another one.
	secret.post(t, "/", "", idem, "l")
	for _, e := range env.Stored() {
		if err := env.Client.Set(t.Context(), e.Name, stored[0].Value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	wantProblem(t, secret.post(t, "/", "", idem, "l"), 500, coordhttp.KindAnswerUnreadable)
	if r := secret.post(t, "/", "", idem, "k"); r.body != text {
		t.Errorf("%d, %d bytes", r.status, len(r.body))
	}
}

func TestDamagedAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(env *coordtest.Env, name, value string) error
	}{
		"another type": {func(env *coordtest.Env, name, _ string) error {
			if err := env.Client.Del(t.Context(), name).Err(); err != nil {
				return err
			}
			return env.Client.RPush(t.Context(), name, "x").Err()
		}},
		"a record of a newer version": {func(env *coordtest.Env, name, value string) error {
			return env.Client.Set(t.Context(), name, "2"+value[1:], 0).Err()
		}},
		"an answer of a newer version": {func(env *coordtest.Env, name, value string) error {
			return env.Client.Set(t.Context(), name, strings.Replace(value, "1pk", "2pk", 1), 0).Err()
		}},
		"cut off": {func(env *coordtest.Env, name, value string) error {
			return env.Client.Set(t.Context(), name, value[:strings.Index(value, "1pk")+4], 0).Err()
		}},
		"nothing of an answer": {func(env *coordtest.Env, name, value string) error {
			return env.Client.Set(t.Context(), name, value[:strings.Index(value, "1pk")], 0).Err()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			env := coordtest.New(t)
			var runs atomic.Int64
			s := serve(t, env.Coordinator, counted(&runs, 200))
			s.post(t, "/", "", idem, "k")
			record := env.Stored()[0]
			if err := c.damage(env, record.Name, record.Value); err != nil {
				t.Fatal(err)
			}
			wantProblem(t, s.post(t, "/", "", idem, "k"), 500, coordhttp.KindAnswerUnreadable)
			if runs.Load() != 1 {
				t.Errorf("ran %d times", runs.Load())
			}
		})
	}
}

// An operator's answer is replayed as a handler's, sealed as the middleware's options have it.
func TestSettledAsDone(t *testing.T) {
	ring := coordhttp.Encrypt(coordhttp.Encryption{Current: "a", Keys: map[string][]byte{"a": bytes.Repeat([]byte{1}, 32)}})
	text := []byte(strings.Repeat("receipt 17 ", 100))
	for name, opts := range map[string][]coordhttp.Option{"plain": {}, "sealed": {ring, coordhttp.Compress(100)}} {
		t.Run(name, func(t *testing.T) {
			env := coordtest.New(t)
			g := newGate()
			s := serveAs(t, env.Coordinator, g, append(opts, coordhttp.SingleTenant(), coordhttp.Quarantine())...)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = s.send(t.Context(), "POST", "/", "", idem, "k")
			}()
			key, _ := coordhttp.KeyFrom(within(t, 20*time.Second, "the handler runs", g.begun))
			env.Lapse(key)
			payload, err := coordhttp.Answer{Status: 202, Header: http.Header{"x-many": {"a", "b"}, "Set-Cookie": {"secret"}}, Body: text}.Payload(key, opts...)
			if err != nil {
				t.Fatal(err)
			}
			if err := env.Coordinator.Resolve(t.Context(), key, coordinator.Resolution{Payload: payload}); err != nil {
				t.Fatal(err)
			}
			r := s.post(t, "/", "", idem, "k")
			if r.status != 202 || r.body != string(text) || fmt.Sprint(r.header.Values("X-Many")) != "[a b]" || r.header.Get("Set-Cookie") != "" || r.header.Get("Idempotency-Replayed") != "true" {
				t.Errorf("%+v", r)
			}
			close(g.release)
			<-done
		})
	}
	key := coordinator.Key{ID: "k"}
	for name, call := range map[string]func() ([]byte, error){
		"a status":  func() ([]byte, error) { return coordhttp.Answer{Status: 99}.Payload(key) },
		"a key":     func() ([]byte, error) { return coordhttp.Answer{Status: 200}.Payload(coordinator.Key{}) },
		"an option": func() ([]byte, error) { return coordhttp.Answer{Status: 200}.Payload(key, nil) },
	} {
		if _, err := call(); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSettledAsFailed(t *testing.T) {
	env := coordtest.New(t)
	g := newGate()
	s := serveAs(t, env.Coordinator, g, coordhttp.SingleTenant(), coordhttp.Quarantine())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.send(t.Context(), "POST", "/", "", idem, "k")
	}()
	<-g.begun
	key := coordinator.Key{Scope: coordinator.JoinScope("*", "POST", "/"), ID: "k"}
	env.Lapse(key)
	wantProblem(t, s.post(t, "/", "", idem, "k"), 409, coordhttp.KindUncertain)
	if err := env.Coordinator.Resolve(t.Context(), key, coordinator.Resolution{Failed: true, Payload: []byte("refunded")}); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, s.post(t, "/", "", idem, "k"), 409, coordhttp.KindSettledAsFailed)
	close(g.release)
	<-done
}
