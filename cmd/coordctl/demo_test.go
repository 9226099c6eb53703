package main

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// numbers reads what demo --json prints: one object with these keys and nothing else.
func numbers(t *testing.T, out string) map[string]int {
	t.Helper()
	var n map[string]int
	if err := json.Unmarshal([]byte(out), &n); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	keys := []string{"executions", "in_progress", "ledger_duplicates", "ledger_missing", "payments", "replays", "requests", "stale_refused", "takeovers"}
	if got := slices.Sorted(maps.Keys(n)); !slices.Equal(got, keys) {
		t.Fatalf("keys %v", got)
	}
	return n
}

// checkFenced is what every run behind the fence must come to, whatever its seed.
func checkFenced(t *testing.T, got outcome) {
	t.Helper()
	if got.status != exitOK {
		t.Fatalf("%+v", got)
	}
	n := numbers(t, got.out)
	if n["ledger_duplicates"] != 0 || n["ledger_missing"] != 0 || n["payments"] != 40 || n["requests"] <= 80 || n["executions"] <= 40 {
		t.Error(got.out)
	}
	for _, some := range []string{"takeovers", "stale_refused", "replays", "in_progress"} {
		if n[some] == 0 {
			t.Errorf("%s is 0: %s", some, got.out)
		}
	}
	if t.Failed() {
		t.Log(got.err)
	}
}

// The runs wait more than they work, so they go side by side; with fewer clients than by default, since
// the race detector and a busy machine make each of their requests dear.
func TestDemo(t *testing.T) {
	fenced := []string{"--seed 1", "--seed 2", "--seed 3"}
	lines := append(fenced, "--seed 1 --no-fence")
	got := make([]outcome, len(lines))
	var all sync.WaitGroup
	for i, line := range lines {
		all.Go(func() { got[i] = invoke(t.Context(), strings.Fields("demo --json --clients 80 "+line)...) })
	}
	all.Wait()

	for i, line := range fenced {
		t.Run(line, func(t *testing.T) { checkFenced(t, got[i]) })
	}
	t.Run(lines[3], func(t *testing.T) {
		n := numbers(t, got[3].out)
		if got[3].status != exitFailed || n["ledger_duplicates"] == 0 || n["ledger_missing"] != 0 || n["stale_refused"] != 0 {
			t.Errorf("%+v", got[3])
		}
	})
	for i, g := range got {
		if strings.ContainsAny(g.out+g.err, "\x1b\r\b") {
			t.Errorf("%s: control characters where there is no terminal: %q", lines[i], g.out+g.err)
		}
	}
}

func TestReport(t *testing.T) {
	for _, test := range []struct {
		report report
		says   string
	}{
		{report{Payments: 40}, "OK: every payment is booked exactly once."},
		{report{LedgerDuplicates: 1}, "FAILED: the ledger is wrong: 1 bookings too many, 0 payments missing."},
		{report{LedgerMissing: 2}, "FAILED: the ledger is wrong: 0 bookings too many, 2 payments missing."},
	} {
		var told strings.Builder
		test.report.table(newDiary(&told), true)
		if !strings.Contains(told.String(), test.says+"\n") || !strings.Contains(told.String(), whyItHolds) {
			t.Errorf("%+v: %s", test.report, told.String())
		}
	}
}

// On a real cluster, and nothing stays behind that does not end by itself.
func TestDemoOnCluster(t *testing.T) {
	cluster := servers.Cluster(t)
	rdb := cluster.Client(nil)
	defer rdb.Close()
	checkFenced(t, invoke(t.Context(), "demo", "--json", "--seed", "5", "--redis", strings.Join(cluster.Addrs(), ",")))
	err := rdb.ForEachMaster(t.Context(), func(ctx context.Context, master *redis.Client) error {
		keys, err := master.Keys(ctx, "coordctl-demo-*").Result()
		for _, key := range keys {
			if strings.Contains(key, ".ledger:") {
				t.Errorf("%s was not removed", key)
			}
			if ttl := master.PTTL(ctx, key).Val(); ttl <= 0 || ttl > time.Hour {
				t.Errorf("%s stays for %v", key, ttl)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDemoOnlyWhereItCanBreakConnections(t *testing.T) {
	for _, url := range []string{"rediss://localhost:1", "unix:///run/redis.sock", "nonsense"} {
		if got := invoke(t.Context(), "demo", "--redis", url); got.status != exitFailed || got.out != "" {
			t.Errorf("%s: %+v", url, got)
		}
	}
}

func TestDemoInterrupted(t *testing.T) {
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	began := time.Now()
	if got := invoke(ctx, "demo", "--seed", "6"); got.status != exitFailed || strings.Contains(got.out, "OK") {
		t.Errorf("%+v", got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v to end", took)
	}
	for deadline := time.Now().Add(3 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left, %d there were:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func TestScheduleRepeats(t *testing.T) {
	if a, b := newSchedule(7, 40), newSchedule(7, 40); !reflect.DeepEqual(a.ahead, b.ahead) {
		t.Errorf("%v, then %v", a.ahead, b.ahead)
	}
	if a, b := newSchedule(7, 40), newSchedule(8, 40); reflect.DeepEqual(a.ahead, b.ahead) {
		t.Errorf("the seeds 7 and 8 make the same schedule: %v", a.ahead)
	}
	for seed := range uint64(100) {
		for _, payments := range []int{fewestPayments, 40, 1000} {
			s := newSchedule(seed, payments)
			met := map[trouble]int{}
			for _, id := range s.payments {
				met[s.take(id, s.ahead[id].moment())]++
				if again := s.ahead[id]; again != none {
					t.Fatalf("%s meets %v twice", id, again)
				}
			}
			for kind := none + 1; kind < troubles; kind++ {
				if met[kind] == 0 || met[kind] > mostOfOne {
					t.Fatalf("seed %d, %d payments: trouble %d strikes %d times", seed, payments, kind, met[kind])
				}
			}
		}
	}
}

// A ledger that is wrong must be found out, in either way.
func TestAudit(t *testing.T) {
	s := newTestService(t)
	s.answer("pay-01", `{"cents":100}`)
	s.answer("pay-02", `{"cents":100}`)
	key := s.ledger.redisKey(paymentKey("pay-02"))
	if err := s.ledger.rdb.RPush(t.Context(), key, `{}`, `{}`).Err(); err != nil {
		t.Fatal(err)
	}
	duplicates, missing, err := s.ledger.audit(t.Context(), []string{"pay-01", "pay-02", "pay-03"})
	if duplicates != 2 || missing != 1 || err != nil {
		t.Errorf("%d duplicates, %d missing, %v", duplicates, missing, err)
	}
}
