package run

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/caller"
	"github.com/onceward/coordinator/internal/pgtest"
	"github.com/onceward/coordinator/internal/redistest"
)

// asCaller is the argument with which this test's program is a process of callers.
const asCaller = "caller"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == asCaller {
		signal.Ignore(os.Interrupt)
		if err := caller.Main(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	redis.SetLogger(caller.Silence{})
	os.Exit(m.Run())
}

// TestChaosShort is a run with a fault of each kind, half of the times with a cache of results. go run ./chaos has all of
// them, for longer.
func TestChaosShort(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	redistest.Need(t)
	pgtest.Need(t)
	var told bytes.Buffer
	seed := 1 + rand.Int64N(1_000_000)
	report, err := Run(context.Background(), Options{
		Seed: seed, Cache: time.Duration(seed%2) * 300 * time.Millisecond, Duration: time.Second, Groups: []string{Short}, Processes: 3, Callers: 4,
		Command: []string{os.Args[0], asCaller}, Told: &told,
	})
	if report != nil {
		report.Table(&told)
	}
	t.Log(told.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Verdict(); err != nil {
		t.Error(err)
	}
}
