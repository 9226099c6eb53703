package coordinator_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// docs/redis.md has an ACL line to paste. These tests run every call under that user: it must suffice, and nothing in it may be idle.

const aclUser, aclPassword = "coordinator", "CHANGE-ME"

// aclLine is a marked line of docs/redis.md, as the arguments of ACL SETUSER.
func aclLine(t *testing.T, mark, begin string) []any {
	t.Helper()
	text, err := os.ReadFile("docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "<!-- acl: "+mark+" -->\n```text\n"+begin+" ")
	line, _, closed := strings.Cut(after, "\n```\n")
	if !found || !closed || strings.Contains(line, "\n") {
		t.Fatalf("docs/redis.md has no line marked <!-- acl: %s -->", mark)
	}
	args := []any{"acl", "setuser"}
	for _, word := range strings.Fields(line) {
		args = append(args, word)
	}
	return args
}

func do(t *testing.T, node *redis.Client, args ...any) any {
	t.Helper()
	reply, err := node.Do(context.Background(), args...).Result()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return reply
}

// newUser makes the user on a node, and lets the node count calls and refusals from here on.
func newUser(t *testing.T, node *redis.Client) {
	t.Helper()
	do(t, node, aclLine(t, "user", "user")...)
	do(t, node, "acl", "log", "reset")
	do(t, node, "config", "resetstat")
}

// refusals is what the node's ACL log says. What go-redis tells about itself may be refused.
func refusals(t *testing.T, node *redis.Client) (all []string) {
	t.Helper()
	entries, err := node.ACLLog(context.Background(), 100).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Object, "client|") {
			all = append(all, fmt.Sprintf("%s %q, %s, %d times", e.Reason, e.Object, e.Context, e.Count))
		}
	}
	return all
}

// called adds the commands that ran on the node.
func called(t *testing.T, node *redis.Client, calls map[string]int) {
	t.Helper()
	text, err := node.Info(context.Background(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, rest, found := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		count, _, _ := strings.Cut(rest, ",")
		if n, err := strconv.Atoi(count); found && err == nil {
			calls[name] += n
		}
	}
}

// exercise makes every call that speaks to a server.
func exercise(t *testing.T, c *coordinator.Coordinator, name string) {
	t.Helper()
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %s: %v", name, what, err)
		}
	}
	claim := func(key coordinator.Key, opts ...coordinator.ClaimOption) *coordinator.Lease {
		t.Helper()
		lease, err := c.Claim(ctx, key, opts...)
		must("Claim", err)
		return lease
	}
	must("Load", c.Load(ctx))

	first := coordinator.Key{Scope: name, ID: "first", Resource: "account/42"}
	second := coordinator.Key{Scope: name, ID: "second", Resource: "account/42"}
	lease := claim(first)
	must("Renew", lease.Renew(ctx))
	must("SaveCheckpoint", lease.SaveCheckpoint(ctx, []byte("half")))
	resumed, err := c.Resume(ctx, first, lease.Grant())
	must("Resume", err)

	// One waits for the record, and only for a while, one for the fence: two channels of one slot, the first of which is left early.
	began := time.Now()
	taken := make(chan error, 1)
	go func() {
		next, err := c.Claim(ctx, second, coordinator.WaitUpTo(10*time.Second))
		if err == nil {
			err = next.Release(ctx)
		}
		taken <- err
	}()
	if _, err := c.Claim(ctx, first, coordinator.WaitUpTo(200*time.Millisecond)); !errors.Is(err, coordinator.ErrInProgress) {
		t.Fatalf("%s: a claim that waits: %v, want ErrInProgress", name, err)
	}
	time.Sleep(100 * time.Millisecond)
	must("Complete", resumed.Complete(ctx, []byte("done")))
	must("waiting for the resource", <-taken)
	if waited := time.Since(began); waited > 1500*time.Millisecond {
		t.Errorf("%s: the waiter took %v, so it polled and was not woken", name, waited)
	}

	_, err = c.Result(ctx, first, nil)
	must("Result", err)
	_, err = c.Inspect(ctx, first)
	must("Inspect", err)
	must("Expire", c.Expire(ctx, first))
	must("GiveBack", c.GiveBack(ctx, first, strings.Repeat("0", 32)))

	lapsed := coordinator.Key{Scope: name, ID: "lapsed"}
	claim(lapsed, coordinator.LeaseFor(100*time.Millisecond), coordinator.ManualRenewal())
	time.Sleep(150 * time.Millisecond)
	must("Resolve", c.Resolve(ctx, lapsed, coordinator.Resolution{Payload: []byte("settled")}))

	var requests []coordinator.ClaimRequest
	for i := range 10 {
		requests = append(requests, coordinator.ClaimRequest{Key: coordinator.Key{Scope: name, ID: fmt.Sprint(i)}})
	}
	for _, r := range c.ClaimMany(ctx, requests) {
		must("ClaimMany", r.Err)
		must("Fail", r.Lease.Fail(ctx, []byte("no")))
	}

	guarded := claim(coordinator.Key{Scope: name, ID: "guarded"})
	fence := c.Fence(guarded.Key())
	must("Fence.Do", fence.Do(ctx, guarded.Grant(), "incrby", "balance:"+fence.Tag(), 5).Err())
	must("Fence.Eval", fence.Eval(ctx, guarded.Grant(), "return redis.call('HSET', KEYS[1], 'f', ARGV[1])", []string{"balance:h" + fence.Tag()}, "v").Err())
	must("Release", guarded.Release(ctx))
}

func open(t *testing.T, rdb redis.UniversalClient, opts ...coordinator.Option) *coordinator.Coordinator {
	t.Helper()
	c, err := coordinator.New(rdb, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), rdb.Close() })
	return c
}

func TestACLLineSuffices(t *testing.T) {
	calls := map[string]int{}

	t.Run("server", func(t *testing.T) {
		server := redistest.Run(t)
		redistest.RunReplica(t, server)
		node := server.Client(nil)
		defer node.Close()
		newUser(t, node)
		do(t, node, aclLine(t, "fence", "ACL SETUSER")...)
		for _, protocol := range []int{2, 3} {
			rdb := server.Client(&redis.Options{Username: aclUser, Password: aclPassword, Protocol: protocol})
			exercise(t, open(t, rdb), fmt.Sprint("protocol ", protocol))
		}
		rdb := server.Client(&redis.Options{Username: aclUser, Password: aclPassword})
		exercise(t, open(t, rdb, coordinator.WithReplicas(1, time.Second)), "replicas")
		for _, refusal := range refusals(t, node) {
			t.Error("refused:", refusal)
		}
		called(t, node, calls)
	})

	t.Run("cluster", func(t *testing.T) {
		cluster := redistest.RunCluster(t, 2, 0)
		var nodes []*redis.Client
		for _, server := range cluster.Nodes() {
			node := server.Client(nil)
			defer node.Close()
			newUser(t, node)
			do(t, node, aclLine(t, "fence", "ACL SETUSER")...)
			nodes = append(nodes, node)
		}
		c := open(t, cluster.Client(&redis.ClusterOptions{Username: aclUser, Password: aclPassword}))
		exercise(t, c, "cluster")

		// A key of a slot that is being moved is claimed where ASK points to.
		key := coordinator.Key{ID: "moving"}
		tag := c.Fence(key).Tag()
		from, err := cluster.MasterFor(t.Context(), tag)
		if err != nil {
			t.Fatal(err)
		}
		to := cluster.Nodes()[0]
		if to == from {
			to = cluster.Nodes()[1]
		}
		slot, err := nodes[0].ClusterKeySlot(t.Context(), tag).Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := cluster.BeginMove(t.Context(), int(slot), from, to); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Claim(t.Context(), key); err != nil {
			t.Fatalf("Claim in a slot that moves: %v", err)
		}
		for _, node := range nodes {
			for _, refusal := range refusals(t, node) {
				t.Error("refused:", refusal)
			}
			called(t, node, calls)
		}
	})

	if t.Failed() || len(calls) == 0 {
		return
	}
	for _, word := range aclLine(t, "user", "user") {
		if command, grant := strings.CutPrefix(word.(string), "+"); grant && calls[command] == 0 {
			t.Errorf("the line grants %s, which nothing uses", command)
		}
	}
}

func TestACLWithoutACommand(t *testing.T) {
	server := redistest.Run(t)
	node := server.Client(nil)
	defer node.Close()
	newUser(t, node)
	c := open(t, server.Client(&redis.Options{Username: aclUser, Password: aclPassword}))

	// Waking may be refused: nothing but the wake-up is lost.
	do(t, node, "acl", "setuser", aclUser, "-publish", "-spublish")
	lease, err := c.Claim(t.Context(), coordinator.Key{ID: "quiet"})
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Complete(t.Context(), nil); err != nil {
		t.Errorf("Complete without PUBLISH: %v", err)
	}

	for _, rule := range []string{"-evalsha", "resetkeys"} {
		do(t, node, "acl", "setuser", aclUser, rule)
		_, err := c.Claim(t.Context(), coordinator.Key{ID: "refused"})
		if !errors.Is(err, coordinator.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "docs/redis.md") {
			t.Errorf("Claim after %s: %v; want ErrUnavailable and a word of docs/redis.md", rule, err)
		}
		do(t, node, aclLine(t, "user", "user")...)
	}
}
