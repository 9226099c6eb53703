package redistest

import (
	"context"
	"os"
	"testing"
)

// EnvRequire names the environment variable which, set to 1, turns a missing
// server into a failure. On a laptop a skipped test is a courtesy; in CI it is
// a test which silently does not run.
const EnvRequire = "COORD_REQUIRE_SERVERS"

// Need skips the test if there is no redis-server, or fails it if
// COORD_REQUIRE_SERVERS=1.
func Need(tb testing.TB) {
	tb.Helper()
	if _, err := Find(); err != nil {
		if os.Getenv(EnvRequire) == "1" {
			tb.Fatal(err)
		}
		tb.Skip(err)
	}
}

// Run is [Start] for the time of a test.
func Run(tb testing.TB, extra ...string) *Server {
	tb.Helper()
	return run(tb, func() (*Server, error) { return Start(context.Background(), extra...) })
}

// RunReplica is [StartReplica] for the time of a test.
func RunReplica(tb testing.TB, of *Server, extra ...string) *Server {
	tb.Helper()
	return run(tb, func() (*Server, error) { return StartReplica(context.Background(), of, extra...) })
}

// RunSentinels is [StartSentinels] for the time of a test.
func RunSentinels(tb testing.TB, n int, extra ...string) *Sentinels {
	tb.Helper()
	return run(tb, func() (*Sentinels, error) { return StartSentinels(context.Background(), n, extra...) })
}

// RunCluster is [StartCluster] for the time of a test.
func RunCluster(tb testing.TB, masters, replicasPer int, extra ...string) *Cluster {
	tb.Helper()
	return run(tb, func() (*Cluster, error) {
		return StartCluster(context.Background(), masters, replicasPer, extra...)
	})
}

func run[T interface{ Stop() }](tb testing.TB, start func() (T, error)) T {
	tb.Helper()
	Need(tb)
	t, err := start()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(t.Stop)
	return t
}
