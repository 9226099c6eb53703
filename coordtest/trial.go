package coordtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
)

// trial is a check under way on one server: a coordinator with a prefix of its own, and a record of what it sends.
type trial struct {
	reporter
	ctx    context.Context
	rdb    redis.UniversalClient
	prefix string
	c      *coordinator.Coordinator
	log    *recorder
	keys   int
	opts   []coordinator.Option // of all coordinators of the check
}

const (
	short = 100 * time.Millisecond // the shortest lease, for those that are to lapse
	long  = time.Minute            // for those that are not
	grace = 20 * time.Millisecond  // of a short one
)

func newTrial(r reporter, rdb redis.UniversalClient, opts ...coordinator.Option) *trial {
	t := &trial{reporter: r, ctx: r.Context(), rdb: rdb, opts: opts, prefix: "coordtest-" + rand.Text()[:12], log: &recorder{}}
	t.log.prefix = t.prefix + ":"
	rdb.AddHook(t.log)
	t.Cleanup(t.sweep)
	t.c = t.open(coordinator.WithObserver(t.log))
	return t
}

// open makes a coordinator that lives for the check: another process, as far as the first can tell.
func (t *trial) open(opts ...coordinator.Option) *coordinator.Coordinator {
	t.Helper()
	c, err := coordinator.New(t.rdb, slices.Concat([]coordinator.Option{
		coordinator.WithPrefix(t.prefix), coordinator.WithLease(long), coordinator.WithTimeout(10 * time.Second),
	}, t.opts, opts)...)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// sweep holds P8's rule about TTLs against every key that the check has touched, then deletes them.
func (t *trial) sweep() {
	ctx := context.Background()
	t.log.stop()
	for _, name := range t.log.names() {
		if ttl, err := t.rdb.PTTL(ctx, name).Result(); err != nil {
			t.Errorf("PTTL %s: %v", name, err)
		} else if ttl == -1 && strings.HasPrefix(name, t.log.prefix) {
			t.Errorf("P8: the key %s has no TTL", name)
		}
		t.rdb.Del(ctx, name)
	}
}

// key is one that nothing else uses.
func (t *trial) key() coordinator.Key {
	t.keys++
	return coordinator.Key{Scope: "conformance", ID: fmt.Sprintf("key %d", t.keys)}
}

// kinds is a key by itself and a key of a resource.
func (t *trial) kinds() map[string]coordinator.Key {
	with := t.key()
	with.Resource = "resource of " + with.ID
	return map[string]coordinator.Key{"a key": t.key(), "a key of a resource": with}
}

func (t *trial) claim(c *coordinator.Coordinator, key coordinator.Key, opts ...coordinator.ClaimOption) *coordinator.Lease {
	t.Helper()
	l, err := c.Claim(t.ctx, key, opts...)
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	return l
}

// ok ends the check on an error.
func (t *trial) ok(what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// want expects an error, nil too.
func (t *trial) want(what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}

func (t *trial) inspect(key coordinator.Key) coordinator.Record {
	t.Helper()
	r, err := t.c.Inspect(t.ctx, key)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	return r
}

func (t *trial) state(what string, key coordinator.Key, want coordinator.State) {
	t.Helper()
	if got := t.inspect(key).State; got != want {
		t.Errorf("%s: the key is %s, not %s", what, got, want)
	}
}

// lapsed waits until the lease on key has run out.
func (t *trial) lapsed(key coordinator.Key) {
	t.Helper()
	t.within(5*time.Second, "a lease of 100ms lapses", func() bool { return t.inspect(key).State == coordinator.StateLapsed })
}

func (t *trial) within(limit time.Duration, what string, met func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// names are the Redis keys of key's record and, with a resource, of its fence.
func (t *trial) names(key coordinator.Key) []string {
	t.Helper()
	seen := &look{}
	if _, err := t.c.Inspect(context.WithValue(t.ctx, lookKey{}, seen), key); err != nil {
		t.Fatalf("inspect: %v", err)
	}
	if key.Resource == "" {
		return []string{seen.name}
	}
	tag, _, _ := strings.Cut(seen.name, "}:")
	return []string{seen.name, tag + "}:f"}
}

// raw is what stands in Redis under key, byte for byte.
func (t *trial) raw(key coordinator.Key) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range t.names(key) {
		text, err := t.rdb.Get(t.ctx, name).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Fatalf("GET %s: %v", name, err)
		}
		all[name] = text
	}
	return all
}

// lose deletes what stands under key, as a failover or a flush would.
func (t *trial) lose(key coordinator.Key) {
	t.Helper()
	for _, name := range t.names(key) {
		t.ok("DEL", t.rdb.Del(t.ctx, name).Err())
	}
}

// request is a script as it was sent.
type request struct {
	op   string
	args []any
}

func (r request) String() string { return r.op }

// recorder keeps the scripts that a check sends, so that it can send copies of them. As an Observer it names the calls that
// they belong to.
type recorder struct {
	prefix string

	mu      sync.Mutex
	stopped bool
	sent    []request
	seen    map[string]bool // names of Redis keys
}

// Begin implements [coordinator.Observer].
func (r *recorder) Begin(ctx context.Context, op string) (context.Context, func(coordinator.Event)) {
	return context.WithValue(ctx, callKey{}, op), func(coordinator.Event) {}
}

// Note implements [coordinator.Observer].
func (r *recorder) Note(coordinator.Event) {}

// DialHook implements [redis.Hook].
func (r *recorder) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.keep(ctx, cmd)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (r *recorder) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			r.keep(ctx, cmd)
		}
		return next(ctx, cmds)
	}
}

func (r *recorder) keep(ctx context.Context, cmd redis.Cmder) {
	args := cmd.Args()
	if name := cmd.Name(); name != "evalsha" && name != "eval" || len(args) < 4 {
		return
	}
	record, _ := args[3].(string)
	if !strings.HasPrefix(record, r.prefix) {
		return // another check's, on the same client
	}
	if seen, ok := ctx.Value(lookKey{}).(*look); ok {
		seen.name = record
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	count, _ := args[2].(int)
	for _, name := range args[3 : 3+count] {
		r.seen[name.(string)] = true
	}
	op, _ := ctx.Value(callKey{}).(string)
	if op == "" || op == "inspect" {
		return // renewals in the background are the renewer's; and who only looks is not worth a copy
	}
	r.sent = append(r.sent, request{op: op, args: slices.Clone(args)})
}

func (r *recorder) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

// names are the Redis keys that requests have named, behind a fence too.
func (r *recorder) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.seen))
}

// requests are the scripts sent so far.
func (r *recorder) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}
