package coordtest

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
)

// The promises hold with results at hand too. No check expires elsewhere, or deletes, what the same process then asks for.
func TestConformanceWithAReplayCache(t *testing.T) {
	t.Parallel()
	for _, c := range checks() {
		t.Run(c.name(), func(t *testing.T) {
			rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
			t.Cleanup(func() { _ = rdb.Close() })
			c.run(newTrial(t, rdb, coordinator.WithReplayCache(1<<20, time.Minute)))
		})
	}
}
