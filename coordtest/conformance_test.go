package coordtest_test

import (
	"os"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/coordtest"
	"github.com/onceward/coordinator/internal/redistest"
)

var pool redistest.Pool

func TestMain(m *testing.M) {
	code := m.Run()
	pool.Stop()
	os.Exit(code)
}

func TestConformanceOfMiniredis(t *testing.T) {
	t.Parallel()
	coordtest.RunConformance(t, func(t *testing.T) redis.UniversalClient {
		rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	})
}

func TestConformanceOfServer(t *testing.T) {
	t.Parallel()
	server := pool.Server(t)
	coordtest.RunConformance(t, func(t *testing.T) redis.UniversalClient {
		rdb := server.Client(nil)
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	})
}

func TestConformanceOfCluster(t *testing.T) {
	t.Parallel()
	nodes := pool.Cluster(t)
	coordtest.RunConformance(t, func(t *testing.T) redis.UniversalClient {
		rdb := nodes.Client(nil)
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	})
}
