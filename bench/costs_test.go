package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/scripts"
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

// TestCommandsOfScripts holds the commands that each script runs against what was recorded: one more fails. Every script is run.
func TestCommandsOfScripts(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	mustDo(t, l.coord.Load(t.Context()))
	ran := &scriptsRun{}
	l.hooked.AddHook(ran)
	l.plain.AddHook(ran)
	now := map[string]map[string]int{}
	for _, step := range scripted(t, l) {
		mustDo(t, l.plain.ConfigResetStat(t.Context()).Err())
		step.call()
		now[step.name] = commandsSoFar(t, l.plain)
	}
	for _, s := range scripts.All() {
		if _, did := ran.hashes.Load(s.SHA); !did {
			t.Errorf("%s was not run", s.Verb)
		}
	}
	record(t, func(c *costs) { c.Commands = now })
	recorded := recordedCosts(t).Commands
	if !slices.Equal(names(now), names(recorded)) {
		t.Errorf("measured %v, recorded %v; run with -update", names(now), names(recorded))
	}
	for name, was := range recorded {
		if is := now[name]; sum(is) > sum(was) {
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

// scriptsRun is a go-redis hook that keeps the hashes of the scripts that were run.
type scriptsRun struct{ hashes sync.Map }

func (r *scriptsRun) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *scriptsRun) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); cmd.Name() == "evalsha" {
			r.hashes.Store(args[1], true)
		}
		return next(ctx, cmd)
	}
}

func (r *scriptsRun) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// scripted are calls of every script, in an order in which each finds what it needs.
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
	again, failing, printed, awaited, lapsed := newKey(), newKey(), newKey(), newKey(), newKey()
	resource, other := newKey(), newKey()
	resource.Resource, other.Resource = "account/42", "account/42"
	names := keyname.Namer{Prefix: "coord"}.Names(printed.Scope, printed.ID, "")
	told := make(chan error, 1)
	lapse := func() { time.Sleep(time.Until(lease.Deadline()) + 200*time.Millisecond) } // its grace is 20ms
	briefly := coordinator.LeaseFor(100 * time.Millisecond)
	fencedScript := func() {
		fence := c.Fence(again)
		value := "value:" + fence.Tag()
		mustDo(t, fence.Eval(ctx, lease.Grant(), "return redis.call('SET', KEYS[1], ARGV[1])", []string{value}, "1").Err())
	}
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
		{"first fenced script", fencedScript},
		{"fenced script", fencedScript},
		{"give back", func() { mustDo(t, c.GiveBack(ctx, again, lease.Grant().Owner)) }},
		{"refused fenced write", func() {
			fence := c.Fence(again)
			if err := fence.Do(ctx, lease.Grant(), "set", "value:"+fence.Tag(), "2").Err(); !errors.Is(err, coordinator.ErrStaleToken) {
				t.Errorf("a write under a grant that was given back: %v", err)
			}
		}},
		{"refused fenced script", func() {
			fence := c.Fence(again)
			err := fence.Eval(ctx, lease.Grant(), "return redis.call('SET', KEYS[1], ARGV[1])", []string{"value:" + fence.Tag()}, "2").Err()
			if !errors.Is(err, coordinator.ErrStaleToken) {
				t.Errorf("a script under a grant that was given back: %v", err)
			}
		}},
		{"claim to be waited for", claim(awaited)},
		{"wait", func() {
			go func() {
				_, err := c.Claim(ctx, awaited, coordinator.WaitUpTo(time.Minute))
				told <- err
			}()
			for commandsSoFar(t, l.plain)["set"] == 0 { // not marked yet
				time.Sleep(time.Millisecond)
			}
		}},
		{"complete and wake up", func() {
			mustDo(t, lease.Complete(ctx, l.result))
			mustDo(t, checkReplay(<-told))
		}},
		{"claim to lapse", claim(lapsed, briefly)},
		{"takeover", func() {
			lapse()
			claim(lapsed, briefly)()
		}},
		{"resolve", func() {
			lapse()
			mustDo(t, c.Resolve(ctx, lapsed, coordinator.Resolution{Payload: l.result}))
		}},
		{"claim to fail", claim(failing)},
		{"fail", func() { mustDo(t, lease.Fail(ctx, l.result)) }},
		{"claim with a fingerprint", claim(printed, coordinator.Fingerprint(make([]byte, fingerprintBytes)))},
		{"confirm", func() { // what a replay does that replicas have
			g := lease.Grant()
			q := protocol.Confirm(names, &protocol.Record{Owner: g.Owner, Token: int64(g.Token)})
			mustDo(t, l.plain.EvalSha(ctx, q.Script.SHA, q.Keys, q.Args...).Err())
		}},
		{"claim of a resource", claim(resource)},
		{"claim of a resource that is held", func() {
			if _, err := c.Claim(ctx, other); !errors.Is(err, coordinator.ErrInProgress) {
				t.Errorf("two hold a resource: %v", err)
			}
		}},
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
		case !found, name == "info", name == "config|resetstat", name == "hello", strings.HasPrefix(name, "client"), name == "ping", strings.HasSuffix(name, "unsubscribe"):
			continue // also what a new connection says, and one that listens, at times of its own
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
