package wakeup

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// A subscription that is ended and begun again at once is confirmed anew, on the same connection.
func TestSubscribeAgainAtOnce(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	base, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	w := New[int](Host{
		Client: rdb, Base: base, Note: func(int) {}, Jitter: func(d time.Duration) time.Duration { return d },
		Start:   func(fn func()) bool { running.Go(fn); return true },
		BackOff: func(ctx context.Context, _ int) bool { return ctx.Err() == nil },
	})
	ready := func(s *subscription) {
		t.Helper()
		select {
		case <-s.ready:
		case <-time.After(5 * time.Second):
			t.Fatal("it never became ready")
		}
	}
	other := w.hub.subscribe("other") // keeps the connection
	ready(other)
	s := w.hub.subscribe("name")
	ready(s)
	for range 50 {
		s.end()
		s = w.hub.subscribe("name")
		ready(s)
	}
	if err := rdb.Publish(t.Context(), "name", "").Err(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.woken:
	case <-time.After(5 * time.Second):
		t.Fatal("a message woke nobody")
	}
	s.end()
	other.end()
}
