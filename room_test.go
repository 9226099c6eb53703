package coordinator

import (
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
