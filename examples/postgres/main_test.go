package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordpg"
	"github.com/onceward/coordinator/internal/pgtest"
)

// process is the service running, on servers that a test can break.
type process struct {
	pool    *pgxpool.Pool
	redis   *miniredis.Miniredis
	handler http.Handler

	mu   sync.Mutex
	told map[int64]Payout // by the outbox
	stop func() error
}

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	os.Exit(m.Run())
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func start(t *testing.T, url string, server *miniredis.Miniredis) *process {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := coordinator.New(rdb, coordinator.WithTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p := &process{pool: pool, redis: server, told: map[int64]Payout{}}
	tell := func(_ context.Context, events []coordpg.Event) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range events {
			var payout Payout
			if err := json.Unmarshal(e.Payload, &payout); err != nil {
				return err
			}
			p.told[payout.ID] = payout
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan http.Handler), make(chan error, 1)
	go func() {
		ended <- Run(ctx, pool, c, tell, func(ctx context.Context, h http.Handler) error {
			ready <- h
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	p.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	select {
	case p.handler = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.stop() })
	return p
}

// ask sends a request, and again while it is told to.
func (p *process) ask(t *testing.T, id, body string) *httptest.ResponseRecorder {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/payouts", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer token-of-acme")
		r.Header.Set("Idempotency-Key", id)
		w := httptest.NewRecorder()
		p.handler.ServeHTTP(w, r)
		if w.Code != http.StatusServiceUnavailable && w.Code != http.StatusConflict || time.Now().After(deadline) {
			return w
		}
	}
}

func (p *process) number(t *testing.T, sql string) (n int64) {
	t.Helper()
	if err := p.pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestService(t *testing.T) {
	url, server := pgtest.Run(t).URL(), miniredis.RunT(t)
	first, second := start(t, url, server), start(t, url, server)
	processes := []*process{first, second}

	// The same request twenty times, to both processes.
	var made atomic.Int64
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			w := processes[i%2].ask(t, "one", `{"cents":1000}`)
			var p Payout
			if err := json.NewDecoder(w.Body).Decode(&p); err != nil || w.Code != http.StatusCreated || p.Cents != 1000 {
				t.Errorf("%d %+v %v", w.Code, p, err)
			}
			if w.Header().Get("Idempotent-Replayed") == "" {
				made.Add(1)
			}
		})
	}
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("%d were not replays", n)
	}

	// What a client may not do, and what it hears then, the second time too, also when Redis has lost everything.
	for range 2 {
		for _, test := range []struct {
			id, body string
			status   int
		}{
			{"two", `{"cents":99001}`, http.StatusPaymentRequired},
			{"one", `{"cents":1001}`, http.StatusUnprocessableEntity},
			{"one", `{"cents":1000}`, http.StatusCreated},
			{"three", `{"cents":0}`, http.StatusBadRequest},
			{"", `{"cents":1}`, http.StatusBadRequest},
		} {
			if w := first.ask(t, test.id, test.body); w.Code != test.status {
				t.Errorf("%s %s: %d %s", test.id, test.body, w.Code, w.Body)
			}
		}
		server.FlushAll()
	}
	if payouts, cents := first.number(t, `SELECT count(*) FROM payouts`), first.number(t, `SELECT cents FROM accounts WHERE id = 'acme'`); payouts != 1 || cents != 99000 {
		t.Errorf("%d payouts, %d cents left", payouts, cents)
	}

	// Code that does not ask is refused.
	for _, sql := range []string{`UPDATE accounts SET cents = 0`, `INSERT INTO payouts (account, cents) VALUES ('acme', 5)`, `DELETE FROM payouts`} {
		if _, err := first.pool.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "not admitted") {
			t.Errorf("%s: %v", sql, err)
		}
	}

	// Without Redis the database coordinates.
	server.Close()
	if w := first.ask(t, "four", `{"cents":2000}`); w.Code != http.StatusCreated || w.Header().Get("Idempotent-Replayed") != "" {
		t.Errorf("without Redis: %d %s", w.Code, w.Body)
	}
	for _, id := range []string{"one", "four"} {
		if w := second.ask(t, id, map[string]string{"one": `{"cents":1000}`, "four": `{"cents":2000}`}[id]); w.Header().Get("Idempotent-Replayed") == "" {
			t.Errorf("%s without Redis: %d %s", id, w.Code, w.Body)
		}
	}

	// The bank was told of both payouts, and of nothing else.
	deadline := time.Now().Add(20 * time.Second)
	told := func() map[int64]Payout {
		all := map[int64]Payout{}
		for _, p := range processes {
			p.mu.Lock()
			for id, payout := range p.told {
				all[id] = payout
			}
			p.mu.Unlock()
		}
		return all
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for first.number(t, `SELECT count(*) FROM coordinator.outbox`) > 0 && time.Now().Before(deadline) {
		<-tick.C
	}
	sum := int64(0)
	for _, payout := range told() {
		sum += payout.Cents
	}
	if len(told()) != 2 || sum != 3000 {
		t.Errorf("told of %v", told())
	}
	for _, p := range processes {
		if err := p.stop(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	start(t, url, server) // on tables that are there
}

func TestStrangers(t *testing.T) {
	w := httptest.NewRecorder()
	(&Service{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/payouts", strings.NewReader(`{"cents":1}`)))
	if w.Code != http.StatusUnauthorized {
		t.Error(w.Code)
	}
}
