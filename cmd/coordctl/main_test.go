package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/redistest"
)

var servers redistest.Pool

func TestMain(m *testing.M) {
	redis.SetLogger(silence{})
	_, _ = os.Unsetenv("COORDCTL_REDIS"), os.Unsetenv("COORDCTL_POSTGRES") // nobody's server gets tests
	code := m.Run()
	servers.Stop()
	os.Exit(code)
}

// outcome is what a command line came to.
type outcome struct {
	status   int
	out, err string
}

func invoke(ctx context.Context, args ...string) outcome {
	var out, err bytes.Buffer
	status := run(ctx, args, streams{&out, &err})
	return outcome{status, out.String(), err.String()}
}

func TestUsage(t *testing.T) {
	for _, line := range []string{"", "no-such-command", "load --no-such-flag", "demo --payments 1", "demo --clients 41"} {
		got := invoke(t.Context(), strings.Fields(line)...)
		if got.status != exitUsage || got.out != "" || !strings.Contains(got.err, "coordctl --help") {
			t.Errorf("coordctl %s: %+v", line, got)
		}
	}
}
