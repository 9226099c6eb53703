package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// lease is short, so that a run shows in seconds what otherwise takes minutes.
const lease = 600 * time.Millisecond

// worker is one instance of the service, as a process of its own would be: it has its own Redis client,
// coordinator and HTTP server, can crash, and can be paused.
type worker struct {
	name   string
	url    string
	rdb    redis.UniversalClient
	coord  *coordinator.Coordinator
	server *http.Server
	gate   *gate

	mu       sync.Mutex
	down     bool           // no request may begin any more
	requests sync.WaitGroup // those that have
	serving  chan struct{}  // closed when the server has stopped
}

func (f *fleet) newWorker(name string) (*worker, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("%s cannot listen: %w", name, err)
	}
	w := &worker{name: name, url: "http://" + listener.Addr().String() + "/payments", gate: newGate(), serving: make(chan struct{})}
	w.rdb = f.redis.client(f.network.dial)
	w.rdb.AddHook(w.gate)
	w.coord, err = coordinator.New(w.rdb,
		coordinator.WithPrefix(f.prefix),
		coordinator.WithLease(lease),
		coordinator.WithTimeout(3*lease),
		coordinator.WithRetention(ledgerTime))
	if err != nil {
		return nil, errors.Join(err, listener.Close(), w.rdb.Close())
	}
	s := &service{
		worker: name, coord: w.coord, tally: f.tally, diary: f.diary,
		ledger: &ledger{rdb: w.rdb, coord: w.coord, name: f.ledger.name, fenced: f.ledger.fenced},
		strike: func(at moment, payment string) error { return f.strike(w, at, payment) },
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", s.post)
	w.server = &http.Server{Handler: w.whileUp(mux), ReadHeaderTimeout: time.Second}
	go func() {
		defer close(w.serving)
		_ = w.server.Serve(listener) // returns when the server is closed
	}()
	return w, nil
}

// whileUp keeps account of the requests, so that stop can wait for them.
func (w *worker) whileUp(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		down := w.down
		if !down {
			w.requests.Add(1)
		}
		w.mu.Unlock()
		if down {
			panic(http.ErrAbortHandler) // a dead process answers nothing
		}
		defer w.requests.Done()
		next.ServeHTTP(rw, r)
	})
}

func (w *worker) isDown() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down
}

// crash ends the worker as kill -9 would: connections break, nothing is finished and nothing given back.
// What it held stays held until the leases lapse.
func (w *worker) crash() {
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	_ = w.server.Close()
	_ = w.coord.Close()
	_ = w.rdb.Close()
}

// stop ends the worker for good, crashed or not, and returns when nothing of it is left.
func (w *worker) stop(ctx context.Context) {
	_ = w.server.Shutdown(ctx)
	w.crash()
	w.requests.Wait()
	<-w.serving
}

// gate stands between a worker and Redis. While it is shut nothing of the worker gets out, renewals
// neither: so a process looks from outside whose garbage collector, or host, has stopped it. Afterwards
// everything goes out late.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

// shut closes the gate until the function that it returns is called.
func (g *gate) shut() (reopen func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	open := make(chan struct{})
	g.open = open
	return func() { close(open) }
}

// pass returns when the gate is open.
func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
}

// The three hooks make the gate a redis.Hook.

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }

func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		g.pass()
		return next(ctx, cmd)
	}
}

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		g.pass()
		return next(ctx, cmds)
	}
}
