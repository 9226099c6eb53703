package coordtest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onceward/coordinator"
)

func grantChecks() []check {
	return []check{
		{"P1", "many claim a key at once, one gets it", func(t *trial) {
			key := t.key()
			t.rush(func(int) coordinator.Key { return key }, 1)
		}},
		{"P1", "many claim keys of a resource at once, one gets it", func(t *trial) {
			resource := t.key().ID
			t.rush(func(i int) coordinator.Key {
				return coordinator.Key{Scope: "conformance", ID: fmt.Sprint(i), Resource: resource}
			}, 1)
		}},
		{"P1", "keys never meet in one Redis key", neverMeet},
		{"P1", "one key of a resource holds a lease at a time", takeTurns},
		{"P1", "a batch of claims is answered in its order", batch},
		{"P2", "tokens rise over everything that ends a grant", rise},
		{"P2", "tokens exceed MinToken from then on", minToken},
	}
}

// rush lets forty callers of two processes claim at once.
func (t *trial) rush(key func(int) coordinator.Key, winners int64) {
	there := t.open()
	var granted atomic.Int64
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			c := t.c
			if i%2 == 0 {
				c = there
			}
			_, err := c.Claim(t.ctx, key(i))
			if err == nil {
				granted.Add(1)
			} else if !errors.Is(err, coordinator.ErrInProgress) {
				t.Errorf("claim: %v", err)
			}
		})
	}
	all.Wait()
	if n := granted.Load(); n != winners {
		t.Errorf("%d claims were granted, not %d", n, winners)
	}
}

func neverMeet(t *trial) {
	long := string(make([]byte, 200))
	keys := []coordinator.Key{
		{Scope: "a:b", ID: "c"}, {Scope: "a", ID: "b:c"}, {Scope: "", ID: "a:b:c"}, {Scope: "a%3Ab", ID: "c"}, {Scope: "a", ID: "b", Resource: "c"},
		{Scope: "a}", ID: "{c"}, {Scope: "a", ID: "}{c"}, {Scope: "{x}", ID: "c"}, {Scope: "a\x00", ID: "b"}, {Scope: "a", ID: "\x00b"},
		{Scope: "a b", ID: "c"}, {Scope: "a", ID: " b c"}, {Scope: "ü", ID: "\xff"}, {Scope: "", ID: "ü\xff"}, {Scope: "", ID: "a", Resource: "b:c"},
		{Scope: "b", ID: "a", Resource: "d"}, {Scope: "", ID: long}, {Scope: long, ID: "x"}, {Scope: "", ID: long + "x"}, {Scope: "A", ID: "c"}, {Scope: "a", ID: "c"},
	}
	seen := map[string]int{}
	for i, key := range keys {
		t.claim(t.c, key)
		for _, name := range t.names(key) {
			if at, met := seen[name]; met && (key.Resource == "" || key.Resource != keys[at].Resource) {
				t.Errorf("%+v and %+v meet in %q", keys[at], key, name)
			}
			seen[name] = i
		}
	}
}

func takeTurns(t *trial) {
	first, second, apart := t.key(), t.key(), t.key()
	first.Resource, second.Resource, apart.Resource = "shared", "shared", "another"
	l := t.claim(t.c, first)
	t.claim(t.c, apart)
	for _, end := range []struct {
		what string
		do   func() error
	}{
		{"release", func() error { return l.Release(t.ctx) }},
		{"give back", func() error { return t.c.GiveBack(t.ctx, first, l.Grant().Owner) }},
		{"expire", func() error { return t.c.Expire(t.ctx, first) }},
		{"complete", func() error { return l.Complete(t.ctx, nil) }},
	} {
		var busy *coordinator.InProgressError
		if _, err := t.c.Claim(t.ctx, second); !errors.As(err, &busy) || busy.RetryAfter <= 0 {
			t.Errorf("while one key holds the resource, another one gets %v", err)
		}
		t.ok(end.what, end.do())
		next := t.claim(t.c, second)
		if next.Token() <= l.Token() {
			t.Errorf("P2: after %s, token %d follows %d on the resource", end.what, next.Token(), l.Token())
		}
		t.want("a write of the one before, after "+end.what, t.c.Fence(first).Do(t.ctx, l.Grant(), "set", t.own(t.c.Fence(first)), 1, "px", 60000).Err(), coordinator.ErrStaleToken)
		t.ok("a write of the holder", t.c.Fence(coordinator.Key{Resource: "shared"}).Do(t.ctx, next.Grant(), "set", t.own(t.c.Fence(first)), 1, "px", 60000).Err())
		t.ok("release", next.Release(t.ctx))
		if end.what != "complete" {
			l = t.claim(t.c, first)
		}
	}
	l = t.claim(t.c, second, coordinator.LeaseFor(short), coordinator.ManualRenewal())
	t.lapsed(second)
	third := t.key()
	third.Resource = "shared"
	next := t.claim(t.c, third)
	if next.Token() <= l.Token() {
		t.Errorf("P2: after a lapse, token %d follows %d on the resource", next.Token(), l.Token())
	}
	t.want("completing without the resource", l.Complete(t.ctx, nil), coordinator.ErrStaleToken)
}

func batch(t *trial) {
	taken, done := t.key(), t.key()
	t.claim(t.c, taken)
	t.ok("complete", t.claim(t.c, done).Complete(t.ctx, []byte(resultText)))
	first, twice := t.key(), t.key()
	of := t.key()
	of.Resource = "of a batch"
	results := t.open().ClaimMany(t.ctx, []coordinator.ClaimRequest{
		{Key: first}, {Key: taken}, {Key: coordinator.Key{}}, {Key: done}, {Key: twice}, {Key: twice}, {Key: of},
		{Key: done, Options: []coordinator.ClaimOption{fingerprint}},
	})
	for i, want := range []error{nil, coordinator.ErrInProgress, coordinator.ErrInvalid, coordinator.ErrCompleted, nil, coordinator.ErrInProgress, nil, coordinator.ErrMismatch} {
		if i >= len(results) {
			t.Fatalf("%d results of 8", len(results))
		}
		t.want(fmt.Sprintf("element %d", i), results[i].Err, want)
		if (results[i].Lease != nil) != (want == nil) {
			t.Errorf("element %d has a lease: %v", i, results[i].Lease != nil)
		}
	}
	if r, _ := coordinator.ResultOf(results[3].Err); string(r.Payload) != resultText {
		t.Errorf("P4: replayed %q", r.Payload)
	}
	for _, i := range []int{0, 4, 6} {
		if l := results[i].Lease; l != nil {
			t.ok("complete", l.Complete(t.ctx, nil))
		}
	}
}

func rise(t *trial) {
	for kind, key := range t.kinds() {
		var latest coordinator.Token
		var l *coordinator.Lease
		claim := func(after string, opts ...coordinator.ClaimOption) {
			t.Helper()
			l = t.claim(t.c, key, append(opts, coordinator.ManualRenewal())...)
			if l.Token() <= latest {
				t.Errorf("%s: after %s, token %d follows %d", kind, after, l.Token(), latest)
			}
			latest = l.Token()
		}
		claim("nothing")
		for range 3 {
			t.ok("release", l.Release(t.ctx))
			claim("a release")
		}
		t.ok("give back", t.c.GiveBack(t.ctx, key, l.Grant().Owner))
		claim("giving back")
		for range 3 {
			t.ok("expire", t.c.Expire(t.ctx, key))
			claim("expire")
		}
		t.lose(key)
		claim("the loss of the record")
		t.ok("complete", l.Complete(t.ctx, nil))
		t.ok("expire", t.c.Expire(t.ctx, key))
		claim("a result that was expired", coordinator.LeaseFor(short))
		t.lapsed(key)
		claim("a lapse", coordinator.LeaseFor(short))
		t.lapsed(key)
		t.ok("resolve", t.c.Resolve(t.ctx, key, coordinator.Resolution{Rerun: true}))
		claim("resolve")
		t.lose(key)
		t.ok("expire", t.c.Expire(t.ctx, key))
		claim("expire of nothing")
	}
}

func minToken(t *trial) {
	now, err := t.rdb.Time(t.ctx).Result()
	if k := t.key(); err != nil { // a cluster client asks no particular node
		t.ok("claim", t.claim(t.c, k).Release(t.ctx))
		now = time.Now()
	}
	for kind, key := range t.kinds() {
		floor := coordinator.Token(now.Add(time.Hour).UnixMicro())
		l := t.claim(t.c, key, coordinator.MinToken(floor))
		if l.Token() <= floor {
			t.Errorf("%s: token %d does not exceed %d", kind, l.Token(), floor)
		}
		t.ok("release", l.Release(t.ctx))
		for range 3 {
			next := t.claim(t.c, key)
			if next.Token() <= l.Token() {
				t.Errorf("%s: token %d follows %d", kind, next.Token(), l.Token())
			}
			l = next
			t.ok("expire", t.c.Expire(t.ctx, key))
		}
		if left := t.inspect(key).RetentionRemaining; left < time.Hour {
			t.Errorf("%s: a token an hour ahead is kept for %v only", kind, left)
		}
		_, err := t.c.Claim(t.ctx, t.key(), coordinator.MinToken(coordinator.Token(now.Add(49*time.Hour).UnixMicro())))
		t.want("MinToken of the day after tomorrow", err, coordinator.ErrInvalid)
	}
}
