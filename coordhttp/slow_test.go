package coordhttp_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/coordtest"
)

// ask sends a request whose answer nobody reads.
func (s *site) ask(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n")
}

// tooLong writes more than any buffer on the way to a client takes.
func tooLong(w http.ResponseWriter, announced bool) error {
	const pieces = 64
	text := bytes.Repeat([]byte("x"), 1<<20)
	if announced {
		w.Header().Set("Content-Length", fmt.Sprint(pieces*len(text)))
	}
	for range pieces {
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// A client that does not read its answer does not hold the lease until it ends, and so have the work done again.
func TestClientThatDoesNotRead(t *testing.T) {
	for name, c := range map[string]struct {
		opts      []coordhttp.Option
		announced bool
	}{
		"detached":                {opts: []coordhttp.Option{coordhttp.DetachHandler()}},
		"detached, with a length": {opts: []coordhttp.Option{coordhttp.DetachHandler()}, announced: true},
		"not detached":            {},
		"with a length":           {announced: true},
	} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int64
			s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				runs.Add(1)
				if err := tooLong(w, c.announced); (err == nil) != strings.HasPrefix(name, "detached") {
					t.Errorf("the write: %v", err)
				}
			}), append(c.opts, coordhttp.WriteTimeout(100*time.Millisecond))...)
			s.ask(t)
			eventually(t, "it is over", func() bool { return s.seen()[coordhttp.OutcomeUnkept] == 1 })
			wantProblem(t, s.post(t, "/", "", idem, "k"), 409, coordhttp.KindNotReplayable)
			if runs.Load() != 1 {
				t.Errorf("ran %d times", runs.Load())
			}
		})
	}
}

// Nobody waits for such a client any longer than the lease is there.
func TestClientThatDoesNotReadAndALostLease(t *testing.T) {
	env := coordtest.New(t)
	begun, ended := make(chan struct{}, 2), make(chan error, 2)
	s := serveAs(t, env.Coordinator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 600<<10))
		begun <- struct{}{}
		ended <- tooLong(w, false)
	}), coordhttp.SingleTenant(), coordhttp.WriteTimeout(time.Hour))
	s.ask(t)
	within(t, 20*time.Second, "the handler runs", begun)
	if err := env.Coordinator.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, 20*time.Second, "the write", ended); err == nil {
		t.Error("it was written")
	}
}

// A stream may pause for longer than a client may, and ends as it should.
func TestSlowStreams(t *testing.T) {
	const piece = 64 << 10
	once, err := coordhttp.New(coordtest.New(t).Coordinator, coordhttp.SingleTenant(), coordhttp.WriteTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	handler := once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 2 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), piece))
			w.(http.Flusher).Flush()
			pause := time.NewTimer(200 * time.Millisecond)
			select {
			case <-pause.C:
			case <-r.Context().Done():
				t.Error("the client has gone")
			}
		}
		fmt.Fprint(w, "end")
	}))
	for name, h2 := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(handler)
			server.EnableHTTP2 = h2
			server.StartTLS()
			t.Cleanup(server.Close)
			request, err := http.NewRequestWithContext(t.Context(), "POST", server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set(idem, name)
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); err != nil || len(body) != 2*piece+3 || h2 != (response.ProtoMajor == 2) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
		})
	}
}

// The length that a handler announces is a number, and no more than that is written; an answer that is shorter is none.
func TestAnnouncedLengths(t *testing.T) {
	for name, c := range map[string]struct {
		length  string
		flushed bool
		want    string // nothing: the connection ends
		err     error
		again   string // nothing: not replayable
	}{
		"as long":           {length: "4", want: "text", again: "text"},
		"another writing":   {length: "04", want: "text", again: "text"},
		"no number":         {length: "four", want: "text", again: "text"},
		"too long":          {length: "3", want: "tex", err: http.ErrContentLength, again: "tex"},
		"too short":         {length: "5", again: "text"},
		"too long, flushed": {length: "3", flushed: true, want: "tex", err: http.ErrContentLength},
		"as long, flushed":  {length: "4", flushed: true, want: "text"},
		"short, flushed":    {length: "5", flushed: true, again: "text"},
	} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int64
			s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if n := runs.Add(1); n == 1 {
					w.Header().Set("Content-Length", c.length)
					if c.flushed {
						w.(http.Flusher).Flush()
					}
				}
				if n, err := w.Write([]byte("text")); err != c.err || err != nil && n != 3 {
					t.Errorf("wrote %d, %v; want %v", n, err, c.err)
				}
			}))
			first, err := s.send(t.Context(), "POST", "/", "", idem, "k")
			if (err == nil) != (c.want != "") || err == nil && first.body != c.want {
				t.Errorf("%+v, %v", first, err)
			}
			want := int64(1)
			if c.want == "" {
				want = 2 // it has no answer
			}
			if again := s.post(t, "/", "", idem, "k"); c.again == "" {
				wantProblem(t, again, 409, coordhttp.KindNotReplayable)
			} else if again.body != c.again {
				t.Errorf("again %+v", again)
			}
			if runs.Load() != want {
				t.Errorf("ran %d times instead of %d", runs.Load(), want)
			}
		})
	}
}
