package redistest

import (
	"context"
	"sync"
	"testing"
)

// Pool holds servers which the tests of one package share, because a cluster
// takes seconds to start and many tests can use the same one. The zero value
// is ready for use. TestMain owns it:
//
//	var pool redistest.Pool
//
//	func TestMain(m *testing.M) {
//		code := m.Run()
//		pool.Stop()
//		os.Exit(code)
//	}
//
// The servers are not emptied between tests; tests use keys of their own.
// Tests which break servers must not run in parallel with others.
type Pool struct {
	server  shared[Server]
	cluster shared[Cluster]
}

// shared is something started by the first who needs it.
type shared[T any] struct {
	once  sync.Once
	value *T
	err   error
}

func (s *shared[T]) get(tb testing.TB, start func() (*T, error)) *T {
	tb.Helper()
	Need(tb)
	s.once.Do(func() { s.value, s.err = start() })
	if s.err != nil {
		tb.Fatal(s.err)
	}
	return s.value
}

// Server returns the shared standalone server, started by the first call, and
// mended if a test before has killed or paused it.
func (p *Pool) Server(tb testing.TB) *Server {
	tb.Helper()
	s := p.server.get(tb, func() (*Server, error) { return Start(context.Background()) })
	var err error
	switch {
	case s.responsive():
	case s.PID() != 0:
		err = s.Resume()
	default:
		err = s.Restart(context.Background())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Cluster returns the shared cluster of three masters with a replica each,
// started by the first call, and healed from what tests before did to it.
func (p *Pool) Cluster(tb testing.TB) *Cluster {
	tb.Helper()
	c := p.cluster.get(tb, func() (*Cluster, error) { return StartCluster(context.Background(), 3, 1) })
	if err := c.Heal(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return c
}

// Stop ends whatever was started. The pool cannot be used afterwards.
func (p *Pool) Stop() {
	if s := p.server.value; s != nil {
		s.Stop()
	}
	if c := p.cluster.value; c != nil {
		c.Stop()
	}
}
