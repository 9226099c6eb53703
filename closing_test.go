package coordinator

import (
	"cmp"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// What Close finds under way: calls between two tries, claims whose reply is about to arrive, leases that are just lost.

// closingAfter closes a coordinator when a verb's reply is there, and tells it an error instead, if there is one to tell.
func closingAfter(verb string, c *Coordinator, told error) between {
	return func(ctx context.Context, sent string, send func(context.Context) error) error {
		err := send(ctx)
		if sent == verb {
			_ = c.Close()
			err = cmp.Or(told, err)
		}
		return err
	}
}

// P7. A call that Close ends between two tries has not run, and not because of Redis.
func TestCloseEndsACallBetweenTries(t *testing.T) {
	inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
		c := open(t, rdb)
		m.SetError("LOADING Redis is loading the dataset in memory")
		answer := make(chan error, 1)
		go func() { _, err := c.Claim(t.Context(), newKey(t)); answer <- err }()
		time.Sleep(time.Second)
		synctest.Wait() // it pauses
		_ = c.Close()
		if err := <-answer; err != ErrClosed {
			t.Errorf("got %v, want just ErrClosed", err)
		}
	})
}

// Whatever comes first, a lease's end or Close, the observer's count of leases held ends at none.
func TestHeldLeasesAreCountedDownOnce(t *testing.T) {
	for what, end := range map[string]func(t *testing.T, rdb *redis.Client, c *Coordinator){
		"closed while a claim's reply is on its way": func(t *testing.T, rdb *redis.Client, c *Coordinator) {
			rdb.AddHook(closingAfter("claim", c, nil))
			l := mustClaim(t, c, newKey(t))
			wantError(t, context.Cause(l.Context()), ErrClosed)
			wantError(t, l.Release(t.Context()), ErrClosed)
		},
		"closed while a lease is lost": func(t *testing.T, _ *redis.Client, c *Coordinator) {
			l := mustClaim(t, c, newKey(t))
			c.stop(ErrClosed)
			l.finish(ErrLeaseLost)
		},
		"closed while it holds": func(t *testing.T, _ *redis.Client, c *Coordinator) {
			l := mustClaim(t, c, newKey(t))
			_ = c.Close()
			wantError(t, l.Complete(t.Context(), nil), ErrClosed)
		},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				log := &notes{}
				c := open(t, rdb, WithObserver(log))
				end(t, rdb, c)
				_ = c.Close()
				if held := log.count("lease", "held"); held != 0 {
					t.Errorf("%d leases are held", held)
				}
			})
		})
	}
}

// P7. A closed coordinator does nothing in the background, and does not say that it would.
func TestNothingGoesOnAfterClose(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		c := open(t, rdb)
		l := mustClaim(t, c, newKey(t))
		_ = c.Close()
		if err := l.Release(over); err != ErrClosed {
			t.Errorf("Release with a context that has ended: %v, want just ErrClosed", err)
		}

		c = open(t, rdb)
		rdb.AddHook(closingAfter("claim", c, io.EOF))
		_, _, err := Do(t.Context(), c, newKey(t), func(context.Context, *Lease) (int, error) { return 1, nil })
		wantError(t, err, ErrUnknown)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || unknown.Owner == "" {
			t.Errorf("%#v: nobody gives the claim back, so its caller needs the owner", err)
		}
	})
}

// Nothing of ours runs any more when Close returns, so that a program's own check for goroutines is quiet. One that has done
// all it had to may still be on the list for an instant; that is rare.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	left := 0
	stacks := make([]byte, 1<<20)
	for range 200 {
		c := open(t, rdb)
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				if l, err := c.Claim(t.Context(), newKey(t)); err == nil {
					_ = l.Complete(t.Context(), nil)
				}
			})
		}
		callers.Wait()
		_ = c.Close()
		if strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "carrier.(*Carrier).send") {
			left++
		}
	}
	if left > 20 {
		t.Errorf("after %d of 200 calls of Close a sender was there", left)
	}
}
