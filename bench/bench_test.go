package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/onceward/coordinator/internal/redistest"
)

func TestRoundTripsAndMemory(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	trips, err := l.trips(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if f := trips[0]; f.Min != 2 || f.Max != 2 {
		t.Errorf("a fresh claim and its completion take %v to %v round trips, not 2", f.Min, f.Max)
	}
	memory, err := l.memory(t.Context(), 1, 5000)
	if err != nil {
		t.Fatal(err)
	}
	r := report{}
	r.add(memory...)
	for _, name := range []string{nameBeyond, nameInFlight} {
		if f := r.figure(name); f.Met == nil || !*f.Met {
			t.Errorf("%s: %v bytes, %v", f.About, f.Median, f.verdict())
		}
	}
}

// A fresh operation costs six commands inside of scripts: GET, TIME and SET for the claim and for the completion. Times
// depend on what else the machine does; counts do not.
func TestCommandsOfAFreshOperation(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	ctx := t.Context()
	warm, err := l.claim(ctx, newKeys(1)) // loads the scripts
	if err != nil {
		t.Fatal(err)
	}
	if err := warm[0].Complete(ctx, []byte("result")); err != nil {
		t.Fatal(err)
	}
	if err := l.plain.ConfigResetStat(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	const operations = 100
	leases, err := l.claim(ctx, newKeys(operations))
	if err != nil {
		t.Fatal(err)
	}
	for _, lease := range leases {
		if err := lease.Complete(ctx, []byte("result")); err != nil {
			t.Fatal(err)
		}
	}
	stats, err := l.plain.Info(ctx, "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"evalsha": 2, "get": 2, "time": 1, "set": 2} {
		if got := calls(stats, name); got != want*operations {
			t.Errorf("%d calls of %s for %d operations, want %d", got, name, operations, want*operations)
		}
	}
	for _, name := range []string{"eval", "pttl", "publish", "del", "pexpire"} {
		if got := calls(stats, name); got != 0 {
			t.Errorf("%d calls of %s, want none", got, name)
		}
	}
}

// calls reads how often a command was called out of INFO commandstats.
func calls(stats, name string) (n int) {
	_, rest, found := strings.Cut(stats, "cmdstat_"+name+":calls=")
	if found {
		_, _ = fmt.Sscanf(rest, "%d", &n)
	}
	return n
}

// far is well beyond the target of the ratio, which go run ./bench --check holds on a machine that does nothing else:
// tests beside this one share caches and cores with the server. Without the scripts' short ways it would be 6 in quiet.
const far = 8

func TestCPU(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	figures, err := l.cpu(t.Context(), 3, 10000)
	if err != nil {
		t.Fatal(err)
	}
	r := report{}
	r.add(figures...)
	f := r.figure(nameCPU)
	t.Logf("%s: %.2f (%.2f to %.2f)", f.About, f.Median, f.Min, f.Max)
	if f.Median > far || f.Median < 1 {
		t.Errorf("%s: %.2f times", f.About, f.Median)
	}
}

// A held completion is the library's own command: it does to Redis what Complete does.
func TestRecordedCompletionCompletes(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	keys := newKeys(3)
	leases, err := l.claim(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	commands, err := l.completions(t.Context(), leases)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.coord.Result(t.Context(), keys[0], nil); err == nil {
		t.Fatal("a completion that was held back reached Redis")
	}
	if err := l.complete(t.Context(), commands); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		result, err := l.coord.Result(t.Context(), key, nil)
		if err != nil || !bytes.Equal(result.Payload, l.result) {
			t.Errorf("%v: result of %d bytes, %v", key, len(result.Payload), err)
		}
	}
}

func TestReport(t *testing.T) {
	r := report{Server: "redis 7.0.15", Rounds: 3, Keys: 200, Pipeline: 100, Payload: payloadBytes}
	r.add(
		figureOf("a", "too much", "bytes", []float64{3, 1, 2}).atMost(1.5),
		figureOf("b", "for information", "", []float64{1, 2}),
		figureOf("c", "just right", "times", []float64{4.5}).atMost(4.5),
	)
	var table, object bytes.Buffer
	if err := errors.Join(r.table(&table), r.json(&object)); err != nil {
		t.Fatal(err)
	}
	const want = `redis 7.0.15, results of 512 bytes, medians of 3 rounds of 200 keys in pipelines of 100

figure             median  min to max  target
too much, bytes    2       1 to 3      at most 1.5: MISSED
just right, times  4.5     4.5 to 4.5  at most 4.5: met

for information    1.5     1 to 2

1 of 2 targets missed
`
	if got := trimLines(table.String()); got != want {
		t.Errorf("table:\n%s\nwant:\n%s", got, want)
	}
	var back report
	if err := json.Unmarshal(object.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back.Missed != 1 || back.figure("a").Median != 2 || *back.figure("c").Target != 4.5 || back.figure("b").Target != nil {
		t.Errorf("JSON: %s", object.String())
	}
}

func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

func testLab(t *testing.T) *lab {
	t.Helper()
	l, err := newLab(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}
