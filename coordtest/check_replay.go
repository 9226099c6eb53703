package coordtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/onceward/coordinator"
)

func replayChecks() []check {
	return []check{
		{"P4", "a result is replayed byte for byte", replays},
		{"P4", "an outcome is final", final},
		{"P4", "a key is bound to its first fingerprint, until it is expired", binding},
		{"P4", "Do runs once and replays", doOnce},
	}
}

// payloads are what might not survive: every byte, none, digits that look like a record's, much.
func payloads() map[string][]byte {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	return map[string][]byte{
		"every byte": every, "nothing": {}, "a NUL": {0}, "line ends": []byte("\r\n$-1\r\n"), "digits": []byte("00000000000000000001"),
		"not UTF-8": []byte("\xff\xfe%s%d"), "100 KiB": bytes.Repeat(every, 400),
	}
}

func replays(t *trial) {
	there := t.open()
	sums := map[string][]byte{"none": nil, "binary": []byte("\x00\xff{}:"), "long": bytes.Repeat([]byte("f"), 64)}
	for what, payload := range payloads() {
		for name, sum := range sums {
			for _, failed := range []bool{false, true} {
				var opts []coordinator.ClaimOption
				if sum != nil {
					opts = append(opts, coordinator.Fingerprint(sum))
				}
				key := t.key()
				l := t.claim(t.c, key, opts...)
				finish := l.Complete
				if failed {
					finish = l.Fail
				}
				t.ok("finish", finish(t.ctx, payload))
				same := func(how string, r coordinator.Result, err error) {
					t.Helper()
					if err != nil || !bytes.Equal(r.Payload, payload) || r.Failed != failed || r.Token != l.Token() || r.CompletedAt.IsZero() {
						t.Errorf("%s, fingerprint %s: %s gives %d bytes, failed %v, token %d, at %v, %v", what, name, how, len(r.Payload), r.Failed, r.Token, r.CompletedAt, err)
					}
				}
				before := t.raw(key)
				for range 2 {
					_, err := there.Claim(t.ctx, key, opts...)
					r, ok := coordinator.ResultOf(err)
					if !ok {
						t.Errorf("%s: a claim of what is finished gives %v", what, err)
					}
					same("Claim", r, nil)
					r, err = there.Result(t.ctx, key, sum)
					same("Result", r, err)
				}
				r, err := there.Await(t.ctx, key, sum)
				same("Await", r, err)
				if !maps.Equal(before, t.raw(key)) {
					t.Errorf("%s: a replay changed the record", what)
				}
			}
		}
	}
}

func final(t *trial) {
	for kind, key := range t.kinds() {
		l := t.claim(t.c, key)
		twin, err := t.open().Resume(t.ctx, key, l.Grant())
		t.ok("resume", err)
		t.ok("complete", l.Complete(t.ctx, []byte("first")))
		before := t.raw(key)
		for what, call := range map[string]func() error{
			"complete otherwise":             func() error { return l.Complete(t.ctx, []byte("second")) },
			"fail":                           func() error { return l.Fail(t.ctx, []byte("first")) },
			"complete otherwise, elsewhere":  func() error { return twin.Complete(t.ctx, []byte("second")) },
			"complete with less":             func() error { return twin.Complete(t.ctx, nil) },
			"resolve":                        func() error { return t.c.Resolve(t.ctx, key, coordinator.Resolution{Failed: true}) },
			"resolve to rerun":               func() error { return t.c.Resolve(t.ctx, key, coordinator.Resolution{Rerun: true}) },
			"a claim that asks for its turn": func() error { _, err := t.c.Claim(t.ctx, key, coordinator.QuarantineLapsed()); return err },
		} {
			if r, ok := coordinator.ResultOf(call()); !ok || string(r.Payload) != "first" || r.Failed {
				t.Errorf("%s: %s gives %q (%v)", kind, what, r.Payload, ok)
			}
		}
		t.ok("complete again", l.Complete(t.ctx, []byte("first")))
		t.ok("complete again, elsewhere", twin.Complete(t.ctx, []byte("first")))
		t.ok("release", l.Release(t.ctx))
		if third, err := t.open().Resume(t.ctx, key, l.Grant()); err == nil {
			t.Errorf("%s: a finished grant was resumed: %v", kind, third.Token())
		}
		t.ok("release, elsewhere", twin.Release(t.ctx))
		t.ok("give back", t.c.GiveBack(t.ctx, key, l.Grant().Owner))
		if !maps.Equal(before, t.raw(key)) {
			t.Errorf("%s: the record of an outcome changed\nfrom %q\nto   %q", kind, before, t.raw(key))
		}
		// A process that does not know of the completion releases: the outcome must stand.
		fresh := t.key()
		fresh.Resource = key.Resource
		l = t.claim(t.c, fresh)
		twin, err = t.open().Resume(t.ctx, fresh, l.Grant())
		t.ok("resume", err)
		t.ok("complete", l.Complete(t.ctx, []byte("first")))
		t.ok("release by who does not know", twin.Release(t.ctx))
		t.state(kind+": released by who does not know", fresh, coordinator.StateCompleted)
	}
}

func binding(t *trial) {
	key := t.key()
	a, b := coordinator.Fingerprint([]byte("a")), coordinator.Fingerprint([]byte("b"))
	mismatch := func(when string) {
		t.Helper()
		_, err := t.c.Claim(t.ctx, key, b)
		t.want(when+", another one", err, coordinator.ErrMismatch)
		_, err = t.c.Claim(t.ctx, key)
		t.want(when+", none", err, coordinator.ErrMismatch)
		_, err = t.c.Claim(t.ctx, key, coordinator.Fingerprint([]byte("aa")))
		t.want(when+", a longer one", err, coordinator.ErrMismatch)
		_, err = t.c.Result(t.ctx, key, []byte("b"))
		t.want(when+", Result", err, coordinator.ErrMismatch)
	}
	l := t.claim(t.c, key, a)
	mismatch("in progress")
	t.ok("release", l.Release(t.ctx))
	mismatch("released")
	t.claim(t.c, key, a, coordinator.LeaseFor(short), coordinator.ManualRenewal())
	t.lapsed(key)
	mismatch("lapsed")
	l = t.claim(t.c, key, a)
	t.ok("complete", l.Complete(t.ctx, nil))
	mismatch("completed")
	t.ok("expire", t.c.Expire(t.ctx, key))
	if l := t.claim(t.c, key, b); l.Attempt() != 1 {
		t.Errorf("after expire it is attempt %d", l.Attempt())
	}
	unbound := t.key()
	t.ok("complete", t.claim(t.c, unbound).Complete(t.ctx, nil))
	_, err := t.c.Claim(t.ctx, unbound, a)
	t.want("none is a value of its own", err, coordinator.ErrMismatch)
}

func doOnce(t *trial) {
	key := t.key()
	there := t.open()
	var mu sync.Mutex
	runs := 0
	work := func(c *coordinator.Coordinator) (string, bool, error) {
		return coordinator.Do(t.ctx, c, key, func(context.Context, *coordinator.Lease) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			runs++
			return fmt.Sprintf("run %d", runs), nil
		}, coordinator.WaitUpTo(long))
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			c := t.c
			if i%2 == 0 {
				c = there
			}
			if v, _, err := work(c); err != nil || v != "run 1" {
				t.Errorf("Do returns %q, %v", v, err)
			}
		})
	}
	all.Wait()
	if runs != 1 {
		t.Errorf("it ran %d times", runs)
	}
	broken := errors.New("broken")
	attempts := 0
	again := t.key()
	try := func(err error) error {
		_, _, got := coordinator.Do(t.ctx, t.c, again, func(context.Context, *coordinator.Lease) (int, error) { attempts++; return 0, err })
		return got
	}
	t.want("an error", try(broken), broken)
	t.state("after an error", again, coordinator.StateReleased)
	t.want("a final error", try(coordinator.Final(broken)), coordinator.ErrCompleted)
	err := try(nil)
	if r, ok := coordinator.ResultOf(err); !ok || !r.Failed || !strings.Contains(string(r.Payload), "broken") {
		t.Errorf("after a final error: %v", err)
	}
	if attempts != 2 {
		t.Errorf("it was tried %d times", attempts)
	}
}
