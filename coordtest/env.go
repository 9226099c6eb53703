package coordtest

import (
	"context"
	_ "embed" // lapse.lua
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
)

// Env is one process with a coordinator, on a Redis in memory that it may share with others, see [Env.Another].
// Tests may run in parallel, each with an Env of its own. Everything ends with the test.
type Env struct {
	// Coordinator is what the code under test is given.
	Coordinator *coordinator.Coordinator
	// Client speaks to the same server, for the keys that the code under test writes. Faults do not touch it.
	Client *redis.Client

	t      testing.TB
	opts   []coordinator.Option
	server *server
	faults *faults
}

// server is the Redis in memory, which all processes of a test share, and its clock.
type server struct {
	redis  *miniredis.Miniredis
	bubble bool

	mu  sync.Mutex
	now time.Time // stands still; not used in a bubble
}

// New makes a coordinator with these options on a Redis in memory. The server's clock begins with the present and
// stands still until [Env.Advance] moves it, so that no lease lapses and nothing expires because a test is slow.
// [coordinator.WithReplicas] is of no use here: there are none.
func New(t testing.TB, opts ...coordinator.Option) *Env {
	t.Helper()
	return newServer(t, false).process(t, opts)
}

// NewInBubble is [New] for tests within [synctest.Test]: the server, its TTLs and the holders all live by the
// bubble's clock, so a lease is renewed, and its context ends, when the test sleeps or calls [Env.Advance].
func NewInBubble(t testing.TB, opts ...coordinator.Option) *Env {
	t.Helper()
	return newServer(t, true).process(t, opts)
}

func newServer(t testing.TB, bubble bool) *server {
	s := &server{redis: miniredis.NewMiniRedis(), bubble: bubble}
	if !bubble {
		s.now = time.Now().UTC().Truncate(time.Millisecond)
		s.redis.SetTime(s.now)
	}
	s.redis.ClockTTL(true)
	t.Cleanup(s.redis.Close)
	return s
}

// process makes what one process has: clients of its own, and a coordinator.
func (s *server) process(t testing.TB, opts []coordinator.Option) *Env {
	t.Helper()
	e := &Env{t: t, opts: opts, server: s, faults: &faults{}}
	e.Client = s.dial(t)
	rdb := s.dial(t)
	rdb.AddHook(hook{e.faults})
	c, err := coordinator.New(rdb, append([]coordinator.Option{coordinator.WithObserver(e.faults)}, opts...)...)
	if err != nil {
		t.Fatalf("coordtest: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	e.Coordinator = c
	return e
}

func (s *server) dial(t testing.TB) *redis.Client {
	rdb := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:0", // never dialled
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := s.redis.Dial()
			if err != nil {
				return nil, err
			}
			return buffered(conn), nil
		},
	})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Another is another process on the same server: a coordinator with connections of its own. Its options are those of
// this one, then opts. Faults are each process's own; the clock is the server's. Close its Coordinator to let it
// crash: its leases are not given back.
func (e *Env) Another(opts ...coordinator.Option) *Env {
	e.t.Helper()
	all := append(append([]coordinator.Option{}, e.opts...), opts...)
	return e.server.process(e.t, all)
}

// Now returns the server's time. It decides which leases have lapsed, and tokens are made of it.
func (e *Env) Now() time.Time {
	if e.server.bubble {
		return time.Now()
	}
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	return e.server.now
}

// Advance moves the server's clock: leases lapse, and keys expire, whose time is over then. Whoever waits looks again.
// Holders, who count on their own clock, learn of it at their next renewal. In a bubble it sleeps, so that
// holders live through it too. A negative duration steps the clock back, which a bubble cannot.
func (e *Env) Advance(d time.Duration) {
	e.t.Helper()
	if e.server.bubble {
		if d < 0 {
			e.t.Fatalf("coordtest: a bubble's clock does not go back, by %v", d)
		}
		time.Sleep(d)
		synctest.Wait()
		return
	}
	e.server.advance(d)
}

func (s *server) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
	s.redis.SetTime(s.now)
	s.nudge()
}

// nudge wakes everybody who waits; what a wake-up means they find out by looking.
func (s *server) nudge() {
	for _, channel := range s.redis.PubSubChannels("") {
		s.redis.Publish(channel, "")
	}
}

//go:embed lapse.lua
var lapseText string

// Lapse makes the lease on key run out now, on the server only, as if its holder had been paused for that long: the
// holder still believes that it has it until it renews or writes, and the next claim takes over. Nothing else
// moves. The test fails if nobody holds a lease on key.
func (e *Env) Lapse(key coordinator.Key) {
	e.t.Helper()
	lapsed, err := e.Client.Eval(context.Background(), lapseText, e.names(key)).Int()
	if err != nil {
		e.t.Fatalf("coordtest: Lapse: %v", err)
	}
	if lapsed == 0 {
		e.t.Fatalf("coordtest: Lapse: nobody holds a lease on this key; it is %q", e.Record(key).State)
	}
	if !e.server.bubble {
		e.server.nudge()
	}
}

// names are the Redis keys of key's record and, with a resource, of its fence.
func (e *Env) names(key coordinator.Key) []string {
	e.t.Helper()
	seen := &look{}
	if _, err := e.Coordinator.Inspect(context.WithValue(context.Background(), lookKey{}, seen), key); err != nil {
		e.t.Fatalf("coordtest: %v", err)
	}
	if key.Resource == "" {
		return []string{seen.name}
	}
	tag, _, _ := strings.Cut(seen.name, "}:")
	return []string{seen.name, tag + "}:f"}
}

// Record returns what is stored under key, decoded: [coordinator.Coordinator.Inspect] without an error to check.
func (e *Env) Record(key coordinator.Key) coordinator.Record {
	e.t.Helper()
	record, err := e.Coordinator.Inspect(context.WithValue(context.Background(), lookKey{}, &look{}), key)
	if err != nil {
		e.t.Fatalf("coordtest: Record: %v", err)
	}
	return record
}

// Entry is one key in Redis as it stands there.
type Entry struct {
	Name  string
	Type  string        // string, hash, list, set, zset, stream
	Value string        // of a string; otherwise empty
	TTL   time.Duration // 0: the key stays for ever
}

// Stored returns everything in Redis, ordered by name: records, fences, and what the code under test wrote.
func (e *Env) Stored() []Entry {
	var all []Entry
	for _, name := range e.server.redis.Keys() {
		entry := Entry{Name: name, Type: e.server.redis.Type(name), TTL: e.server.redis.TTL(name)}
		if entry.Type == "string" {
			entry.Value, _ = e.server.redis.Get(name)
		}
		all = append(all, entry)
	}
	return all
}

// Flush empties the server, as when it was restarted without persistence.
func (e *Env) Flush() { e.server.redis.FlushAll() }
