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
	w := newWaits(t)
	other := w.hub.subscribe("other") // keeps the connection
	soon(t, other.ready, "the other is ready")
	s := w.hub.subscribe("name")
	soon(t, s.ready, "it is ready")
	for range 50 {
		s.end()
		s = w.hub.subscribe("name")
		soon(t, s.ready, "it is ready again")
	}
	if err := w.hub.Client.Publish(t.Context(), "name", "").Err(); err != nil {
		t.Fatal(err)
	}
	soon(t, s.woken, "the message wakes")
	s.end()
	other.end()
}

// Who stops to listen looks at once, as it may have missed a message, and is not as slow as those who listen.
func TestPauseOfWhoListensNoMore(t *testing.T) {
	w := newWaits(t)
	in := &room[int]{sub: w.hub.subscribe("name")}
	soon(t, in.sub.ready, "it is ready")
	seen := View[int]{Guard: "name", Marked: true}
	if got := w.pause(in, seen); got != SlowPoll {
		t.Errorf("it listens and looks again after %v", got)
	}
	if got := w.pause(in, View[int]{Guard: "name", Marked: true, Ends: Poll}); got != Poll+time.Millisecond {
		t.Errorf("the lease ends after %v, and it looks again after %v", Poll, got)
	}
	for what, seen := range map[string]View[int]{"nothing to listen to": {}, "not marked": {Guard: "name"}} {
		if got := w.pause(in, seen); got != Poll {
			t.Errorf("%s: it looks again after %v", what, got)
		}
	}
	in.sub.line.deafen()
	soon(t, in.sub.woken, "it looks")
	if got := w.pause(in, seen); got != Poll {
		t.Errorf("it listens no more and looks again after %v", got)
	}
	in.sub.end()
}

// A record that others have marked may end before we listen, so that we are not told: the mark is made once more.
func TestMarkOfOthers(t *testing.T) {
	w := newWaits(t)
	ctx, cancel := context.WithCancel(t.Context())
	seen := View[int]{Guard: "name", Marked: true}
	marked := make(chan struct{}, 1)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() {
		w.In(ctx, "room", seen, Waiter[int]{
			Look: func() View[int] { return seen },
			Mark: func(context.Context, View[int]) View[int] { marked <- struct{}{}; return seen },
		})
	})
	soon(t, marked, "it marks")
}

// newWaits listens on a fake server.
func newWaits(t *testing.T) *Waits[int] {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	base, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
		_ = rdb.Close()
	})
	return New[int](Host{
		Client: rdb, Base: base, Note: func(int) {}, Jitter: func(d time.Duration) time.Duration { return d },
		Start:   func(fn func()) bool { running.Go(fn); return true },
		BackOff: func(ctx context.Context, _ int) bool { return ctx.Err() == nil },
	})
}

func soon(t *testing.T, happens <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-happens:
	case <-time.After(5 * time.Second):
		t.Fatalf("not within 5s: %s", what)
	}
}
