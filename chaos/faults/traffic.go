package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/faultproxy"
)

func networks() []Fault {
	return []Fault{
		answers{name: "drop-replies", action: faultproxy.DropReply},
		answers{name: "cut-replies", action: faultproxy.CutReply},
		holdRequests{},
		slowLinks{},
		killClients{},
	}
}

// share of the requests is what a fault of the network hits: enough to hit many in a second, and few enough that most
// retries succeed.
const share = 0.05

// some returns a rule that applies v to a share of the requests which are work.
func some(v faultproxy.Verdict, concerns func(faultproxy.Request) bool) func() faultproxy.Rule {
	rule := func(r faultproxy.Request) faultproxy.Verdict {
		if works(r) && concerns(r) && rand.Float64() < share {
			return v
		}
		return faultproxy.Verdict{}
	}
	return func() faultproxy.Rule { return rule }
}

func anything(faultproxy.Request) bool { return true }

// lasting pauses until d is over and the fault has hit something, or three times d is over.
func lasting(ctx context.Context, d time.Duration, hit func() int64) {
	if !pause(ctx, d) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*d)
	defer cancel()
	for hit() == 0 && pause(ctx, pollEvery) {
	}
}

// answers keeps callers from learning what the server has done.
type answers struct {
	name   string
	action faultproxy.Action
}

func (a answers) Name() string  { return a.name }
func (a answers) Group() string { return Networking }

func (a answers) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	hit := func() int64 { return t.count(func(p *faultproxy.Proxy) int64 { return p.Answered(a.action) }) }
	due := func() int64 { return t.count(func(p *faultproxy.Proxy) int64 { return p.Count(a.action) }) - hit() }
	before, never := hit(), due()
	f := history.Fault{Name: a.name, Effect: history.NoLoss, Start: history.Now()}
	lift := t.impose(some(faultproxy.Verdict{Action: a.action}, anything))
	lasting(ctx, t.between(time.Second, 2*time.Second), func() int64 { return hit() - before })
	lift()
	const longest = 500 * time.Millisecond // a server that does not answer meanwhile is dead or paused
	for end := time.Now().Add(longest); due() > never && time.Now().Before(end); {
		pause(context.WithoutCancel(ctx), time.Millisecond)
	}
	f.Count, f.End = hit()-before, history.Now()
	if f.Count == 0 {
		return nil, ErrNothing
	}
	return []history.Fault{f}, nil
}

// holdRequests keeps requests, whose callers are told nothing and try again, and delivers them when these have.
type holdRequests struct{}

func (holdRequests) Name() string  { return "hold-requests" }
func (holdRequests) Group() string { return Networking }

func (h holdRequests) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	held := func() int64 { return t.count(func(p *faultproxy.Proxy) int64 { return int64(p.Held()) }) }
	f := history.Fault{Name: h.Name(), Effect: history.Late, Start: history.Now()}
	// WAIT says nothing on a connection which has written nothing.
	lift := t.impose(some(faultproxy.Verdict{Action: faultproxy.Hold}, func(r faultproxy.Request) bool { return r.Name != "WAIT" }))
	lasting(ctx, t.between(300*time.Millisecond, time.Second), held)
	lift()
	// Some come while the lease that they ask for or renew still lives, some long after.
	pause(ctx, t.between(100*time.Millisecond, max(t.beyond(), time.Second)))
	var mu sync.Mutex
	var wg sync.WaitGroup
	ran := 0
	for _, l := range t.links() {
		wg.Go(func() {
			late := l.proxy.Release()
			mu.Lock()
			defer mu.Unlock()
			f.Count += int64(len(late))
			for _, one := range late {
				if one.Err == nil && len(one.Reply) > 0 && one.Reply[0] != '-' {
					ran++
				}
			}
		})
	}
	wg.Wait()
	f.Detail, f.End = fmt.Sprintf("%d ran without an error", ran), history.Now()
	if f.Count == 0 {
		return nil, ErrNothing
	}
	return []history.Fault{f}, nil
}

// The delays of slow links.
const (
	leastDelay = 20 * time.Millisecond
	mostDelay  = 500 * time.Millisecond
)

// slowLinks delays requests, on each way by another time. A request may arrive after its caller has given up.
type slowLinks struct{}

func (slowLinks) Name() string  { return "slow-links" }
func (slowLinks) Group() string { return Networking }

func (s slowLinks) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	hit := func() int64 { return t.count(func(p *faultproxy.Proxy) int64 { return p.Count(faultproxy.Delay) }) }
	before := hit()
	f := history.Fault{Name: s.Name(), Effect: history.Late, Start: history.Now(), Detail: "each by 20 to 500 ms"}
	lift := t.impose(func() faultproxy.Rule { return slowly(t.between(leastDelay, mostDelay)) })
	lasting(ctx, t.between(time.Second, 2*time.Second), func() int64 { return hit() - before })
	lift()
	f.Count = hit() - before
	// What is under way arrives before End, also when ctx has ended.
	pause(context.WithoutCancel(ctx), mostDelay+100*time.Millisecond)
	f.End = history.Now()
	if f.Count == 0 {
		return nil, ErrNothing
	}
	return []history.Fault{f}, nil
}

// slowly delays by about d what comes together: a pipeline is late as a whole, not by d for each of its requests.
func slowly(d time.Duration) faultproxy.Rule {
	var mu sync.Mutex
	late := map[int]time.Time{} // until when a connection is
	return func(r faultproxy.Request) faultproxy.Verdict {
		mu.Lock()
		defer mu.Unlock()
		// The proxy asks for the next request of a connection when this one is on its way.
		if now := time.Now(); works(r) && now.After(late[r.Conn]) {
			d := min(max(time.Duration(float64(d)*(0.5+rand.Float64())), leastDelay), mostDelay)
			late[r.Conn] = now.Add(d + 5*time.Millisecond)
			return faultproxy.Verdict{Action: faultproxy.Delay, For: d}
		}
		return faultproxy.Verdict{}
	}
}

// killClients has the masters hang up on everybody, some times.
type killClients struct{}

func (killClients) Name() string  { return "kill-clients" }
func (killClients) Group() string { return Networking }

func (k killClients) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	const times = 5
	f := history.Fault{Name: k.Name(), Effect: history.NoLoss, Start: history.Now()}
	for range times {
		masters, err := t.Cluster.Masters(ctx)
		if err != nil {
			return happened(f), nil // a node failed meanwhile, which is another fault's doing
		}
		for _, m := range masters {
			for _, kind := range []string{"normal", "pubsub"} {
				n, err := ask(ctx, m, "CLIENT", "KILL", "TYPE", kind).Int64()
				if err == nil {
					f.Count += n
				}
			}
		}
		if !pause(ctx, t.between(50*time.Millisecond, 400*time.Millisecond)) {
			break
		}
	}
	return happened(f), nil
}

// happened ends a fault that lasts no longer than its injection.
func happened(f history.Fault) []history.Fault {
	if f.Count == 0 {
		return nil
	}
	f.End = history.Now()
	return []history.Fault{f}
}
