package estimate

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onceward/coordinator/internal/renewal"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within*math.Abs(want) {
		t.Errorf("%s: %v, want %v within %v %%", what, got, want, within*100)
	}
}

// The sizes that docs/keys-and-ttls.md gives, as a server measured them.
func TestMemoryIsWhatServersMeasured(t *testing.T) {
	c, err := Measured()
	if err != nil {
		t.Fatal(err)
	}
	plain := Record{Name: c.Memory.Name}
	near(t, "in flight", float64(c.Data(plain)), 191, .01)
	near(t, "in flight, in all", float64(c.All(plain)), 288, .01)
	near(t, "in flight with a fingerprint, in all", float64(c.All(c.Running())), 337, .01)
	for payload, beyond := range map[int]float64{100: 176, 512: 208, 1024: 336, 4096: 1104} {
		done := Record{Name: c.Memory.Name, Completed: true, Payload: payload}
		near(t, "completed", float64(c.Data(done)), float64(payload)+beyond, .02)
	}
}

func TestSizeClasses(t *testing.T) {
	for n, want := range map[int]int{1: 16, 16: 16, 17: 32, 112: 112, 113: 128, 128: 128, 129: 160, 160: 160, 257: 320, 513: 640, 4176: 5120, 65536: 65536} {
		if got := class(n); got != want {
			t.Errorf("%d bytes take %d, want %d", n, got, want)
		}
	}
}

// What random keys do stays under the bound and comes close to it; keys of few resources are far beyond it.
func TestSpreadAgainstTheBound(t *testing.T) {
	const keys = 50_000
	for _, s := range Spreads(keys, 1) {
		bound := Most(keys, Slots) * Slots / keys
		switch s.Name {
		case "UUIDv4", "UUIDv7", "webhooks", "tenants":
			if s.Slot > bound || s.Slot < bound*.55 {
				t.Errorf("%s: the fullest slot has %.2f times the mean, the bound is %.2f", s.Name, s.Slot, bound)
			}
		case "1,000 resources", "50 resources", "Zipf resources":
			if s.Slot < 2*bound {
				t.Errorf("%s: the fullest slot has %.2f times the mean only", s.Name, s.Slot)
			}
		}
		if s.Master[1] != 1 {
			t.Errorf("%s: one master has %v times the mean of one", s.Name, s.Master[1])
		}
	}
}

func TestShapesAreRepeatable(t *testing.T) {
	for _, s := range Shapes() {
		if !slices.Equal(s.Throw(2000, 7), s.Throw(2000, 7)) {
			t.Errorf("%s: one seed, two throws", s.Name)
		}
	}
}

func TestBound(t *testing.T) {
	// A Poisson number of mean 1 is 4 or more in 1.9 % of cases, 5 or more in 0.37 %.
	if got := Most(1, 1); got != 5 {
		t.Errorf("one ball, one bin: %v", got)
	}
	near(t, "the tail", tail(1, 4), .01899, .001)
	near(t, "the tail of a large mean", tail(99_000, 100_000), tail(100_001, 101_005), .05)
}

// held is a lease for the real schedule.
type held struct {
	place    renewal.Place
	master   int
	sent     time.Time
	due, end time.Time
}

// A process of the simulation does what the real schedule does in a bubble with the coordinator's rules.
func TestRenewalsAsTheRealSchedule(t *testing.T) {
	const leases, lease, masters = 3000, 30 * time.Second, 5
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		renewals, goes := 0, 0
		var schedule *renewal.Schedule[*held]
		var running sync.WaitGroup
		sent := func(l *held) {
			l.sent = time.Now()
			third := lease / renewAfter
			l.due, l.end = l.sent.Add(third-rand.N(third/jitterPart+1)), l.sent.Add(lease)
		}
		schedule = renewal.New(renewal.Host[*held]{
			Base: ctx, Start: func(fn func()) bool { running.Go(fn); return true }, Jitter: func(d time.Duration) time.Duration { return d },
			Place: func(l *held) *renewal.Place { return &l.place }, Length: func(*held) time.Duration { return lease },
			Deadline: func(l *held) time.Time { return l.end }, Due: func(l *held) time.Time { return l.due },
			Apart: func(due []*held) [][]*held {
				groups := make([][]*held, masters)
				for _, l := range due {
					groups[l.master] = append(groups[l.master], l)
				}
				return slices.DeleteFunc(groups, func(group []*held) bool { return len(group) == 0 })
			},
			Renew: func(batch []*held) {
				mu.Lock()
				defer mu.Unlock()
				renewals += len(batch)
				goes++
				for _, l := range batch {
					sent(l)
					schedule.Back(l)
					schedule.Moved(l)
				}
			},
			Lapse: func(*held) { t.Error("a lease lapsed") }, Close: func(*held) {},
		})
		for range leases {
			l := &held{master: rand.N(masters)}
			sent(l)
			l.due = time.Now().Add(rand.N(lease / renewAfter))
			schedule.Add(l)
		}
		time.Sleep(warmUp * lease / renewAfter)
		mu.Lock()
		renewals, goes = 0, 0
		mu.Unlock()
		time.Sleep(4 * lease)
		mu.Lock()
		defer mu.Unlock()
		seconds := (4 * lease).Seconds()
		simulated := Renewals(leases, lease, 1)
		near(t, "renewals a second", simulated.Renewals, float64(renewals)/seconds, .03)
		near(t, "leases of a go", simulated.On(1, masters, Cost{}).Size, float64(renewals)/float64(goes), .1)
		cancel()
		running.Wait()
	})
}

func TestRenewalsAreAsOftenAsTheArithmeticSays(t *testing.T) {
	for _, lease := range []time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute} {
		near(t, lease.String(), Renewals(50_000, lease, 1).Renewals, 50_000*PerLease(lease), .03)
	}
}

func TestFleet(t *testing.T) {
	each := Renewals(100_000, 30*time.Second, 1)
	cost := Cost{Pipelined: 10, Single: 20}
	due := each.Renewals / each.Wakes
	one, many := each.On(100, 1, cost), each.On(100, 300, cost)
	near(t, "one master", one.Size, due/math.Ceil(due/mostAtOnce), .001)
	near(t, "many masters", many.Size, due/300, .01)
	if many.Share > 2*one.Share/300 {
		t.Errorf("one of 300 masters is busy by %.3f, the only one by %.3f", many.Share, one.Share)
	}
	near(t, "touched", Touched(1, 300), 1, 1e-9)
}

func TestPublishing(t *testing.T) {
	c := &Costs{}
	c.Bus.Send, c.Bus.Receive, c.Bus.Bytes = 1, 3, 2000
	w := Wakes{Masters: 3, Replicas: 1, Each: 1000}
	if p := w.ClusterWide(c); p.Messages != 15_000 || math.Abs(p.Share-.011) > 1e-9 || p.Bytes != 14e6 {
		t.Errorf("cluster-wide: %+v", p)
	}
	if p := w.Sharded(c); p.Messages != 3000 || math.Abs(p.Share-.001) > 1e-9 {
		t.Errorf("sharded: %+v", p)
	}
	n := w.FullAt(c, .5)
	before, at := Wakes{n - 1, 1, 1000}, Wakes{n, 1, 1000}
	if before.ClusterWide(c).Share > .5 || at.ClusterWide(c).Share <= .5 {
		t.Errorf("full at %d masters", n)
	}
}

func TestHotKey(t *testing.T) {
	c, err := Measured()
	if err != nil {
		t.Fatal(err)
	}
	h := Hot{Rate: 1000, Processes: 10, Work: 2 * time.Second, After: 4 * time.Second, Again: time.Second}
	again := h.Simulate(&c, 1)
	near(t, "refused, who come back once in the second second", again.During, 1500, .05)
	h.Wait = true
	waiting := h.Simulate(&c, 1)
	near(t, "refused, who wait", waiting.During, 1000, .05)
	near(t, "replays", waiting.Behind, 1000, .05)
	h.MaxAge = time.Second
	if kept := h.Simulate(&c, 1); kept.Behind > 10+1 || kept.Behind < 8 {
		t.Errorf("%v replays a second by ten processes that keep results for a second", kept.Behind)
	}
}

func TestQueueAgainstTheFormula(t *testing.T) {
	for _, busy := range []float64{.3, .6, .8} {
		got := average(waits(busy, 20, []float64{20}, 0, 0, 1))
		near(t, "M/D/1", got, 20+busy*20/2/(1-busy), .05)
	}
	c, err := Measured()
	if err != nil {
		t.Fatal(err)
	}
	if q := c.Queue(.6, 1); q.P99 < q.Mean || q.P999 < q.P99 || q.P99Bursts < q.P99 {
		t.Errorf("%+v", q)
	}
}

func TestSize(t *testing.T) {
	c, err := Measured()
	if err != nil {
		t.Fatal(err)
	}
	w := Work{Keys: 1000, Retention: time.Hour, Payload: 512, Runs: time.Second, Lease: 30 * time.Second}
	n := Planned.Size(&c, w)
	near(t, "memory", n.Memory, 3.6e6*n.Record+1000*float64(c.All(c.Running())), .001)
	near(t, "CPU", n.Cores, 1000*c.Cycle().Single/1e6, .001)
	w.Keys, w.Retention = 100_000, 24*time.Hour
	if n := Planned.Size(&c, w); n.Masters != n.ByBytes || n.Masters < 200 || n.Host < n.Memory/float64(n.Masters) {
		t.Errorf("%+v", n)
	}
	w.Keys, w.Retention, w.Payload = 50_000, time.Minute, 100
	if n := Planned.Size(&c, w); n.Masters != n.ByCores || n.Busy > Planned.Busy {
		t.Errorf("%+v", n)
	}
	near(t, "what fits", Planned.Fits(&c, time.Hour, 512)*3600*n.Record, 25.6e9, .001)
	w.Runs = time.Minute
	if long := Planned.Size(&c, w); long.Cores <= n.Cores {
		t.Errorf("renewals cost nothing: %+v", long)
	}
}
