package coordinator

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// P4. Two requests may wait for a key that nobody has claimed yet, because another key holds their resource. They are
// not the same request, so what one of them finds finished is no answer to the other.
func TestWaiterIsNotToldAnotherRequestsResult(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		c, elsewhere := open(t, rdb), open(t, rdb)
		busy, key := newKey(t), newKey(t)
		busy.Resource, key.Resource = "account", "account"
		holder := mustClaim(t, elsewhere, busy)
		wait := map[string]func(fingerprint string) error{
			"Claim": func(fingerprint string) error {
				_, err := c.Claim(t.Context(), key, Fingerprint([]byte(fingerprint)), WaitUpTo(time.Minute))
				return err
			},
			"Await": func(fingerprint string) error {
				_, err := c.Await(t.Context(), key, []byte(fingerprint))
				return err
			},
		}
		answers := map[string]chan error{}
		for what, call := range wait {
			for _, fingerprint := range []string{"one", "two"} { // the first one leads
				answer := make(chan error, 1)
				answers[what+" "+fingerprint] = answer
				go func() { answer <- call(fingerprint) }()
				synctest.Wait()
			}
		}
		if n := waiters(c); n != 4 {
			t.Fatalf("%d wait", n)
		}
		rdb.Del(t.Context(), holder.names.Fence) // evicted: nobody is woken, so that the key is another process' first
		l := mustClaim(t, elsewhere, key, Fingerprint([]byte("one")))
		if err := l.Complete(t.Context(), []byte("the answer to one")); err != nil {
			t.Fatal(err)
		}
		wantError(t, <-answers["Claim one"], ErrCompleted)
		if err := <-answers["Await one"]; err != nil {
			t.Error(err)
		}
		for _, what := range []string{"Claim two", "Await two"} {
			if err := <-answers[what]; err == nil {
				t.Errorf("%s got the answer to one", what)
			} else {
				wantError(t, err, ErrMismatch)
			}
		}
	})
}

// P4. What a look found that was under way when a call began is no answer to that call: the result may have been expired, and
// the key claimed anew, before it.
func TestWaiterIsNotToldWhatWasThereBeforeItsCall(t *testing.T) {
	for what, call := range map[string]func(t *testing.T, c *Coordinator, key Key) (Result, error){
		"Await": func(t *testing.T, c *Coordinator, key Key) (Result, error) { return c.Await(t.Context(), key, nil) },
		"Claim": func(t *testing.T, c *Coordinator, key Key) (Result, error) {
			_, err := c.Claim(t.Context(), key, WaitUpTo(time.Minute))
			r, ok := ResultOf(err)
			if ok {
				err = nil
			}
			return r, err
		},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				slow := redis.NewClient(rdb.Options())
				defer slow.Close()
				var hold atomic.Bool
				arrive := make(chan struct{})
				slow.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
					err := send(ctx)
					if (verb == "claim" || verb == "inspect") && hold.CompareAndSwap(true, false) {
						<-arrive
					}
					return err
				}))
				c, elsewhere, key := open(t, slow), open(t, rdb), newKey(t)
				wait := func() chan string {
					answer := make(chan string, 1)
					go func() {
						r, err := call(t, c, key)
						if err != nil {
							t.Error(err)
						}
						answer <- string(r.Payload)
					}()
					synctest.Wait()
					return answer
				}
				lease := mustClaim(t, elsewhere, key)
				leader, beside := wait(), wait()
				hold.Store(true)
				if err := lease.Complete(t.Context(), []byte("old")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the leader's look is answered, and its reply on its way
				if hold.Load() {
					t.Fatal("nobody has looked")
				}
				if err := elsewhere.Expire(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				lease = mustClaim(t, elsewhere, key)
				later := wait()
				close(arrive)
				for _, answer := range []chan string{leader, beside} {
					if got := <-answer; got != "old" {
						t.Errorf("got %q, which is newer than what was there", got)
					}
				}
				time.Sleep(time.Second)
				if err := lease.Complete(t.Context(), []byte("new")); err != nil {
					t.Fatal(err)
				}
				if got := <-later; got != "new" {
					t.Errorf("a call that began after Expire and another grant got %q", got)
				}
			})
		})
	}
}
