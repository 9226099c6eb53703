package faults

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

// witness writes numbers to one server all of the time, past all networks, and takes down what it is told.
type witness struct {
	server *redistest.Server
	pid    int
	slot   int
	key    string
	stop   func()

	mu       sync.Mutex
	sent     []int64 // when each was
	acked    int     // the last number that was acknowledged
	answered int64   // when
	latest   int64   // the longest that one took that was
}

// witnesses returns one for each master.
func witnesses(t *testing.T, to *Target) []*witness {
	t.Helper()
	masters, err := to.Cluster.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var all []*witness
	for _, m := range masters {
		w := &witness{server: m, pid: m.PID()}
		owned, err := to.Cluster.SlotsOf(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; w.key == "" || !within(owned, w.slot); i++ {
			w.key = fmt.Sprintf("witness:%d", i)
			if w.slot, err = ask(ctx, m, "CLUSTER", "KEYSLOT", w.key).Int(); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(ctx, m, "SET", w.key, 0).Err(); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", m.Addr())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { w.write(conn) })
		wg.Go(func() { w.read(conn) })
		w.stop = sync.OnceFunc(func() { _ = conn.Close(); wg.Wait() })
		t.Cleanup(w.stop)
		all = append(all, w)
	}
	return all
}

// write does not wait for answers, so that something is queued whenever the server halts.
func (w *witness) write(conn net.Conn) {
	for n := 1; ; n++ {
		w.mu.Lock()
		w.sent = append(w.sent, history.Now())
		w.mu.Unlock()
		if _, err := fmt.Fprintf(conn, "SET %s %d\r\n", w.key, n); err != nil {
			return
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func (w *witness) read(conn net.Conn) {
	in := bufio.NewReader(conn)
	for n := 1; ; n++ {
		reply, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if strings.HasPrefix(reply, "+OK") {
			w.acked, w.answered = n, history.Now()
			w.mu.Lock()
			w.latest = max(w.latest, w.answered-w.sent[n-1])
			w.mu.Unlock()
		}
	}
}

// forked does the fault and returns what the witness of the shard has seen, and how much of what it was told is lost.
func forked(t *testing.T, to *Target, name string) (history.Fault, *witness, int) {
	t.Helper()
	all := witnesses(t, to)
	f := inject(t, to, name)
	if f.Effect != history.Fork || f.Promoted == 0 {
		t.Errorf("%+v", f)
	}
	var hit *witness
	for _, w := range all {
		w.stop()
		if within(f.Slots, w.slot) {
			hit = w
		}
	}
	if hit == nil {
		t.Fatalf("no master served the slots %v", f.Slots)
	}
	masters, err := to.Cluster.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range masters {
		if m == hit.server {
			t.Errorf("%s is still a master", m.Addr())
		}
	}
	left, err := direct(t, to).Get(ctx, hit.key).Int()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("acknowledged %d, left %d, promoted after %v", hit.acked, left, time.Duration(f.Promoted-f.Start).Round(time.Millisecond))
	return f, hit, hit.acked - left
}

func TestKillMaster(t *testing.T) {
	to := target(t, 0)
	_, w, _ := forked(t, to, "kill-master")
	if w.server.PID() == w.pid {
		t.Error("it was not killed")
	}
}

// TestPauseMaster has a write wait at the master while it is halted.
func TestPauseMaster(t *testing.T) {
	to := target(t, 0)
	f, w, lost := forked(t, to, "pause-master")
	if w.server.PID() != w.pid {
		t.Error("it was killed")
	}
	if w.latest < int64(time.Second) || w.answered < f.Promoted || lost < 20 {
		t.Errorf("the stale master acknowledged little: after at most %v, until %v after the promotion; %d were lost",
			time.Duration(w.latest), time.Duration(w.answered-f.Promoted), lost)
	}
}

func TestLoseSuffix(t *testing.T) {
	to := target(t, 0)
	f, w, lost := forked(t, to, "lose-suffix")
	if w.server.PID() == w.pid || f.Detail != "forced" {
		t.Errorf("%+v", f)
	}
	if lost < 20 {
		t.Errorf("%d acknowledged writes were lost", lost)
	}
}

// TestIsolateMaster: the master acknowledges writes until it knows that it is alone.
func TestIsolateMaster(t *testing.T) {
	to := target(t, 0)
	f, w, lost := forked(t, to, "isolate-master")
	if w.server.PID() != w.pid {
		t.Error("it was killed")
	}
	if lost < 20 || w.answered-f.Start < int64(300*time.Millisecond) {
		t.Errorf("%d acknowledged writes were lost, the last of %v", lost, time.Duration(w.answered-f.Start))
	}
}

// TestPartition wants both endings of it: what was under way is lost, and is delivered.
func TestPartition(t *testing.T) {
	to := target(t, 1)
	seen := map[history.Effect]bool{}
	for range 2 {
		l := startLoad(t, to, 6)
		f := inject(t, to, "partition-callers")
		n := l.counted(t, to)
		if time.Duration(l.slowest.Load()) < 200*time.Millisecond {
			t.Errorf("no call took longer than %v", time.Duration(l.slowest.Load()))
		}
		t.Logf("acknowledged %d, counted %d", l.acked.Load(), n)
		if n < l.acked.Load() {
			t.Error("something acknowledged is lost")
		}
		if seen[f.Effect] = true; seen[history.Late] && seen[history.NoLoss] {
			return
		}
	}
	t.Errorf("the effects were %v", seen)
}
