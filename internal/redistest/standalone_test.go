package redistest

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

var ctx = context.Background()

func TestFindSaysHowToGetIt(t *testing.T) {
	t.Setenv(EnvServer, "/nonexistent/redis-server")
	_, err := Find()
	if err == nil || !strings.Contains(err.Error(), "apt-get install redis-server") || !strings.Contains(err.Error(), EnvServer) {
		t.Fatalf("Find() = %v", err)
	}
}

func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.Signal(0)) == nil
}

func TestStandalone(t *testing.T) {
	t.Parallel()
	s := Run(t, "maxmemory", "10mb")
	c := s.Client(nil)
	defer c.Close()
	if got := c.ConfigGet(ctx, "maxmemory").Val()["maxmemory"]; got != "10485760" {
		t.Errorf("maxmemory = %q", got)
	}
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if s.PID() != 0 || alive(pid) {
		t.Error("lives on after Kill")
	}
	if err := s.Kill(); err != nil {
		t.Errorf("second Kill: %v", err)
	}
	if s.Pause() == nil {
		t.Error("a dead server can be paused")
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(ctx, "k").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("after a restart without persistence: %v", err)
	}
}

func TestRestartKeepsAppendOnlyFile(t *testing.T) {
	t.Parallel()
	s := Run(t, "appendonly", "yes")
	c := s.Client(nil)
	defer c.Close()
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Get(ctx, "k").Result(); v != "v" {
		t.Errorf("after a restart: %q, %v", v, err)
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	s := Run(t)
	c := s.Client(&redis.Options{ReadTimeout: 100 * time.Millisecond, MaxRetries: -1, DisableIdentity: true})
	defer c.Close()
	if err := c.Ping(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if c.Ping(ctx).Err() == nil {
		t.Error("a paused server answers")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(ctx).Err(); err != nil {
		t.Error(err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	Need(t)
	s, err := Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	s.Stop()
	if alive(pid) {
		t.Error("the process is still there")
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestStartTellsWhy(t *testing.T) {
	t.Parallel()
	Need(t)
	_, err := Start(ctx, "no-such-directive", "1")
	if err == nil || !strings.Contains(err.Error(), "no-such-directive") {
		t.Errorf("Start = %v", err)
	}
	if _, err := Start(ctx, "odd"); err == nil {
		t.Error("an odd number of extras is accepted")
	}
}

func TestStartBehindPassword(t *testing.T) {
	t.Parallel()
	s := Run(t, "requirepass", "secret")
	c := s.Client(nil)
	defer c.Close()
	if err := c.Ping(ctx).Err(); err == nil {
		t.Error("no password is required")
	}
}

func TestReplica(t *testing.T) {
	t.Parallel()
	s := Run(t)
	r := RunReplica(t, s)
	c, rc := s.Client(nil), r.Client(nil)
	defer c.Close()
	defer rc.Close()
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Wait(ctx, 1, 5*time.Second).Result(); n != 1 {
		t.Fatalf("WAIT = %d, %v", n, err)
	}
	if v, err := rc.Get(ctx, "k").Result(); v != "v" {
		t.Errorf("replica has %q, %v", v, err)
	}
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	g := RunSentinels(t, 3)
	t.Logf("started in %v", time.Since(begin))
	c := g.Client(nil)
	defer c.Close()
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Wait(ctx, 1, 5*time.Second).Result(); n != 1 {
		t.Fatalf("WAIT = %d, %v", n, err)
	}
	if err := g.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	next, took, err := g.WaitFailover(ctx, g.Primary)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("failed over in %v", took)
	if next != g.Replica {
		t.Errorf("promoted %s", next.Addr())
	}
	err = until(ctx, "the client to find the new primary", func(ctx context.Context) error {
		return c.Get(ctx, "k").Err()
	})
	if err != nil {
		t.Error(err)
	}
}
