package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

var ctx = context.Background()

// shared is what all tests use: to start it takes seconds.
var shared struct {
	once    sync.Once
	err     error
	clock   *Clock
	cluster *redistest.Cluster
}

func TestMain(m *testing.M) {
	if os.Getenv(envCaller) != "" {
		callerMain()
		return
	}
	code := m.Run()
	if shared.cluster != nil {
		shared.cluster.Stop()
	}
	if shared.clock != nil {
		_ = shared.clock.Close()
	}
	os.Exit(code)
}

const (
	testLease = 300 * time.Millisecond
	testGrace = 30 * time.Millisecond
)

// target returns the cluster behind as many networks as are asked for.
func target(t *testing.T, networks int) *Target {
	t.Helper()
	redistest.Need(t)
	shared.once.Do(func() {
		if shared.clock, shared.err = NewClock(); shared.err == nil {
			shared.cluster, shared.err = StartCluster(ctx, shared.clock)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	to := &Target{
		Cluster: shared.cluster, Clock: shared.clock, Rand: rand.New(rand.NewPCG(seed, 0)),
		Lease: testLease, Grace: testGrace, Log: func(s string) { t.Log(s) },
	}
	for range networks {
		n, err := NewNetwork(shared.cluster)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		to.Networks = append(to.Networks, n)
	}
	return to
}

func byName(t *testing.T, name string) Fault {
	t.Helper()
	for _, f := range All() {
		if f.Name() == name {
			return f
		}
	}
	t.Fatalf("there is no fault %q", name)
	return nil
}

// inject does the fault, and checks what holds for all of them.
func inject(t *testing.T, to *Target, name string) history.Fault {
	t.Helper()
	f := byName(t, name)
	begin := time.Now()
	all, err := f.Inject(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("%d faults happened", len(all))
	}
	h := all[0]
	took := time.Since(begin)
	t.Logf("%s: %d hit, effect %s for %v of %v: %s", name, h.Count, h.Effect,
		time.Duration(h.End-h.Start).Round(time.Millisecond), took.Round(time.Millisecond), h.Detail)
	if h.Name != name || h.Count < 1 || h.Start == 0 || h.End <= h.Start || h.End-h.Start > int64(took) {
		t.Errorf("%+v", h)
	}
	if h.Promoted != 0 && (h.Promoted < h.Start || h.Promoted > h.End) {
		t.Errorf("promoted at %d, from %d to %d", h.Promoted, h.Start, h.End)
	}
	whole(t, to)
	return h
}

// whole checks that the fault has left nothing behind. Healing what is whole takes less than any repair.
func whole(t *testing.T, to *Target) {
	t.Helper()
	for _, s := range to.Cluster.Nodes() {
		if s.PID() == 0 {
			t.Errorf("%s is dead", s.Addr())
		}
		if d := to.Clock.Offset(s); d != 0 {
			t.Errorf("the clock of %s is ahead by %v", s.Addr(), d)
		}
		if n := to.Clock.node(s).cut.Load(); n != 0 {
			t.Errorf("%s is cut off", s.Addr())
		}
		members, err := ask(ctx, s, "CLUSTER", "NODES").Text()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(members) {
			// Of whom it has heard in the future, it does not notice the death.
			pong, err := strconv.ParseInt(strings.Fields(line)[5], 10, 64)
			if strings.Contains(line, "myself") {
				continue
			}
			if err != nil || pong > time.Now().Add(time.Second).UnixMilli() {
				t.Errorf("%s has heard at %v: %s", s.Addr(), time.UnixMilli(pong), line)
			}
		}
		if pair, err := ask(ctx, s, "CONFIG", "GET", "maxmemory").StringSlice(); err != nil || pair[1] != "0" {
			t.Errorf("%s: %v, %v", s.Addr(), pair, err)
		}
	}
	for _, l := range to.links() {
		if len(l.rules) != 0 || l.holes != 0 || l.proxy.Held() != 0 {
			t.Errorf("%d rules, %d holes and %d held requests are left before %s", len(l.rules), l.holes, l.proxy.Held(), l.node)
		}
	}
	begin := time.Now()
	if err := to.Heal(ctx); err != nil {
		for _, s := range to.Cluster.Nodes() {
			t.Logf("%s:\n%s", s.Addr(), ask(ctx, s, "CLUSTER", "NODES").Val())
		}
		t.Fatal(err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("healing took %v", took)
	}
}

// client is one that goes through a network. Like others it sends again what was not answered.
func client(t *testing.T, n *Network) *redis.ClusterClient {
	t.Helper()
	c := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: slices.Collect(maps.Keys(n.Addrs())), Dialer: Dialer(n.Addrs()), MaxRedirects: 8, MaxRetryBackoff: 20 * time.Millisecond,
		ReadTimeout: 2 * time.Second,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// once is a client of the master of a key that goes through a network and sends everything once.
func once(t *testing.T, to *Target, n *Network, key string) *redis.Client {
	t.Helper()
	master, err := to.Cluster.MasterFor(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: n.to(master).proxy.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// direct is a client that goes past all networks.
func direct(t *testing.T, to *Target) *redis.ClusterClient {
	t.Helper()
	c := to.Cluster.Client(nil)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// load is callers that count up a key each, all of the time.
type load struct {
	acked   atomic.Int64
	slowest atomic.Int64 // in ns
	stop    func()
	keys    []string
}

// counting is not safe to repeat: what is counted and what was acknowledged differ by what ran without its caller's
// knowledge.
var counting = redis.NewScript(`return redis.call('INCR', KEYS[1])`)

func startLoad(t *testing.T, to *Target, callers int) *load {
	t.Helper()
	l := &load{}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range callers {
		c := client(t, to.Networks[i%len(to.Networks)])
		// Every master gets its share: they serve a third of the slots each, but for some that were moved.
		key := fmt.Sprintf("load:%d", rand.Uint64())
		for c.ClusterKeySlot(ctx, key).Val()*3/16384 != int64(i%3) {
			key = fmt.Sprintf("load:%d", rand.Uint64())
		}
		l.keys = append(l.keys, key)
		if err := c.Set(ctx, key, 0, 0).Err(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				begin := time.Now()
				if err := counting.Eval(context.WithoutCancel(ctx), c, []string{key}).Err(); err == nil {
					l.acked.Add(1)
				} else {
					c.ReloadState(ctx)
				}
				took := int64(time.Since(begin))
				for old := l.slowest.Load(); took > old && !l.slowest.CompareAndSwap(old, took); old = l.slowest.Load() {
				}
				pause(ctx, 2*time.Millisecond)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(l.stop)
	return l
}

// counted ends the load, and returns how often the servers have counted.
func (l *load) counted(t *testing.T, to *Target) int64 {
	t.Helper()
	l.stop()
	c := direct(t, to)
	var n int64
	for _, key := range l.keys {
		v, err := c.Get(ctx, key).Int64()
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
		n += v
	}
	return n
}
