package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/onceward/coordinator/internal/redistest"
)

// tiny is enough to see that the rows do what they say.
var tiny = effort{
	rounds: 1, slice: 20 * time.Millisecond, callers: 4, pipeline: 100, keys: 2000,
	leases: 500, lease: 2 * time.Second,
	waiters: 40, processes: 2, working: 1200 * time.Millisecond, waitRounds: 1,
	batch: 50, records: 5000, short: time.Second, leaseWindow: 400 * time.Millisecond,
}

// widestLabel is how many letters there is room for left of the drawing's scale, at 7 pixels each.
const widestLabel = labelsEnd / 7

// asWaiters makes this test program the one that row 8 starts.
const asWaiters = "waiters"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asWaiters {
		os.Exit(execute(context.Background(), os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
	}
	os.Exit(m.Run())
}

// Every row can be measured, has a target, and says why the work is the same. Whether it is met is for quiet machines; what
// is counted does not depend on them, but for what is sent again, or lost, when a machine stands still: it is counted anew then.
func TestRows(t *testing.T) {
	redistest.Need(t)
	counted := map[string]bool{
		"held_lost": true, "many_pipelines": true, "delayed_fresh_trips": true, "delayed_replay_trips": true,
		"waiting_1_executions": true, "waiting_2_executions": true, nameInFlight: true,
	}
	r, err := measure(t.Context(), tiny, rows, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.failure(); err != nil {
		t.Error(err)
	}
	var table bytes.Buffer
	if err := r.table(&table); err != nil {
		t.Error(err)
	}
	t.Log(table.String())
	if len(r.Rows) != len(rows) {
		t.Errorf("%d rows of %d", len(r.Rows), len(rows))
	}
	for i, row := range r.Rows {
		if row.Number != i+1 || row.What == "" || len(row.Same) < 100 {
			t.Errorf("row %d: %+v", i+1, row)
		}
		targets := 0
		for _, f := range row.Figures {
			if f.Met != nil {
				targets++
				if letters := utf8.RuneCountInString(f.title()); letters > widestLabel {
					t.Errorf("%q has %d letters; the drawing has room for %d", f.title(), letters, widestLabel)
				}
			}
			if counted[f.Name] && f.missed() && missedAgain(t, rows[i], f.Name) {
				t.Errorf("row %d: %s: %v, %s", row.Number, f.About, f.Median, f.target())
			}
			delete(counted, f.Name)
		}
		if targets == 0 && row.Error == "" {
			t.Errorf("row %d has no target", row.Number)
		}
	}
	if len(counted) > 0 {
		t.Errorf("not measured: %v", counted)
	}
}

// missedAgain measures a row twice more.
func missedAgain(t *testing.T, r row, name string) bool {
	t.Helper()
	for range 2 {
		again, err := measure(t.Context(), tiny, []row{r}, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if !again.figure(name).missed() {
			return false
		}
	}
	return true
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

// far is well beyond the target of the ratio, which go run ./bench --rows 3 --check holds on a machine that does nothing else:
// tests beside this one share caches and cores with the server. Without the scripts' short ways it would be 6 in quiet.
const far = 8

func TestCPU(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	l.rounds, l.keys = 3, 4000
	figures, err := l.freshCPU(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := figures[0]
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

func sampleReport() *report {
	r := &report{Server: "redis 7.0.15", Go: "go1.26", CPUs: 2, Rounds: 3, Slice: "300ms", Payload: payloadBytes}
	r.add(row{number: 1, what: "first", same: "both do it"}, []figure{
		figureOf("b", "for information", "", []float64{1, 2}),
		figureOf("a", "too much", "bytes", []float64{3, 1, 2}).atMost(1.5),
	}, nil)
	r.add(row{number: 2, what: "second", same: "there is no peer"}, []figure{
		figureOf("c", "just right", "times", []float64{4.5}).atMost(4.5),
		figureOf("d", "just enough", "times", []float64{2.5, 3.25}).atLeast(2.5),
	}, nil)
	r.add(row{number: 3, what: "third", same: "nobody knows"}, nil, errors.New("the server is gone"))
	return r
}

func TestReport(t *testing.T) {
	r := sampleReport()
	var table, object bytes.Buffer
	if err := errors.Join(r.table(&table), r.json(&object)); err != nil {
		t.Fatal(err)
	}
	const want = `redis 7.0.15, go1.26, 2 cores; results of 512 bytes; medians of 3 rounds of 300ms a contender, in turns

1  first               median  min to max   target
     too much, bytes   2       1 to 3       at most 1.5   MISSED
     for information   1.5     1 to 2

2  second              median  min to max   target
     just right, times   4.5     4.5 to 4.5   at most 4.5   met
     just enough, times  2.88    2.5 to 3.25  at least 2.5  met

3  third               median  min to max   target
     not measured                                         MISSED

1  first
     both do it

2  second
     there is no peer

3  third
     nobody knows
     Not measured: the server is gone

2 of 3 rows miss their target: 1, 3
`
	if got := trimLines(table.String()); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("table:\n%s\nwant:\n%s", got, want)
	}
	if lines := strings.Split(strings.TrimSpace(table.String()), "\n"); lines[len(lines)-1] != "2 of 3 rows miss their target: 1, 3" {
		t.Errorf("the last line is %q", lines[len(lines)-1])
	}
	if r.failure() == nil {
		t.Error("a row that could not be measured is no failure")
	}
	var back report
	if err := json.Unmarshal(object.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back.Missed != 2 || back.figure("a").Median != 2 || *back.figure("c").AtMost != 4.5 || *back.figure("d").AtLeast != 2.5 || back.figure("b").Met != nil {
		t.Errorf("JSON: %s", object.String())
	}
}

func TestNothingMissed(t *testing.T) {
	var r report
	r.add(row{number: 1}, []figure{figureOf("a", "", "", []float64{1}).atLeast(1)}, nil)
	if got, want := r.verdict(), "0 of 1 rows miss their target"; got != want || r.Missed != 0 {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestRatiosAreByRounds(t *testing.T) {
	ours, theirs := []pace{{rate: 10}, {rate: 30}}, []pace{{rate: 5}, {rate: 10}}
	if got := ratios(ours, theirs, rateOf); got[0] != 2 || got[1] != 3 {
		t.Error(got)
	}
}

// Each contender has a slice in each round, and another one is first in the next.
func TestRaceInterleaves(t *testing.T) {
	redistest.Need(t)
	l := testLab(t)
	l.rounds, l.slice = 2, 5*time.Millisecond
	var order []string
	named := func(name string) contender {
		return contender{name, func(context.Context) error {
			if len(order) == 0 || order[len(order)-1] != name {
				order = append(order, name)
			}
			time.Sleep(time.Millisecond)
			return nil
		}}
	}
	paces, err := l.race(t.Context(), 1, []contender{named("a"), named("b"), named("c")}, nothing)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, " "), "c a b a b c b c a"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if len(paces) != 3 || len(paces[2]) != 2 || paces[2][1].rate <= 0 || paces[0][0].p50 < 1000 {
		t.Errorf("%+v", paces)
	}
}

func TestArguments(t *testing.T) {
	for args, want := range map[string]int{
		"--rows=99": exitUsage, "--rounds=-1": exitUsage, "more": exitUsage, "draw no-such-file": exitFailed,
	} {
		var out, err bytes.Buffer
		if got := execute(t.Context(), strings.Fields(args), streams{strings.NewReader(""), &out, &err}); got != want {
			t.Errorf("%s: status %d, want %d; %s", args, got, want, err.String())
		}
	}
	var numbers []int
	for _, row := range (&runCommand{Quick: true}).chosen() {
		numbers = append(numbers, row.number)
	}
	if want := []int{1, 2, 3, 4, 5, 6, 9}; !slices.Equal(numbers, want) {
		t.Errorf("--quick takes rows %v, not %v", numbers, want)
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
	l, err := newLab(t.Context(), tiny)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}
