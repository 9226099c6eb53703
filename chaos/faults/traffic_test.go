package faults

import (
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/faultproxy"
)

// TestLostAnswers: the servers have run exactly those calls as well whose answer was kept from the caller.
func TestLostAnswers(t *testing.T) {
	to := target(t, 2)
	for _, name := range []string{"drop-replies", "cut-replies"} {
		t.Run(name, func(t *testing.T) {
			l := startLoad(t, to, 6)
			f := inject(t, to, name)
			n := l.counted(t, to)
			t.Logf("acknowledged %d, counted %d", l.acked.Load(), n)
			if lost := n - l.acked.Load(); lost != f.Count || lost < 5 {
				t.Errorf("%d calls ran whose answer was lost, %d are reported", lost, f.Count)
			}
			if f.Effect != history.NoLoss {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestHoldRequests: requests of which the callers know nothing have run in the end.
func TestHoldRequests(t *testing.T) {
	to := target(t, 2)
	l := startLoad(t, to, 6)
	f := inject(t, to, "hold-requests")
	n := l.counted(t, to)
	t.Logf("acknowledged %d, counted %d", l.acked.Load(), n)
	if late := n - l.acked.Load(); late != f.Count || late < 3 || f.Effect != history.Late {
		t.Errorf("%d calls ran late, %+v", late, f)
	}
}

// TestHeldRequestsAreLate wants the retry of a request to run before it.
func TestHeldRequestsAreLate(t *testing.T) {
	to := target(t, 1)
	c, d := once(t, to, to.Networks[0], "late"), direct(t, to)
	done := make(chan history.Fault)
	go func() {
		all, err := byName(t, "hold-requests").Inject(ctx, to)
		if err != nil || len(all) != 1 {
			t.Errorf("%+v, %v", all, err)
		}
		done <- all[0]
	}()
	for {
		select {
		case f := <-done:
			t.Fatalf("no request was held that could be told: %+v", f)
		default:
		}
		if err := c.Set(ctx, "late", "held", 0).Err(); err != nil {
			break
		}
	}
	if err := d.Set(ctx, "late", "retry", 0).Err(); err != nil {
		t.Fatal(err)
	}
	f := <-done
	if got := d.Get(ctx, "late").Val(); got != "held" {
		t.Errorf("%q was delivered last; %+v", got, f)
	}
}

func TestSlowLinks(t *testing.T) {
	to := target(t, 2)
	l := startLoad(t, to, 6)
	f := inject(t, to, "slow-links")
	n := l.counted(t, to)
	slowest := time.Duration(l.slowest.Load())
	t.Logf("acknowledged %d, counted %d, the slowest took %v", l.acked.Load(), n, slowest)
	if slowest < leastDelay || n != l.acked.Load() || f.Effect != history.Late {
		t.Errorf("%+v", f)
	}
}

// TestSlowly: a pipeline is delayed as a whole, and every link within its bounds.
func TestSlowly(t *testing.T) {
	rule := slowly(300 * time.Millisecond)
	request := faultproxy.Request{Conn: 1, Name: "EVALSHA"}
	for i := range 10 {
		v := rule(request)
		if i > 0 && v.Action != faultproxy.Pass || i == 0 && (v.Action != faultproxy.Delay || v.For < 150*time.Millisecond || v.For > 450*time.Millisecond) {
			t.Errorf("request %d: %+v", i, v)
		}
	}
	if v := rule(faultproxy.Request{Conn: 2, Name: "HELLO"}); v.Action != faultproxy.Pass {
		t.Errorf("HELLO: %+v", v)
	}
}

// TestKillClients: a connection that sleeps is closed.
func TestKillClients(t *testing.T) {
	to := target(t, 1)
	masters, err := to.Cluster.Masters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	idle, subscribed := plain(masters[0]), plain(masters[0])
	defer idle.Close()
	defer subscribed.Close()
	conn := idle.Conn()
	if err := conn.Ping(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	id := conn.ClientID(ctx).Val()
	sub := subscribed.Subscribe(ctx, "c")
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	f := inject(t, to, "kill-clients")
	if now := idle.ClientID(ctx).Val(); now == id {
		t.Error("the connection lives")
	}
	if _, err := sub.ReceiveTimeout(ctx, time.Second); err == nil {
		t.Error("the subscription lives")
	}
	if f.Count < 2 || f.Effect != history.NoLoss {
		t.Errorf("%+v", f)
	}
}

// TestRulesTogether has two faults at work on the same link.
func TestRulesTogether(t *testing.T) {
	to := target(t, 1)
	n := to.Networks[0]
	c := once(t, to, n, "together")
	if err := c.Set(ctx, "together", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	only := func(name string, a faultproxy.Action) func() faultproxy.Rule {
		return func() faultproxy.Rule {
			return func(r faultproxy.Request) faultproxy.Verdict {
				if r.Name == name {
					return faultproxy.Verdict{Action: a}
				}
				return faultproxy.Verdict{}
			}
		}
	}
	liftSet, liftGet := to.impose(only("SET", faultproxy.DropRequest)), to.impose(only("GET", faultproxy.DropReply))
	if c.Set(ctx, "together", 2, 0).Err() == nil || c.Get(ctx, "together").Err() == nil {
		t.Error("not both rules are at work")
	}
	liftSet()
	if err := c.Set(ctx, "together", 3, 0).Err(); err != nil || c.Get(ctx, "together").Err() == nil {
		t.Errorf("after one was lifted: %v", err)
	}
	liftGet()
	if v, err := c.Get(ctx, "together").Int(); v != 3 || err != nil {
		t.Errorf("after both were lifted: %d, %v", v, err)
	}
	for range 2 {
		n.links[0].breakOff()
	}
	n.links[0].mend(true)
	if n.links[0].holes != 1 {
		t.Error("the first to mend has mended all")
	}
	n.links[0].mend(true)
}
