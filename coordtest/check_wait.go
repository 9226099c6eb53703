package coordtest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/onceward/coordinator"
)

func waitChecks() []check {
	return []check{
		{"P4", "waiters get the result, all of them", manyWait},
		{"P8", "waiters are woken, and need not look", func(t *trial) {
			for kind, key := range t.kinds() {
				t.woken(kind+", by its result", key, key)
				next := t.key()
				next.Resource = key.Resource
				t.woken(kind+", by its release", next, next)
			}
			first, second := t.key(), t.key()
			first.Resource, second.Resource = "waited for", "waited for"
			t.woken("another key of the resource", first, second)
		}},
		{"P8", "who waits in vain is told so", inVain},
	}
}

func manyWait(t *trial) {
	there := t.open()
	key := t.key()
	l := t.claim(t.c, key, fingerprint)
	var all sync.WaitGroup
	for i := range 24 {
		c := t.c
		if i%2 == 0 {
			c = there
		}
		all.Go(func() {
			if i%3 == 0 {
				if r, err := c.Await(t.ctx, key, []byte("fp")); err != nil || string(r.Payload) != resultText {
					t.Errorf("Await: %q, %v", r.Payload, err)
				}
				return
			}
			_, err := c.Claim(t.ctx, key, fingerprint, coordinator.WaitUpTo(long))
			if r, _ := coordinator.ResultOf(err); string(r.Payload) != resultText {
				t.Errorf("Claim: %v", err)
			}
		})
	}
	never := t.key()
	all.Go(func() {
		r, err := there.Await(t.ctx, never, nil)
		if err != nil || string(r.Payload) != "at last" {
			t.Errorf("Await of what nobody had begun: %q, %v", r.Payload, err)
		}
	})
	time.Sleep(100 * time.Millisecond)
	t.ok("complete", l.Complete(t.ctx, []byte(resultText)))
	t.ok("complete", t.claim(t.c, never).Complete(t.ctx, []byte("at last")))
	all.Wait()
}

// woken lets second wait for first, and end well before a waiter looks by itself, which is after 1.6 s at the earliest.
// A message may be lost, so one of several tries must do.
func (t *trial) woken(what string, first, second coordinator.Key) {
	t.Helper()
	const asleep = 250 * time.Millisecond // by then it listens
	there := t.open()
	var took time.Duration
	for range 3 {
		l := t.claim(t.c, first)
		var ended time.Time
		returned := make(chan error, 1)
		go func() {
			next, err := there.Claim(t.ctx, second, coordinator.WaitUpTo(long))
			if err == nil {
				err = next.Release(t.ctx)
			}
			returned <- err
		}()
		time.Sleep(asleep)
		ended = time.Now()
		t.ok("release", l.Release(t.ctx))
		if err := <-returned; err != nil {
			t.Errorf("%s: waiting: %v", what, err)
			return
		}
		if took = time.Since(ended); took < time.Second {
			break
		}
	}
	if took >= time.Second {
		t.Fatalf("%s: three times a waiter was not woken by a release; it looked by itself, %v later", what, took)
	}
	if first != second {
		return
	}
	for range 3 {
		l := t.claim(t.c, first)
		returned := make(chan error, 1)
		go func() {
			_, err := there.Claim(t.ctx, second, coordinator.WaitUpTo(long))
			returned <- err
		}()
		time.Sleep(asleep)
		ended := time.Now()
		t.ok("complete", l.Complete(t.ctx, []byte("done")))
		if r, ok := coordinator.ResultOf(<-returned); !ok || string(r.Payload) != "done" {
			t.Errorf("%s: who waited for the result got another", what)
			return
		}
		if took = time.Since(ended); took < time.Second {
			return
		}
		t.ok("expire", t.c.Expire(t.ctx, first))
	}
	t.Fatalf("%s: three times a waiter was not woken by a result; it looked by itself, %v later", what, took)
}

func inVain(t *trial) {
	key := t.key()
	t.claim(t.c, key)
	began := time.Now()
	var busy *coordinator.InProgressError
	_, err := t.open().Claim(t.ctx, key, coordinator.WaitUpTo(300*time.Millisecond))
	if took := time.Since(began); !errors.As(err, &busy) || busy.RetryAfter <= 0 || busy.Attempt != 1 || took < 300*time.Millisecond {
		t.Errorf("after %v: %v", took, err)
	}
	began = time.Now()
	for i := range 5 {
		if _, err := t.c.Claim(t.ctx, key, coordinator.WaitUpTo(0)); !errors.Is(err, coordinator.ErrInProgress) {
			t.Errorf("claim %d: %v", i, err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("claims that do not wait took %v", took)
	}
	for name, ttl := range map[string]time.Duration{fmt.Sprint(t.names(key)): t.inspect(key).RetentionRemaining} {
		if ttl < 24*time.Hour {
			t.Errorf("a waiter shortened the TTL of %s to %v", name, ttl)
		}
	}
}
