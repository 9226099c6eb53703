package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/redistest"
)

// loaded runs load --json, which has to end with that status.
func loaded(t *testing.T, status int, args ...string) []node {
	t.Helper()
	got := invoke(t.Context(), append([]string{"load", "--json"}, args...)...)
	var printed struct{ Nodes []node }
	if err := json.Unmarshal([]byte(got.out), &printed); err != nil || got.status != status {
		t.Fatalf("%v: %+v", err, got)
	}
	if strings.Contains(got.out, "null") {
		t.Errorf("a list that is null: %s", got.out)
	}
	return printed.Nodes
}

// expect compares the checks that warn, in their order, and what is in each text.
func expect(t *testing.T, n node, want ...[2]string) {
	t.Helper()
	matches := slices.EqualFunc(n.Warnings, want, func(w warning, want [2]string) bool {
		return w.Check == want[0] && strings.Contains(w.Text, want[1])
	})
	if !n.OK || !matches {
		t.Errorf("%+v, want %q", n, want)
	}
}

func set(t *testing.T, s *redistest.Server, name, value string) {
	t.Helper()
	if err := s.Client(nil).ConfigSet(t.Context(), name, value).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestCheckSettings(t *testing.T) {
	server := redistest.Run(t, "maxmemory-policy", "volatile-lru")
	n := loaded(t, exitOK, "--redis", server.Addr())
	if len(n) != 1 {
		t.Fatalf("%+v", n)
	}
	expect(t, n[0], [2]string{"maxmemory-policy", "volatile-lru"}, [2]string{"appendonly", "yes"}, [2]string{"replicas", "add a replica"})
	loaded(t, exitFailed, "--strict", "--redis", server.Addr())

	set(t, server, "maxmemory-policy", "allkeys-lfu")
	set(t, server, "appendonly", "yes")
	replica := redistest.RunReplica(t, server)
	expect(t, loaded(t, exitOK, "--redis", server.Addr())[0], [2]string{"maxmemory-policy", "allkeys-lfu"})

	set(t, server, "maxmemory-policy", "noeviction")
	expect(t, loaded(t, exitOK, "--strict", "--redis", server.Addr())[0])

	set(t, replica, "appendonly", "yes")
	expect(t, loaded(t, exitOK, "--redis", replica.Addr())[0], [2]string{"replicas", "master's address"})
}

func TestCheckRefusedByACL(t *testing.T) {
	server := redistest.Run(t)
	if err := server.Client(nil).Do(t.Context(), "ACL", "SETUSER", "ops", "on", ">secret", "+@all", "-info", "-time").Err(); err != nil {
		t.Fatal(err)
	}
	url := "redis://ops:secret@" + server.Addr()
	n := loaded(t, exitOK, "--redis", url)
	const why = "not checked: NOPERM"
	expect(t, n[0], [2]string{"maxmemory-policy", why}, [2]string{"appendonly", why}, [2]string{"replicas", why}, [2]string{"clocks", why})
	loaded(t, exitFailed, "--strict", "--redis", url)
}

func TestCheckWithoutFields(t *testing.T) {
	server := miniredis.RunT(t)
	n := loaded(t, exitOK, "--redis", server.Addr())
	const why = "not checked: INFO has no "
	expect(t, n[0], [2]string{"maxmemory-policy", why + "maxmemory_policy"}, [2]string{"appendonly", why}, [2]string{"replicas", why})
}

func TestCheckClockOfOneServer(t *testing.T) {
	server := miniredis.RunT(t)
	for ahead, says := range map[time.Duration]string{
		time.Hour: "ahead of the clock of this host, whose own may be the wrong one", -time.Hour: "behind the clock of this host",
	} {
		server.SetTime(time.Now().Add(ahead))
		n := loaded(t, exitOK, "--redis", server.Addr())[0]
		n.Warnings = n.Warnings[3:] // beyond what miniredis does not say
		expect(t, n, [2]string{"clocks", says})
		if n := loaded(t, exitOK, "--max-skew", "2h", "--redis", server.Addr())[0]; len(n.Warnings) != 3 {
			t.Errorf("with more allowed: %+v", n)
		}
	}
}

func TestCheckClocksOfCluster(t *testing.T) {
	cluster := servers.Cluster(t)
	odd, err := cluster.MasterFor(t.Context(), "any")
	if err != nil {
		t.Fatal(err)
	}
	rdb := cluster.Client(nil)
	defer rdb.Close()
	check := func(ask clock) map[string]string {
		nodes, err := loadAll(t.Context(), rdb, ask)
		if err != nil || len(nodes) != 3 {
			t.Fatalf("%v: %+v", err, nodes)
		}
		checkClocks(nodes, time.Second)
		texts := map[string]string{}
		for _, n := range nodes {
			if last := n.Warnings[len(n.Warnings)-1]; last.Check == "clocks" {
				texts[n.Address] = last.Text
			}
		}
		return texts
	}
	at := func(ahead time.Duration, err error) clock {
		return func(ctx context.Context, rdb *redis.Client) (time.Time, error) {
			now, refused := serverTime(ctx, rdb)
			if rdb.Options().Addr == odd.Addr() {
				return now.Add(ahead), err
			}
			return now, refused
		}
	}
	if texts := check(serverTime); len(texts) != 0 {
		t.Errorf("clocks of one host: %v", texts)
	}
	texts := check(at(time.Minute, nil))
	for addr, text := range texts {
		want := "behind the clock of " + odd.Addr()
		if addr == odd.Addr() {
			want = "ahead of the clock of 127.0.0.1:"
		}
		if !strings.Contains(text, want) {
			t.Errorf("%s: %s, want %s", addr, text, want)
		}
	}
	if len(texts) != 3 {
		t.Errorf("%v", texts)
	}
	texts = check(at(0, context.DeadlineExceeded))
	if len(texts) != 1 || !strings.HasPrefix(texts[odd.Addr()], "not checked: ") {
		t.Errorf("one without a clock: %v", texts)
	}
}

// What a slow answer leaves open is not held against a clock.
func TestApart(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		ahead, rtt time.Duration
		want       string
	}{
		{110 * ms, 0, ""},
		{111 * ms, 0, "111ms ahead of the clock of b"},
		{-111 * ms, 0, "111ms behind the clock of b"},
		{140 * ms, 30 * ms, ""},
		{141 * ms, 30 * ms, "141ms ahead of the clock of b"},
	} {
		n := &node{Address: "a", clock: reading{ahead: test.ahead, rtt: test.rtt}}
		if got := apart(n, []*node{n, {Address: "b", clock: reading{rtt: 10 * ms}}}, 100*ms); got != test.want {
			t.Errorf("%v with a round trip of %v: %q, want %q", test.ahead, test.rtt, got, test.want)
		}
	}
}

func TestPrintWarnings(t *testing.T) {
	var out strings.Builder
	err := printNodes(&out, []node{
		{Address: "10.0.0.1:6379", Server: "Redis 7.4.1", OK: true, Warnings: []warning{{"maxmemory-policy", "one"}, {"clocks", "two"}}},
		{Address: "10.0.0.2:6379", Server: "Redis 7.4.1", OK: true},
	}, false)
	const want = `NODE            SERVER        SCRIPTS
10.0.0.1:6379   Redis 7.4.1   ok
                warning       maxmemory-policy   one
                warning       clocks             two
10.0.0.2:6379   Redis 7.4.1   ok
Warnings have the names under which docs/redis.md explains them, see its server settings.
`
	if err != nil || out.String() != want {
		t.Errorf("%v:\n%s", err, &out)
	}
}
