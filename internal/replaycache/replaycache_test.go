package replaycache

import (
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceward/coordinator/internal/protocol"
)

const forever = time.Duration(math.MaxInt64)

// clocked is a cache whose clock stands at now, counted from the cache's start.
func clocked(bytes int, maxAge time.Duration) (c *Cache, now *time.Duration) {
	c, now = New(bytes, maxAge), new(time.Duration)
	c.clock = func() time.Duration { return *now }
	return c, now
}

func completed(token int64, payload string) *protocol.Record {
	return &protocol.Record{State: protocol.StateCompleted, Token: token, Bound: true, Fingerprint: []byte("fp"), End: time.Hour, Data: []byte(payload)}
}

// put keeps a result that was shown to a request of this moment on the cache's clock.
func (c *Cache) put(name string, at time.Duration, rec *protocol.Record) {
	c.Put(named(name), c.start.Add(at), forever, rec)
}

// named is a key whose parts all differ.
func named(name string) Key { return Key{"scope", name, "account/" + name} }

func (c *Cache) has(name string) bool { return c.Get(named(name)) != nil }

func TestWhatIsKept(t *testing.T) {
	c, _ := clocked(Least, time.Second)
	rec := completed(7, "payload")
	rec.State = protocol.StateFailed
	c.put("name", 0, rec)
	copy(rec.Data, "changed")
	copy(rec.Fingerprint, "??")
	want := Result{Token: 7, CompletedAt: time.Hour, Failed: true, Fingerprint: "fp", Payload: "payload"}
	if r := c.Get(named("name")); r == nil || *r != want {
		t.Errorf("%+v", r)
	}
	for _, other := range []string{"", "nam", "names", "NAME"} {
		if c.has(other) {
			t.Errorf("%q is there", other)
		}
	}
	kept := named("name")
	for _, same := range []Key{
		{}, {"", kept.ID, kept.Resource}, {kept.Scope, "other", kept.Resource}, {kept.Scope, kept.ID, ""},
		{kept.Scope + kept.ID, "", kept.Resource}, {kept.Scope, kept.Resource, kept.ID},
	} { // as if its hash were that of name
		hash := maphash.Comparable(c.seed, same)
		c.shard(hash).entries[hash] = c.shard(0).ring[0]
		if c.Get(same) != nil {
			t.Errorf("%q got the result of another", same)
		}
		delete(c.shard(hash).entries, hash)
	}
	c.put("running", 0, &protocol.Record{State: protocol.StateInProgress, Bound: true})
	c.put("unbound", 0, &protocol.Record{State: protocol.StateCompleted})
	if c.has("running") || c.has("unbound") {
		t.Error("what is no outcome is kept")
	}
	c.Close()
	c.put("late", 0, rec)
	if c.Drop(named("name")); c.has("name") || c.has("late") {
		t.Error("it is closed, and keeps something")
	}
	var none *Cache
	none.Put(named("name"), time.Now(), forever, rec)
	if none.has("name") {
		t.Error("a cache that is not there has something")
	}
	none.Drop(named("name"))
	none.Close()
}

// An entry counts from when the request went out that showed it, and not from when its reply came.
func TestAge(t *testing.T) {
	c, now := clocked(Least, time.Second)
	*now = 400 * time.Millisecond
	c.put("a", 100*time.Millisecond, completed(1, "x"))
	c.Put(named("short"), c.start.Add(100*time.Millisecond), 500*time.Millisecond, completed(1, "x"))
	c.put("old", -600*time.Millisecond, completed(1, "x"))
	for _, step := range []struct {
		at       time.Duration
		a, short bool
	}{{400, true, true}, {599, true, true}, {600, true, false}, {1099, true, false}, {1100, false, false}} {
		*now = step.at * time.Millisecond
		if c.has("a") != step.a || c.has("short") != step.short || c.has("old") {
			t.Errorf("after %v: %v, %v, %v", *now, c.has("a"), c.has("short"), c.has("old"))
		}
	}
	c.put("a", 1050*time.Millisecond, completed(1, "x")) // shown anew
	c.put("a", 1000*time.Millisecond, completed(1, "x")) // by a reply that took longer
	*now = 2049 * time.Millisecond
	if !c.has("a") {
		t.Error("an older reply has made it older")
	}
	c.put("a", *now, completed(3, "of token 3"))
	c.put("a", *now, completed(2, "of token 2"))
	if r := c.Get(named("a")); r.Token != 3 {
		t.Errorf("the result of token %d has replaced a later one", r.Token)
	}
}

// What was sent before a drop does not come back, whenever its reply comes.
func TestDrop(t *testing.T) {
	c, now := clocked(Least, time.Minute)
	c.put("a", 0, completed(1, "x"))
	*now = time.Second
	c.Drop(named("a"))
	if c.has("a") {
		t.Error("it was dropped, and is there")
	}
	for sent, there := range map[time.Duration]bool{0: false, time.Second: false, time.Second + 1: true} {
		*now = 2 * time.Second
		name := fmt.Sprint("b", sent)
		if c.put(name, sent, completed(1, "x")); c.has(name) != there {
			t.Errorf("shown to a request of %v, dropped at 1s: it is there: %v", sent, !there)
		}
	}
}

// The result of a grant does not come back once a later one was seen, in whatever order the replies come.
func TestLive(t *testing.T) {
	c, now := clocked(Least, time.Minute)
	c.put("a", 0, completed(1, "x"))
	c.Live(named("a"), 1) // an old reply
	if !c.has("a") {
		t.Error("its own grant has taken a result away")
	}
	c.Live(named("a"), 3)
	c.Live(named("a"), 2)
	if c.has("a") {
		t.Error("the result of grant 1 is there, and 3 was seen")
	}
	if c.put("a", 0, completed(2, "x")); c.has("a") {
		t.Error("the result of grant 2 has come back, and 3 was seen")
	}
	if c.put("a", 0, completed(3, "x")); !c.has("a") {
		t.Error("the result of the latest grant is not kept")
	}
	*now = time.Second
	c.Live(named("b"), 1)
	for i := range c.shards[0].live { // b and a are not known any more
		c.Live(named(fmt.Sprint(i)), 1)
	}
	for sent, there := range map[time.Duration]bool{0: false, time.Second: false, time.Second + 1: true} {
		*now = 2 * time.Second
		name := fmt.Sprint("c", sent)
		if c.put(name, sent, completed(1, "x")); c.has(name) != there {
			t.Errorf("shown to a request of %v, a lease was seen at 1s and forgotten: it is there: %v", sent, !there)
		}
	}
	var none *Cache
	none.Live(named("a"), 1)
}

// What is asked for stays, and what is not goes.
func TestSecondChance(t *testing.T) {
	c, _ := clocked(Least, time.Minute)
	payload := strings.Repeat("x", 500)
	for i := range 1000 {
		c.put("hot", 0, completed(1, payload))
		if !c.has("hot") {
			t.Fatalf("it was asked for all the time, and is gone after %d others", i)
		}
		c.put(fmt.Sprint("cold", i), 0, completed(1, payload))
	}
	if c.has("cold0") || !c.has("cold999") {
		t.Error("the oldest is there, or the latest is not")
	}
	c.put("huge", 0, completed(1, strings.Repeat("x", Least)))
	if c.has("huge") || !c.has("hot") {
		t.Error("what does not fit is kept, or has taken the others' room")
	}
}

// The heap does not grow by more than the cache may have, whatever sizes come, and the counts are right.
func TestBounds(t *testing.T) {
	if raced {
		t.Skip("the race detector takes memory too")
	}
	for _, sizes := range [][]int{{0}, {16}, {100}, {512}, {1025}, {5000}, {0, 9000}, {28700}, {32750}, {33000}, {41000}} {
		limit := 8 << 20
		if sizes[0] > 20000 {
			limit = 64 << 20 // so that a shard has room for many
		}
		before := heap()
		c := New(limit, time.Minute)
		at := time.Now()
		for _, size := range sizes {
			rec := completed(1, strings.Repeat("x", size))
			for i := range 2 * limit / (size + 200) {
				c.Put(Key{"payments", fmt.Sprintf("018cc251-f400-7000-8000-%012x", i), ""}, at, forever, rec)
			}
		}
		if grown := heap() - before; grown > limit || grown < limit/2 {
			t.Errorf("with payloads of %d bytes it takes %d bytes of %d", sizes, grown, limit)
		}
		for i := range c.shards {
			c.shards[i].check(t)
		}
		runtime.KeepAlive(c)
	}
}

func heap() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// check compares what a shard counts with what it has.
func (s *shard) check(t *testing.T) {
	t.Helper()
	used := 0
	for i, e := range s.ring {
		used += e.size
		if e.at != i || s.entries[e.hash] != e {
			t.Fatalf("entry %d is not where it should be", i)
		}
	}
	if used != s.used || used > s.limit || len(s.ring) != len(s.entries) {
		t.Errorf("%d entries, %d in the ring; %d bytes, %d counted, %d allowed", len(s.entries), len(s.ring), used, s.used, s.limit)
	}
}

func TestAtOnce(t *testing.T) {
	c := New(2*Least, time.Minute)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 2000 {
				n := rand.N(500)
				name, payload := fmt.Sprint(n), strings.Repeat(string(rune('a'+n%26)), n)
				switch rand.N(9) {
				case 0:
					c.Drop(named(name))
				case 1:
					c.Live(named(name), rand.N(int64(2)))
				case 2, 3:
					c.Put(named(name), time.Now(), forever, completed(1, payload))
				default:
					if r := c.Get(named(name)); r != nil && r.Payload != payload {
						t.Errorf("%s has the payload of another", name)
					}
				}
			}
		})
	}
	group.Wait()
	for i := range c.shards {
		c.shards[i].check(t)
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	c := New(Least, time.Minute)
	key := named(strings.Repeat("n", 100))
	c.Put(key, time.Now(), forever, completed(1, "x"))
	if n := testing.AllocsPerRun(100, func() {
		if c.Get(key) == nil {
			t.Fatal("it is not there")
		}
	}); n != 0 {
		t.Errorf("a hit allocates %v times", n)
	}
}
