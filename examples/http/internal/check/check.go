// Package check is the test that every payment service has to pass, whatever it is made with.
package check

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// Service makes a handler with POST /charges.
type Service func(*coordinator.Coordinator) (http.Handler, error)

// Bench is a service behind a listener, and its coordinator.
type Bench struct {
	URL  string
	runs atomic.Int64
	keys sync.Map // coordinator.Key, of each claim
}

// Begin makes Bench a coordinator.Observer, which sees what answers do not tell: how often a handler booked, and in which scope.
func (b *Bench) Begin(ctx context.Context, _ string) (context.Context, func(coordinator.Event)) {
	return ctx, func(e coordinator.Event) {
		switch e.Op {
		case "fence_do":
			b.runs.Add(1)
		case "claim":
			b.keys.Store(e.Key, true)
		}
	}
}

// Note is of no interest here.
func (*Bench) Note(coordinator.Event) {}

// Runs is how often a handler has booked since the last call.
func (b *Bench) Runs() int64 { return b.runs.Swap(0) }

// Scopes are those that the middleware has claimed keys in.
func (b *Bench) Scopes() []string {
	scopes := []string{}
	b.keys.Range(func(key, _ any) bool {
		scopes = append(scopes, key.(coordinator.Key).Scope)
		return true
	})
	return scopes
}

// Start runs a service on a Redis of its own.
func Start(t *testing.T, service Service) *Bench {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	b := &Bench{}
	c, err := coordinator.New(rdb, coordinator.WithObserver(b))
	if err != nil {
		t.Fatal(err)
	}
	handler, err := service(c)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.Close()
		_, _ = c.Close(), rdb.Close()
	})
	b.URL = server.URL
	return b
}

// Answer is what came back.
type Answer struct {
	Status   int
	Header   http.Header // without Date and the mark of replays
	Body     string
	Replayed bool
}

// Post sends body to path with tenant's token and a key.
func (b *Bench) Post(t *testing.T, path, tenant, key, body string) Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{
		"Authorization":   {"Bearer token-of-" + tenant},
		"Content-Type":    {"application/json"},
		"Idempotency-Key": {`"` + key + `"`},
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err) // not Fatal: this may be another goroutine than the test's
		return Answer{}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	a := Answer{Status: response.StatusCode, Header: response.Header, Body: string(text)}
	a.Replayed = a.Header.Get("Idempotency-Replayed") == "true"
	a.Header.Del("Idempotency-Replayed")
	a.Header.Del("Date")
	return a
}

// Same reports where two answers differ.
func Same(t *testing.T, a, b Answer) {
	t.Helper()
	if a.Status != b.Status || a.Body != b.Body || !maps.EqualFunc(a.Header, b.Header, slices.Equal) {
		t.Errorf("%+v\nand\n%+v\nare not the same answer", a, b)
	}
}

// keys of the tests, version 4 so that they have no age.
const (
	key1 = "8e03978e-40d5-43dd-bc93-6894a57f9324"
	key2 = "5b4d7c0e-93c1-4a52-8f0d-2f6d0e1c7a11"
	key3 = "c7a1f6de-1b7f-4f0b-9a53-6c9a3d1f2e42"
)

// Once is the test; scope is the one of POST /charges for the tenant acme.
func Once(t *testing.T, service Service, scope string) {
	b := Start(t, service)
	first := b.Post(t, "/charges", "acme", key1, `{"cents":1000}`)
	if first.Status != http.StatusCreated || first.Replayed || b.Runs() != 1 || first.Header.Get("Location") != "/charges/"+key1 ||
		strings.TrimSpace(first.Body) != `{"id":"`+key1+`","cents":1000}` {
		t.Fatalf("the first request: %+v", first)
	}
	if scopes := b.Scopes(); !slices.Equal(scopes, []string{scope}) {
		t.Errorf("the scopes are %q, want %q", scopes, scope)
	}
	replay := b.Post(t, "/charges", "acme", key1, `{"cents":1000}`)
	if Same(t, first, replay); !replay.Replayed || b.Runs() != 0 {
		t.Errorf("the second request was not a replay: %+v", replay)
	}
	if other := b.Post(t, "/charges", "acme", key1, `{"cents":9900}`); other.Status != http.StatusUnprocessableEntity || b.Runs() != 0 {
		t.Errorf("another payload: %+v, want 422", other)
	}
	if other := b.Post(t, "/charges", "zeta", key1, `{"cents":9900}`); other.Status != http.StatusCreated || other.Replayed || b.Runs() != 1 {
		t.Errorf("another tenant with the same key: %+v, want a charge of its own", other)
	}
	refused(t, b)
	together(t, b)
}

// refused has a handler refuse a request: that answer is replayed too.
func refused(t *testing.T, b *Bench) {
	t.Helper()
	first := b.Post(t, "/charges", "acme", key2, `{"cents":0}`)
	replay := b.Post(t, "/charges", "acme", key2, `{"cents":0}`)
	if Same(t, first, replay); first.Status != http.StatusBadRequest || first.Body == "" || first.Replayed || !replay.Replayed {
		t.Errorf("a charge of nothing: %+v, then %+v; want 400 and its replay", first, replay)
	}
}

// together sends one request twenty times at once.
func together(t *testing.T, b *Bench) {
	t.Helper()
	answers := make([]Answer, 20)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = b.Post(t, "/charges", "acme", key3, `{"cents":500}`) })
	}
	all.Wait()
	firsts := 0
	for _, a := range answers {
		Same(t, answers[0], a)
		if a.Status != http.StatusCreated {
			t.Errorf("one of twenty: %+v", a)
		}
		if !a.Replayed {
			firsts++
		}
	}
	if runs := b.Runs(); runs != 1 || firsts != 1 {
		t.Errorf("twenty at once: %d bookings, %d first answers; want one of each", runs, firsts)
	}
}
