package redistest

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestLeftovers has a move fail such that the target keeps copies, of which one
// is in the way later and one of a key that is gone by then.
func TestLeftovers(t *testing.T) {
	c, client := sharedCluster(t)
	slot := int(client.ClusterKeySlot(ctx, "{left}").Val())
	from := masterFor(t, c, "{left}")
	to := otherMaster(t, c, from)
	set := func(key, value string) {
		t.Helper()
		if err := client.Set(ctx, key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("{left}1", "old")
	set("{left}2", "old")
	if err := c.BeginMove(ctx, slot, from, to); err != nil {
		t.Fatal(err)
	}
	if n, err := moveKeys(ctx, slot, from, to, 2, "COPY"); n != 2 || err != nil {
		t.Fatalf("copied %d, %v", n, err)
	}
	for _, s := range []*Server{from, to} {
		if err := setSlot(ctx, s, slot, "STABLE"); err != nil {
			t.Fatal(err)
		}
	}
	set("{left}1", "new")
	if err := client.Del(ctx, "{left}2").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.MoveSlot(ctx, slot, from, to); err != nil {
		t.Fatal(err)
	}
	if v, err := client.Get(ctx, "{left}1").Result(); v != "new" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := client.Get(ctx, "{left}2").Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("a key that was deleted is %q, %v", v, err)
	}
}

// TestOneMasterTooMany has a replica leave, come back as a master, and be given
// a slot.
func TestOneMasterTooMany(t *testing.T) {
	c, client := sharedCluster(t)
	if err := client.Set(ctx, "many", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	slot := int(client.ClusterKeySlot(ctx, "many").Val())
	from := masterFor(t, c, "many")
	replicas, err := c.ReplicasOf(ctx, from)
	if err != nil || len(replicas) != 1 {
		t.Fatalf("replicas %v, %v", replicas, err)
	}
	fourth := replicas[0]
	if err := fourth.admin.Do(ctx, "CLUSTER", "RESET", "SOFT").Err(); err != nil {
		t.Fatal(err)
	}
	if err := fourth.admin.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Nodes() {
		if err := fourth.admin.ClusterMeet(ctx, host, strconv.Itoa(s.port)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	err = until(ctx, "the nodes to meet again", func(ctx context.Context) error {
		vs, err := c.views(ctx)
		if err != nil {
			return err
		}
		return errors.Join(c.acquainted(vs), c.serving(ctx))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MoveSlot(ctx, slot, from, fourth); err != nil {
		t.Fatal(err)
	}
	if masters, err := c.Masters(ctx); len(masters) != 4 || err != nil {
		t.Fatalf("%d masters, %v", len(masters), err)
	}
	heal(t, c)
	if masters, err := c.Masters(ctx); len(masters) != 3 || err != nil {
		t.Errorf("%d masters, %v", len(masters), err)
	}
	if v, err := client.Get(ctx, "many").Result(); v != "v" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

// TestOrphanedSlot has the owner of a slot give it up to a node which does not
// know.
func TestOrphanedSlot(t *testing.T) {
	c, client := sharedCluster(t)
	if err := client.Set(ctx, "orphan", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	slot := int(client.ClusterKeySlot(ctx, "orphan").Val())
	from := masterFor(t, c, "orphan")
	id, err := c.id(ctx, otherMaster(t, c, from))
	if err != nil {
		t.Fatal(err)
	}
	// A node gives up no slot of which it has keys.
	if err := client.Del(ctx, "orphan").Err(); err != nil {
		t.Fatal(err)
	}
	if err := setSlot(ctx, from, slot, "NODE", id); err != nil {
		t.Fatal(err)
	}
	heal(t, c)
	if err := client.Set(ctx, "orphan", "v", 0).Err(); err != nil {
		t.Error(err)
	}
}

// TestImporterWithoutSlots has the target of a move lose what it owned, and the
// source the slot.
func TestImporterWithoutSlots(t *testing.T) {
	replacedInMove(t, func(from, to *Server) *Server { return to })
}

// TestSourceWithoutSlots has the source of a move lose what it owned.
func TestSourceWithoutSlots(t *testing.T) {
	replacedInMove(t, func(from, to *Server) *Server { return from })
}

// replacedInMove kills one side of a move, and has the slot go elsewhere. Who was
// killed does not become a replica by itself, because its successor has got more
// than what it owned.
func replacedInMove(t *testing.T, choose func(from, to *Server) *Server) {
	c, client := sharedCluster(t)
	if err := client.Set(ctx, "importer", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	slot := int(client.ClusterKeySlot(ctx, "importer").Val())
	from := masterFor(t, c, "importer")
	to := otherMaster(t, c, from)
	var third *Server
	masters, err := c.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range masters {
		if m != from && m != to {
			third = m
		}
	}
	if err := c.BeginMove(ctx, slot, from, to); err != nil {
		t.Fatal(err)
	}
	victim := choose(from, to)
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	next, _, err := c.WaitPromoted(ctx, victim)
	if err != nil {
		t.Fatal(err)
	}
	other := from
	if victim == from {
		other = to
	}
	if err := setSlot(ctx, other, slot, "STABLE"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitOK(ctx); err != nil {
		t.Fatal(err)
	}
	owned, err := c.SlotsOf(ctx, third)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MoveSlot(ctx, owned[0][0], third, next); err != nil {
		t.Fatal(err)
	}
	if err := c.MoveSlot(ctx, slot, masterFor(t, c, "importer"), third); err != nil {
		t.Fatal(err)
	}
	heal(t, c)
	v, err := client.Get(ctx, "importer").Result()
	info, failed := c.nodes[0].info(ctx, "server")
	if failed != nil {
		t.Fatal(failed)
	}
	if errors.Is(err, redis.Nil) && victim == to && info["valkey_version"] != "" {
		// The importer takes the slot as soon as it hears that its source has it no more, with a new
		// epoch, and the third node deletes its keys. There is nothing that Heal could do about it.
		t.Log("Valkey's importer came back and took the slot, empty")
		return
	}
	if v != "v" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}
