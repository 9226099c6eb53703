package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestDeadServerKeepsItsPort: another test binary must not start a server
// where one was killed that is to be restarted.
func TestDeadServerKeepsItsPort(t *testing.T) {
	t.Parallel()
	s := Run(t)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := bindable(s.Port()); err != nil {
		t.Fatalf("the dead server's port: %v", err)
	}
	if _, err := keep(s.Port()); err == nil {
		t.Error("somebody else could draw it")
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	kept, err := keep(s.Port())
	if err != nil {
		t.Fatalf("after Stop: %v", err)
	}
	_ = kept.Close()
}

// TestPortsOfTheBus: whoever sorts connections by their ports must be right.
func TestPortsOfTheBus(t *testing.T) {
	c, _ := sharedCluster(t)
	for _, s := range c.Nodes() {
		text, err := s.admin.ClusterNodes(ctx).Result()
		if err != nil {
			t.Fatal(err)
		}
		_, bus, _ := strings.Cut(strings.Fields(text)[1], "@") // ip:port@bus
		port, err := strconv.Atoi(strings.TrimRight(bus, ","))
		if err != nil || port < FirstBusPort || port > LastBusPort || s.Port() >= FirstBusPort {
			t.Errorf("%d for clients, %d for the bus, %v", s.Port(), port, err)
		}
	}
}

// TestEpochsBeforeMeetings has one node learn its epoch late. Had the others
// met it by then it would refuse.
func TestEpochsBeforeMeetings(t *testing.T) {
	t.Parallel()
	Need(t)
	c := &Cluster{masters: 2, nodes: make([]*Server, 2), owned: map[*Server]slotSet{}}
	t.Cleanup(c.Stop)
	for i := range c.nodes {
		s, err := start(ctx, clusterConfig(), false, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[i] = s
	}
	c.nodes[1].admin.AddHook(lateEpoch(300 * time.Millisecond))
	if err := c.assemble(ctx); err != nil {
		t.Error(err)
	}
}

// lateEpoch holds up what sets a node's epoch.
type lateEpoch time.Duration

func (lateEpoch) DialHook(next redis.DialHook) redis.DialHook { return next }

func (lateEpoch) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (d lateEpoch) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); len(args) > 1 && args[1] == "SET-CONFIG-EPOCH" {
			time.Sleep(time.Duration(d)) // not a wait: it is how late the node is
		}
		return next(ctx, cmd)
	}
}

// TestEnvironmentOfEachNode asks a script in the server's place, because Redis
// writes its title over what the system would tell of its environment.
func TestEnvironmentOfEachNode(t *testing.T) {
	Need(t)
	bin, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "redis-server")
	text := fmt.Sprintf("#!/bin/sh\necho \"$REDISTEST_NODE\" >> node\nexec '%s' \"$@\"\n", bin)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvServer, script)
	c, err := Spec{Masters: 2, Env: func(node int) []string {
		return []string{fmt.Sprint("REDISTEST_NODE=", node)}
	}}.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	for i, s := range c.Nodes() {
		if err := s.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(s.dir, "node"))
		if want := fmt.Sprintf("%d\n%d\n", i, i); string(got) != want || err != nil {
			t.Errorf("node %d was started with %q, %v", i, got, err)
		}
	}
}
