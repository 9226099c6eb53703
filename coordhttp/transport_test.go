package coordhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator"
)

// script is a server, as a RoundTripper, that answers by a list.
type script struct {
	answers []any // a status, a status with headers in pairs, or an error
	keys    []string
	bodies  []string
	pauses  []time.Duration
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	body := ""
	if r.Body != nil {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(text)
		_ = r.Body.Close()
	}
	s.keys, s.bodies = append(s.keys, r.Header.Get("Idempotency-Key")), append(s.bodies, body)
	answer := s.answers[min(len(s.keys), len(s.answers))-1]
	switch a := answer.(type) {
	case error:
		return nil, a
	case int:
		return &http.Response{StatusCode: a, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("answer"))}, nil
	default:
		parts := a.([]string)
		h := http.Header{}
		for i := 1; i < len(parts); i += 2 {
			h.Set(parts[i], parts[i+1])
		}
		var status int
		_, _ = fmt.Sscan(parts[0], &status)
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("answer"))}, nil
	}
}

func (s *script) transport() *Transport {
	return &Transport{Base: s, wait: func(ctx context.Context, d time.Duration) error {
		s.pauses = append(s.pauses, d)
		return ctx.Err()
	}}
}

var errNet = errors.New("connection reset")

func TestTransportRetries(t *testing.T) {
	for name, c := range map[string]struct {
		answers []any
		tries   int
		status  int // 0: an error
	}{
		"done":                       {[]any{201}, 1, 201},
		"a network error":            {[]any{errNet, errNet, 201}, 3, 201},
		"network errors":             {[]any{errNet}, 6, 0},
		"unavailable":                {[]any{503, 502, 500, 201}, 4, 201},
		"always unavailable":         {[]any{503}, 6, 503},
		"too early, too many":        {[]any{425, 429, 201}, 3, 201},
		"in progress":                {[]any{[]string{"409", "Retry-After", "1"}, 201}, 2, 201},
		"a conflict":                 {[]any{409, 201}, 1, 409},
		"another payload":            {[]any{[]string{"422", "Retry-After", "1"}, 201}, 1, 422},
		"malformed":                  {[]any{400, 201}, 1, 400},
		"a replay of 500":            {[]any{[]string{"500", "Idempotent-Replayed", "true"}, 201}, 1, 500},
		"a replay of 503":            {[]any{[]string{"503", "Idempotency-Replayed", "true"}, 201}, 1, 503},
		"not implemented":            {[]any{501, 201}, 1, 501},
		"not for an hour":            {[]any{[]string{"503", "Retry-After", "3600"}, 201}, 1, 503},
		"not for ever":               {[]any{[]string{"409", "Retry-After", "99999999999999999999"}, 201}, 1, 409},
		"a Retry-After that is none": {[]any{[]string{"503", "Retry-After", "soon"}, 201}, 2, 201},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: c.answers}
			request, err := http.NewRequestWithContext(t.Context(), "POST", "http://example.com", io.NopCloser(strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			response, err := s.transport().RoundTrip(request)
			if c.status == 0 != (err != nil) || err == nil && response.StatusCode != c.status {
				t.Fatalf("%+v, %v", response, err)
			}
			if err == nil {
				if text, err := io.ReadAll(response.Body); err != nil || string(text) != "answer" {
					t.Errorf("the body that is returned: %q, %v", text, err)
				}
			}
			if len(s.keys) != c.tries {
				t.Errorf("%d tries; want %d", len(s.keys), c.tries)
			}
			for i := range s.keys {
				if s.keys[i] != s.keys[0] || s.bodies[i] != "body" {
					t.Errorf("try %d: key %s, body %q; the first had %s", i+1, s.keys[i], s.bodies[i], s.keys[0])
				}
			}
			key, err := readKey(http.Header{"K": {s.keys[0]}}, "K", true)
			if _, v7 := coordinator.UUIDv7Time(key); err != nil || !v7 {
				t.Errorf("the key %s: %v", s.keys[0], err)
			}
			if len(request.Header) != 0 {
				t.Errorf("the caller's request was changed: %v", request.Header)
			}
		})
	}
}

func TestTransportPauses(t *testing.T) {
	s := &script{answers: []any{503, 503, []string{"503", "Retry-After", "7"}, 503, 201}}
	request, err := http.NewRequestWithContext(t.Context(), "POST", "http://example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.transport().RoundTrip(request)
	if err != nil || response.StatusCode != 201 || len(s.pauses) != 4 {
		t.Fatalf("%v, %v", s.pauses, err)
	}
	for i, limits := range [][2]time.Duration{{100, 300}, {200, 600}, {7000, 7000}, {800, 2400}} {
		if d := s.pauses[i]; d < limits[0]*time.Millisecond || d > limits[1]*time.Millisecond {
			t.Errorf("pause %d: %v; want %d to %d ms", i+1, d, limits[0], limits[1])
		}
	}
}

func TestTransportKeys(t *testing.T) {
	send := func(transport *Transport, s *script, ctx context.Context, method string, header http.Header) (string, error) {
		s.answers, s.keys = []any{200}, nil
		transport.Base = s
		request, err := http.NewRequestWithContext(ctx, method, "http://example.com", nil)
		if err != nil {
			return "", err
		}
		request.Header = header
		if _, err = transport.RoundTrip(request); err != nil {
			return "", err
		}
		return s.keys[0], nil
	}
	s := &script{}
	if got, err := send(&Transport{}, s, t.Context(), "GET", http.Header{}); err != nil || got != "" {
		t.Errorf("GET got the key %q, %v", got, err)
	}
	if got, err := send(&Transport{}, s, WithKey(t.Context(), `a "b"`), "POST", nil); err != nil || got != `"a \"b\""` {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := send(&Transport{Raw: true}, s, WithKey(t.Context(), "a"), "POST", http.Header{}); err != nil || got != "a" {
		t.Errorf("raw: %q, %v", got, err)
	}
	if got, err := send(&Transport{}, s, WithKey(t.Context(), "a"), "POST", http.Header{"Idempotency-Key": {"own"}}); err != nil || got != "own" {
		t.Errorf("the caller's own: %q, %v", got, err)
	}
	if got, err := send(&Transport{}, s, t.Context(), "POST", http.Header{"idempotency-key": {"own"}}); err != nil || got != "" {
		t.Errorf("the caller's own, in small letters: %q, %v", got, err)
	}
	if got, err := send(&Transport{NewKey: func() (string, error) { return "made", nil }}, s, t.Context(), "PATCH", http.Header{}); err != nil || got != `"made"` {
		t.Errorf("made: %q, %v", got, err)
	}
	for name, transport := range map[string]*Transport{
		"not ASCII": {NewKey: func() (string, error) { return "ü", nil }},
		"empty":     {NewKey: func() (string, error) { return "", nil }},
		"too long":  {NewKey: func() (string, error) { return strings.Repeat("k", 300), nil }},
		"two raw":   {Raw: true, NewKey: func() (string, error) { return "a,b", nil }},
		"none":      {NewKey: func() (string, error) { return "", errNet }},
	} {
		if got, err := send(transport, s, t.Context(), "POST", http.Header{}); err == nil || len(s.keys) > 0 {
			t.Errorf("%s: sent %q", name, got)
		}
	}
}

// A body that is too long to be held is sent whole, and once.
func TestTransportLongBody(t *testing.T) {
	s := &script{answers: []any{503, 201}}
	transport := s.transport()
	transport.MaxBody = 10
	request, err := http.NewRequestWithContext(t.Context(), "POST", "http://example.com", io.NopCloser(strings.NewReader("longer than ten")))
	if err != nil {
		t.Fatal(err)
	}
	if response, err := transport.RoundTrip(request); err != nil || response.StatusCode != 503 || fmt.Sprint(s.bodies) != "[longer than ten]" {
		t.Errorf("%v, %v", s.bodies, err)
	}
}

// What there is when the context will not outlast the pause is returned, rather than the end of the context.
func TestTransportEndsInTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s := &script{answers: []any{[]string{"503", "Retry-After", "8"}}}
	request, err := http.NewRequestWithContext(ctx, "POST", "http://example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := s.transport().RoundTrip(request); err != nil || response.StatusCode != 503 || len(s.keys) != 1 {
		t.Errorf("%v after %d tries", err, len(s.keys))
	}
	// Its end in a pause, by the real clock.
	ending, end := context.WithCancelCause(t.Context())
	s = &script{answers: []any{503}}
	transport := &Transport{Base: s, Pause: time.Hour, MaxPause: time.Hour}
	result := make(chan error, 1)
	go func() {
		_, err := transport.RoundTrip(request.Clone(ending))
		result <- err
	}()
	end(errNet)
	if err := <-result; err != nil && !errors.Is(err, errNet) {
		t.Errorf("%v", err)
	}
}

// A request that cannot be sent is not tried again.
func TestTransportGivesUpAtOnce(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"a header's value": func(r *http.Request) { r.Header.Set("X-Set", "a\nb") },
		"a header's name":  func(r *http.Request) { r.Header["a b"] = []string{"c"} },
		"a trailer's name": func(r *http.Request) { r.Trailer = http.Header{"a b": {"c"}} },
		"a scheme":         func(r *http.Request) { r.URL.Scheme = "gopher" },
		"a method":         func(r *http.Request) { r.Method = "A B" },
		"no host":          func(r *http.Request) { r.URL.Host = "" },
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1:1", nil)
			if err != nil {
				t.Fatal(err)
			}
			change(request)
			pauses := 0
			transport := &Transport{wait: func(context.Context, time.Duration) error { pauses++; return nil }}
			if response, err := transport.RoundTrip(request); err == nil || pauses > 0 {
				t.Errorf("%+v, %v, tried %d times more", response, err, pauses)
			}
		})
	}
}

// A redirect that repeats the request repeats its key, however often.
func TestTransportKeepsItsKeyOverRedirects(t *testing.T) {
	var keys []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("X-Key"))
		switch r.URL.Path {
		case "/":
			http.Redirect(w, r, "/next", http.StatusTemporaryRedirect)
		case "/next":
			http.Redirect(w, r, "/last", http.StatusPermanentRedirect)
		}
	}))
	t.Cleanup(server.Close)
	client := &http.Client{Transport: &Transport{Header: "X-Key"}}
	response, err := client.Post(server.URL, "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if len(keys) != 3 || keys[0] == "" || keys[1] != keys[0] || keys[2] != keys[0] {
		t.Errorf("%q", keys)
	}
}
