package redistest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

var pool Pool

func TestMain(m *testing.M) {
	code := m.Run()
	pool.Stop()
	os.Exit(code)
}

// sharedCluster logs how long starting or healing took: every test which
// needs the cluster pays for it.
func sharedCluster(t *testing.T) (*Cluster, *redis.ClusterClient) {
	t.Helper()
	begin := time.Now()
	c := pool.Cluster(t)
	t.Logf("cluster ready in %v", time.Since(begin))
	client := c.Client(nil)
	t.Cleanup(func() { _ = client.Close() })
	return c, client
}

// heal is where the next test would find what this one broke for good.
func heal(t *testing.T, c *Cluster) {
	t.Helper()
	begin := time.Now()
	if err := c.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("healed in %v", time.Since(begin))
}

func masterFor(t *testing.T, c *Cluster, key string) *Server {
	t.Helper()
	s, err := c.MasterFor(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestClusterServes(t *testing.T) {
	c, client := sharedCluster(t)
	if len(c.Nodes()) != 6 || len(c.Addrs()) != 6 {
		t.Fatalf("%d nodes", len(c.Nodes()))
	}
	for i := range 50 {
		if err := client.Set(ctx, fmt.Sprint("serves", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	m := masterFor(t, c, "serves1")
	replicas, err := c.ReplicasOf(ctx, m)
	if err != nil || len(replicas) != 1 || replicas[0] == m {
		t.Errorf("replicas of %s: %v, %v", m.Addr(), replicas, err)
	}
}

func TestRoles(t *testing.T) {
	c, _ := sharedCluster(t)
	masters, err := c.Masters(ctx)
	if err != nil || len(masters) != 3 {
		t.Fatalf("masters %v, %v", masters, err)
	}
	slots := 0
	for _, m := range masters {
		rs, err := c.SlotsOf(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			slots += r[1] - r[0] + 1
		}
	}
	if slots != slotCount {
		t.Errorf("%d slots in all", slots)
	}
	replicas, err := c.ReplicasOf(ctx, masters[0])
	if err != nil || len(replicas) != 1 {
		t.Fatalf("replicas %v, %v", replicas, err)
	}
	if rs, err := c.SlotsOf(ctx, replicas[0]); len(rs) != 0 || err != nil {
		t.Errorf("a replica owns %v, %v", rs, err)
	}
}

func TestMoveSlot(t *testing.T) {
	c, client := sharedCluster(t)
	const keys = 250
	slot := int(client.ClusterKeySlot(ctx, "{move}").Val())
	for i := range keys {
		if err := client.Set(ctx, fmt.Sprint("{move}", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	from := masterFor(t, c, "{move}")
	to := otherMaster(t, c, from)
	if err := c.MoveSlot(ctx, slot, from, to); err != nil {
		t.Fatal(err)
	}
	if got := masterFor(t, c, "{move}"); got != to {
		t.Errorf("slot is at %s, want %s", got.Addr(), to.Addr())
	}
	for i := range keys {
		if v, err := client.Get(ctx, fmt.Sprint("{move}", i)).Int(); v != i || err != nil {
			t.Fatalf("key %d: %d, %v", i, v, err)
		}
	}
}

func TestHalfMovedSlot(t *testing.T) {
	c, client := sharedCluster(t)
	slot := int(client.ClusterKeySlot(ctx, "{half}").Val())
	for i := range 10 {
		if err := client.Set(ctx, fmt.Sprint("{half}", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	from := masterFor(t, c, "{half}")
	to := otherMaster(t, c, from)
	if err := c.BeginMove(ctx, slot, from, to); err != nil {
		t.Fatal(err)
	}
	if n, err := c.MoveKeys(ctx, slot, from, to, 4); n != 4 || err != nil {
		t.Fatalf("moved %d, %v", n, err)
	}
	if n := to.admin.ClusterCountKeysInSlot(ctx, slot).Val(); n != 4 {
		t.Errorf("%d keys have moved", n)
	}
	for _, s := range []*Server{from, to} {
		if rs, err := c.SlotsOf(ctx, s); err != nil || !slices.ContainsFunc(rs, func(r [2]int) bool {
			return r[0] <= slot && slot <= r[1]
		}) {
			t.Errorf("slot %d on its way is not in %v of %s, %v", slot, rs, s.Addr(), err)
		}
	}
	if err := c.EndMove(ctx, slot, from, to); err == nil {
		t.Error("the move could be ended with keys left behind")
	}
	heal(t, c)
	for i := range 10 {
		if v, err := client.Get(ctx, fmt.Sprint("{half}", i)).Int(); v != i || err != nil {
			t.Errorf("key %d: %d, %v", i, v, err)
		}
	}
}

// TestTargetAloneKnows has the source forget a move when the keys are gone.
func TestTargetAloneKnows(t *testing.T) {
	c, client := sharedCluster(t)
	if err := client.Set(ctx, "{import}1", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	slot := int(client.ClusterKeySlot(ctx, "{import}").Val())
	from := masterFor(t, c, "{import}")
	to := otherMaster(t, c, from)
	if err := c.BeginMove(ctx, slot, from, to); err != nil {
		t.Fatal(err)
	}
	if _, err := c.MoveKeys(ctx, slot, from, to, 0); err != nil {
		t.Fatal(err)
	}
	if err := setSlot(ctx, from, slot, "STABLE"); err != nil {
		t.Fatal(err)
	}
	heal(t, c)
	if v, err := client.Get(ctx, "{import}1").Int(); v != 1 || err != nil {
		t.Errorf("after healing: %d, %v", v, err)
	}
}

func TestKillPromoteHeal(t *testing.T) {
	c, client := sharedCluster(t)
	old := masterFor(t, c, "kill")
	set := func() {
		t.Helper()
		// Of its own accord go-redis goes on to dial a dead master until
		// its idea of the cluster is a minute old.
		err := until(ctx, "the client", func(ctx context.Context) error {
			client.ReloadState(ctx)
			return client.Set(ctx, "kill", "v", 0).Err()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	set()
	replicas, err := c.ReplicasOf(ctx, old)
	if err != nil || len(replicas) != 1 {
		t.Fatalf("replicas %v, %v", replicas, err)
	}
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	next, took, err := c.WaitPromoted(ctx, old)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("promoted in %v", took)
	if next != replicas[0] {
		t.Errorf("promoted %s instead of %s", next.Addr(), replicas[0].Addr())
	}
	if err := c.WaitOK(ctx); err != nil {
		t.Fatal(err)
	}
	set()
	heal(t, c)
	if got := masterFor(t, c, "kill"); got != next {
		t.Errorf("after healing %s is master", got.Addr())
	}
}

func TestPausePromoteHeal(t *testing.T) {
	c, client := sharedCluster(t)
	if err := client.Set(ctx, "pause", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	old := masterFor(t, c, "pause")
	if err := old.Pause(); err != nil {
		t.Fatal(err)
	}
	next, took, err := c.WaitPromoted(ctx, old)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("promoted in %v", took)
	heal(t, c)
	if got := masterFor(t, c, "pause"); got != next {
		t.Errorf("after healing %s is master", got.Addr())
	}
}

func TestManualFailover(t *testing.T) {
	c, client := sharedCluster(t)
	if err := client.Set(ctx, "manual", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	old := masterFor(t, c, "manual")
	replicas, err := c.ReplicasOf(ctx, old)
	if err != nil || len(replicas) != 1 {
		t.Fatalf("replicas %v, %v", replicas, err)
	}
	begin := time.Now()
	if err := c.Failover(ctx, replicas[0]); err != nil {
		t.Fatal(err)
	}
	t.Logf("failed over in %v", time.Since(begin))
	if got := masterFor(t, c, "manual"); got != replicas[0] {
		t.Errorf("%s is master", got.Addr())
	}
	if v, err := client.Get(ctx, "manual").Result(); v != "v" {
		t.Errorf("value %q, %v", v, err)
	}
}

func otherMaster(t *testing.T, c *Cluster, than *Server) *Server {
	t.Helper()
	vs, err := c.views(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if v.node != than && !v.self.slots.empty() {
			return v.node
		}
	}
	t.Fatal("there is only one master")
	return nil
}
