package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

const sameWeb = `The middleware of coordhttp around a handler that answers with 512 bytes, called in the process, without a listener. What it costs by
itself is its CPU less that of a claim and completion of the same bytes, and less that of the handler alone with the same request. Round trips are counted on the connections.`

// web is row 12.
func (l *lab) web(ctx context.Context) ([]figure, error) {
	c, done, err := l.ours()
	if err != nil {
		return nil, err
	}
	defer done()
	near := func(opts redis.Options) *redis.Client {
		opts.Addr = l.server.Addr()
		return redis.NewClient(&opts)
	}
	one := newKey().ID
	always := func() string { return one }
	// What both sides of the subtraction would have, a key and a context that ends, the handler alone has not: it is taken off once.
	contenders := []contender{l.requests(c, freshID), l.claimAndComplete(c), l.requests(nil, always)}
	paces, err := l.race(ctx, l.callers, contenders, l.clear)
	if err != nil {
		return nil, err
	}
	own := make([]float64, len(paces[0]))
	for i := range own {
		own[i] = paces[0][i].client - paces[1][i].client - paces[2][i].client
	}
	fresh, err := l.trips(ctx, l.rounds, near, func(c *coordinator.Coordinator) contender { return l.requests(c, freshID) })
	if err != nil {
		return nil, err
	}
	replay, err := l.trips(ctx, l.rounds, near, func(c *coordinator.Coordinator) contender { return l.requests(c, always) })
	if err != nil {
		return nil, err
	}
	return append([]figure{
		figureOf("web_own_cpu", "CPU of the middleware's own for a fresh request", "µs", own).atMost(15),
		figureOf("web_fresh_trips", "round trips of a fresh request", "", fresh).atMost(2),
		figureOf("web_replay_trips", "round trips of a replay", "", replay).atMost(1),
	}, details("web", contenders, paces)...), nil
}

// freshID is a key as coordhttp.Transport makes them: one that says when it was made.
func freshID() string { return uuid.Must(uuid.NewV7()).String() }

// requests sends requests to a handler behind the middleware, or to the handler alone where there is no coordinator.
func (l *lab) requests(c *coordinator.Coordinator, id func() string) contender {
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(l.result)
	})
	name := "handler alone"
	var failed error
	if c != nil {
		name = "middleware"
		var once func(http.Handler) http.Handler
		if once, failed = coordhttp.New(c, coordhttp.SingleTenant()); failed == nil {
			handler = once(handler)
		}
	}
	body := []byte("10 EUR")
	return contender{name, func(ctx context.Context) error {
		if failed != nil {
			return failed
		}
		if c != nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx) // as a server's
			defer cancel()
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/payments", bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Idempotency-Key", id())
		w := sink{header: http.Header{}}
		handler.ServeHTTP(&w, r)
		if w.status != http.StatusCreated || w.size != len(l.result) {
			return fmt.Errorf("%s answered %d with %d bytes", name, w.status, w.size)
		}
		return nil
	}}
}

// claimAndComplete does of the coordinator's what the middleware has it do: an answer that long, and a fingerprint.
func (l *lab) claimAndComplete(c *coordinator.Coordinator) contender {
	stored := append(make([]byte, len(l.result), len(l.result)+64), make([]byte, 64)...)
	sum := sha256.Sum256(stored)
	return contender{"claim and complete", func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		key := coordinator.Key{Scope: coordinator.JoinScope("*", "POST", "/payments"), ID: freshID()}
		lease, err := c.Claim(ctx, key, coordinator.Fingerprint(sum[:]))
		if err != nil {
			return err
		}
		return lease.Complete(ctx, stored)
	}}
}

// sink is a writer to nowhere.
type sink struct {
	header http.Header
	status int
	size   int
}

func (s *sink) Header() http.Header    { return s.header }
func (s *sink) WriteHeader(status int) { s.status = status }
func (s *sink) Write(p []byte) (int, error) {
	s.size += len(p)
	return len(p), nil
}
