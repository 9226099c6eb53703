package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/scripts"
)

var pool redistest.Pool

func TestMain(m *testing.M) {
	code := m.Run()
	pool.Stop()
	os.Exit(code)
}

// onServers runs a test on miniredis and on a real server, each empty of the test's keys.
func onServers(t *testing.T, test func(t *testing.T, rdb redis.UniversalClient)) {
	t.Run("miniredis", func(t *testing.T) {
		rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		defer rdb.Close()
		test(t, rdb)
	})
	t.Run("redis", func(t *testing.T) {
		rdb := pool.Server(t).Client(nil)
		defer rdb.Close()
		test(t, rdb)
	})
}

// onCluster runs a test on the shared cluster with go-redis' default options.
func onCluster(t *testing.T, test func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient)) {
	nodes := pool.Cluster(t)
	rdb := nodes.Client(nil)
	t.Cleanup(func() { _ = rdb.Close() }) // after what the test itself cleans up
	test(t, nodes, rdb)
}

var keyNumber atomic.Int64

// newKey is a key that no other test uses.
func newKey(t testing.TB) Key {
	return Key{Scope: t.Name(), ID: fmt.Sprintf("%d-%d", keyNumber.Add(1), time.Now().UnixNano())}
}

func open(t testing.TB, rdb redis.UniversalClient, opts ...Option) *Coordinator {
	t.Helper()
	c, err := New(rdb, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func mustClaim(t testing.TB, c *Coordinator, key Key, opts ...ClaimOption) *Lease {
	t.Helper()
	l, err := c.Claim(t.Context(), key, opts...)
	if err != nil {
		t.Fatalf("Claim: %v", err)
	}
	return l
}

// eventually polls for a condition.
func eventually(t testing.TB, within time.Duration, what string, met func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// wantError checks that err is target and that its text has every one of the words.
func wantError(t testing.TB, err, target error, words ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("got %v, want %v", err, target)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not speak of %q", err, word)
		}
	}
}

// recorder keeps the scripts that a client sends, so that a test can send them again. A claim's ctx can be
// told apart by nothing else, so tests use one recorder for each client.
type recorder struct {
	mu   sync.Mutex
	sent [][]any
}

func (r *recorder) DialHook(next redis.DialHook) redis.DialHook { return next }
func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.keep(cmd)
		return next(ctx, cmd)
	}
}
func (r *recorder) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			r.keep(cmd)
		}
		return next(ctx, cmds)
	}
}

func (r *recorder) keep(cmd redis.Cmder) {
	if cmd.Name() == "evalsha" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sent = append(r.sent, slices.Clone(cmd.Args()))
	}
}

// verbOf names the script of a recorded request.
func verbOf(args []any) string {
	for _, s := range scripts.All() {
		if s.SHA == args[1] {
			return s.Verb
		}
	}
	return "fence_eval"
}

// lapse moves the end of a record, and of a fence, into the past, as if their time had run out.
func lapse(t testing.TB, rdb redis.UniversalClient, names ...string) {
	t.Helper()
	for _, name := range names {
		s, err := rdb.Get(t.Context(), name).Result()
		if err != nil {
			t.Fatal(err)
		}
		r, err := protocol.DecodeRecord(s, true)
		if err != nil {
			t.Fatal(err)
		}
		now := rdb.Time(t.Context()).Val()
		r.End = time.Duration(now.UnixMilli()-1) * time.Millisecond
		if err := rdb.Set(t.Context(), name, r.Encode(), redis.KeepTTL).Err(); err != nil {
			t.Fatal(err)
		}
	}
}
