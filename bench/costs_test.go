package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/redis/go-redis/v9"
)

var update = flag.Bool("update", false, "record the costs of now in testdata/costs.json")

// costs are counts, so that they are the same on every machine: what one call allocates in the client, and how many commands
// a script runs.
type costs struct {
	Allocations map[string]float64        `json:"allocations"`
	Commands    map[string]map[string]int `json:"commands"`
}

const (
	costsFile = "testdata/costs.json"
	tolerance = 1.15
)

// TestAllocations holds what calls allocate against what was recorded: 15 % more fail. make tests runs it without the race
// detector, and go test -run TestAllocations -update ./bench records anew.
func TestAllocations(t *testing.T) {
	redistest.Need(t)
	if raced {
		t.Skip("the race detector changes what is allocated; make tests runs this test without it as well")
	}
	l := testLab(t)
	now := map[string]float64{}
	for name, op := range allocating(t, l) {
		op() // dials, loads the script
		now[name] = testing.AllocsPerRun(200, op)
	}
	record(t, func(c *costs) { c.Allocations = now })
	recorded := recordedCosts(t).Allocations
	if !slices.Equal(names(now), names(recorded)) {
		t.Errorf("measured %v, recorded %v; run with -update", names(now), names(recorded))
	}
	for name, was := range recorded {
		if is := now[name]; is > was*tolerance {
			t.Errorf("%s allocates %v times, %v were recorded", name, is, was)
		} else if is < was/tolerance {
			t.Logf("%s allocates %v times, and %v were recorded: run with -update, so that it stays so", name, is, was)
		}
	}
}

// allocating are the calls whose allocations are counted, each on a key of its own.
func allocating(t *testing.T, l *lab) map[string]func() {
	ctx := t.Context()
	const runs = 202 // of AllocsPerRun, which runs once more than it is asked to, and one before
	rdb := l.server.Client(nil)
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	claimed := make([]*coordinator.Lease, runs)
	for i := range claimed {
		claimed[i] = mustClaim(t, c)
	}
	done := mustClaim(t, c)
	mustDo(t, done.Complete(ctx, l.result))
	print := coordinator.Fingerprint(make([]byte, fingerprintBytes))
	keys, fingerprinted, program := newKeys(runs), newKeys(runs), l.firstProgram(c)
	return map[string]func(){
		"claim": func() {
			_, err := c.Claim(ctx, pop(&keys), coordinator.ManualRenewal())
			mustDo(t, err)
		},
		"claim with a fingerprint": func() {
			_, err := c.Claim(ctx, pop(&fingerprinted), print, coordinator.ManualRenewal())
			mustDo(t, err)
		},
		"complete": func() { mustDo(t, pop(&claimed).Complete(ctx, l.result)) },
		"replay": func() {
			_, err := c.Claim(ctx, done.Key())
			mustDo(t, checkReplay(err))
		},
		"do": func() { mustDo(t, program.op(ctx)) },
	}
}

// TestCommandsOfScripts holds the commands that each script runs against what was recorded: any more than 15 % beyond, and any
// other command, fail.
func TestCommandsOfScripts(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	mustDo(t, l.coord.Load(t.Context()))
	now := map[string]map[string]int{}
	for _, step := range scripted(t, l) {
		mustDo(t, l.plain.ConfigResetStat(t.Context()).Err())
		step.call()
		now[step.name] = commandsSoFar(t, l.plain)
	}
	record(t, func(c *costs) { c.Commands = now })
	recorded := recordedCosts(t).Commands
	if !slices.Equal(names(now), names(recorded)) {
		t.Errorf("measured %v, recorded %v; run with -update", names(now), names(recorded))
	}
	for name, was := range recorded {
		if is := now[name]; float64(sum(is)) > float64(sum(was))*tolerance {
			t.Errorf("%s: %v, and %v were recorded", name, is, was)
		} else if !maps.Equal(is, was) {
			t.Logf("%s: %v, and %v were recorded: run with -update, so that it stays so", name, is, was)
		}
	}
}

type step struct {
	name string
	call func()
}

// scripted are calls of every script that users' calls run often, in an order in which each finds what it needs.
func scripted(t *testing.T, l *lab) []step {
	ctx, c := t.Context(), l.coord
	lease, key := (*coordinator.Lease)(nil), newKey()
	claim := func(key coordinator.Key, opts ...coordinator.ClaimOption) func() {
		return func() {
			var err error
			lease, err = c.Claim(ctx, key, append(opts, coordinator.ManualRenewal())...)
			mustDo(t, err)
		}
	}
	again, failing, printed := newKey(), newKey(), newKey()
	resource := coordinator.Key{Scope: "pay", ID: newKey().ID, Resource: "account/42"}
	return []step{
		{"claim", claim(key)},
		{"claim in progress", func() {
			if _, err := c.Claim(ctx, key); err == nil {
				t.Error("two hold a key")
			}
		}},
		{"renew", func() { mustDo(t, lease.Renew(ctx)) }},
		{"checkpoint", func() { mustDo(t, lease.SaveCheckpoint(ctx, []byte("half"))) }},
		{"fenced write", func() {
			fence := c.Fence(key)
			mustDo(t, fence.Do(ctx, lease.Grant(), "set", "value:"+fence.Tag(), "1").Err())
		}},
		{"complete after a checkpoint", func() { mustDo(t, lease.Complete(ctx, l.result)) }},
		{"replay", func() {
			_, err := c.Claim(ctx, key)
			mustDo(t, checkReplay(err))
		}},
		{"result", func() {
			_, err := c.Result(ctx, key, nil)
			mustDo(t, err)
		}},
		{"inspect", func() {
			_, err := c.Inspect(ctx, key)
			mustDo(t, err)
		}},
		{"expire", func() { mustDo(t, c.Expire(ctx, key)) }},
		{"claim after expiry", claim(key)},
		{"complete", func() { mustDo(t, lease.Complete(ctx, l.result)) }},
		{"claim to release", claim(again)},
		{"release", func() { mustDo(t, lease.Release(ctx)) }},
		{"claim after a release", claim(again)},
		{"claim to fail", claim(failing)},
		{"fail", func() { mustDo(t, lease.Fail(ctx, l.result)) }},
		{"claim with a fingerprint", claim(printed, coordinator.Fingerprint(make([]byte, fingerprintBytes)))},
		{"claim of a resource", claim(resource)},
		{"renew with a resource", func() { mustDo(t, lease.Renew(ctx)) }},
		{"complete with a resource", func() { mustDo(t, lease.Complete(ctx, l.result)) }},
	}
}

// commandsSoFar reads from INFO commandstats how often each command was called, without those that this test sends itself.
func commandsSoFar(t *testing.T, rdb *redis.Client) map[string]int {
	t.Helper()
	text, err := rdb.Info(t.Context(), "commandstats").Result()
	mustDo(t, err)
	all := map[string]int{}
	for line := range strings.Lines(text) {
		name, rest, found := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		switch {
		case !found, name == "info", name == "config|resetstat", name == "hello", strings.HasPrefix(name, "client"):
			continue // also what a new connection says
		}
		var n int
		_, err := fmt.Sscanf(rest, "%d", &n)
		mustDo(t, err)
		all[name] = n
	}
	return all
}

func recordedCosts(t *testing.T) (c costs) {
	t.Helper()
	text, err := os.ReadFile(costsFile)
	mustDo(t, err)
	mustDo(t, json.Unmarshal(text, &c))
	return c
}

// record changes the file when the tests run with -update.
func record(t *testing.T, change func(*costs)) {
	t.Helper()
	if !*update {
		return
	}
	var c costs
	if _, err := os.Stat(costsFile); err == nil {
		c = recordedCosts(t)
	}
	change(&c)
	text, err := json.MarshalIndent(c, "", "  ")
	mustDo(t, err)
	mustDo(t, os.MkdirAll(filepath.Dir(costsFile), 0o755))
	mustDo(t, os.WriteFile(costsFile, append(text, '\n'), 0o644))
}

func names[T any](of map[string]T) []string { return slices.Sorted(maps.Keys(of)) }

func sum(of map[string]int) (n int) {
	for _, calls := range of {
		n += calls
	}
	return n
}

func pop[T any](all *[]T) T {
	first := (*all)[0]
	*all = (*all)[1:]
	return first
}

func mustClaim(t *testing.T, c *coordinator.Coordinator) *coordinator.Lease {
	t.Helper()
	lease, err := c.Claim(t.Context(), newKey(), coordinator.LeaseFor(time.Minute))
	mustDo(t, err)
	return lease
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
