package coordmsg_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
)

// pool is the cluster that the tests share, which is started for the first that needs it.
var pool = struct {
	once    sync.Once
	cluster *redistest.Cluster
	err     error
}{}

func TestMain(m *testing.M) {
	code := m.Run()
	if pool.cluster != nil {
		pool.cluster.Stop()
	}
	if left := leftBehind(); code == 0 && left != "" {
		fmt.Println("goroutines are left behind:\n" + left)
		code = 1
	}
	os.Exit(code)
}

// leftBehind are goroutines in this module's code after all tests, given some time to end.
func leftBehind() string {
	var left []byte
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		stacks := make([]byte, 1<<20)
		left = nil
		for i, one := range bytes.Split(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
			if i > 0 && bytes.Contains(one, []byte("onceward/coordinator")) {
				left = append(append(left, one...), "\n\n"...)
			}
		}
		if left == nil {
			break
		}
	}
	return string(left)
}

// place is a Redis that a test runs on, with a way to take it away.
type place struct {
	client func() redis.UniversalClient
	kill   func(t *testing.T)
	back   func(t *testing.T)
}

func onFake(t *testing.T) *place {
	server := miniredis.RunT(t)
	return &place{
		client: func() redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
		},
		kill: func(*testing.T) { server.Close() },
		back: func(t *testing.T) {
			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func onCluster(t *testing.T) *place {
	redistest.Need(t)
	pool.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		pool.cluster, pool.err = redistest.StartCluster(ctx, 3, 0)
	})
	if pool.err != nil {
		t.Fatal(pool.err)
	}
	heal := func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := pool.cluster.Heal(ctx); err != nil {
			t.Error(err)
		}
	}
	return &place{
		client: func() redis.UniversalClient { return pool.cluster.Client(nil) },
		kill: func(t *testing.T) {
			t.Cleanup(func() { heal(t) })
			for _, node := range pool.cluster.Nodes() {
				if err := node.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		},
		back: heal,
	}
}

// everywhere runs a test on miniredis and on a cluster.
func everywhere(t *testing.T, test func(t *testing.T, p *place)) {
	t.Run("miniredis", func(t *testing.T) { test(t, onFake(t)) })
	t.Run("cluster", func(t *testing.T) { test(t, onCluster(t)) })
}

func (p *place) coordinator(t testing.TB, opts ...coordinator.Option) *coordinator.Coordinator {
	t.Helper()
	return coordinatorOn(t, p.client(), opts...)
}

func coordinatorOn(t testing.TB, rdb redis.UniversalClient, opts ...coordinator.Option) *coordinator.Coordinator {
	t.Helper()
	c, err := coordinator.New(rdb, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = rdb.Close()
	})
	return c
}

var names atomic.Int64

// message is the key of a message that no other test has, on whatever Redis.
func message(t testing.TB) coordinator.Key {
	return coordinator.Key{Scope: "orders", ID: fmt.Sprintf("%s-%d-%d", t.Name(), os.Getpid(), names.Add(1))}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
