package run

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/caller"
	"github.com/onceward/coordinator/chaos/faults"
	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/keyname"
)

const (
	slots      = 16384
	masters    = 3
	probeEvery = 20 * time.Millisecond
)

// prober claims one fresh key after the other in the slots of one master, and notes when it succeeds. It is a client
// like any other, with default options, by way of the proxies.
type prober struct {
	from, to int // its slots
	rdb      *redis.ClusterClient
	coord    *coordinator.Coordinator
	done     sync.WaitGroup

	mu   sync.Mutex
	hits []int64 // when claims succeeded
}

// probe starts a prober for each master; they end with ctx.
func probe(ctx context.Context, network map[string]string) ([]*prober, error) {
	var probers []*prober
	for i := range masters {
		p := &prober{from: i * slots / masters, to: (i+1)*slots/masters - 1}
		p.rdb = caller.Client(network, "chaos-probe", faults.Dialer(network))
		var err error
		p.coord, err = coordinator.New(p.rdb, coordinator.WithPrefix("probe"), coordinator.WithLease(100*time.Millisecond),
			coordinator.WithMaxLifetime(time.Second), coordinator.WithRetention(10*time.Second))
		if err != nil {
			return nil, err
		}
		p.done.Go(func() { p.run(ctx) })
		probers = append(probers, p)
	}
	return probers, nil
}

func (p *prober) run(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for number := 0; ; number++ {
		key := coordinator.Key{Scope: "probe", ID: fmt.Sprintf("%d-%d", p.from, number)}
		if slot := keyname.Slot(keyname.Namer{}.Names(key.Scope, key.ID, "").Record); slot < p.from || slot > p.to {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := p.coord.Claim(ctx, key, coordinator.ManualRenewal()); err == nil {
			at := history.Now()
			p.mu.Lock()
			p.hits = append(p.hits, at)
			p.mu.Unlock()
		}
	}
}

// close ends it, when its context has ended.
func (p *prober) close() {
	p.done.Wait()
	_ = p.coord.Close()
	_ = p.rdb.Close()
}

// outage is for how long no claim succeeded during a fault.
type outage struct {
	Again     time.Duration // from the start of the fault until claims succeed again
	Promotion time.Duration // from the start until a replica had taken over; 0: none had to
	After     time.Duration // from the promotion until claims succeed again
}

// outageOf looks at the masters whose slots the fault concerned, and returns the longest. false when nobody probed.
func outageOf(probers []*prober, f history.Fault) (outage, bool) {
	var worst outage
	found := false
	for _, p := range probers {
		if !p.concerned(f) {
			continue
		}
		p.mu.Lock()
		again, ok := againAfter(p.hits, f)
		p.mu.Unlock()
		if !ok {
			continue
		}
		o := outage{Again: again}
		if f.Promoted > 0 {
			o.Promotion = time.Duration(f.Promoted - f.Start)
			o.After = max(again-o.Promotion, 0)
		}
		if !found || o.Again > worst.Again {
			worst, found = o, true
		}
	}
	return worst, found
}

func (p *prober) concerned(f history.Fault) bool {
	return len(f.Slots) == 0 || slices.ContainsFunc(f.Slots, func(r [2]int) bool { return r[0] <= p.to && r[1] >= p.from })
}

// againAfter is how long it took from the start of the fault until claims succeeded again. Where a replica took over,
// that is the first success from then on; otherwise it is the longest time without one, while the fault lasted.
func againAfter(hits []int64, f history.Fault) (time.Duration, bool) {
	if f.Promoted > 0 {
		at, _ := slices.BinarySearch(hits, f.Promoted)
		if at == len(hits) {
			return 0, false
		}
		return time.Duration(hits[at] - f.Start), true
	}
	at, _ := slices.BinarySearch(hits, f.Start)
	longest, before := int64(0), f.Start
	for ; before < f.End || before == f.Start; at++ {
		if at == len(hits) {
			return 0, false // not yet
		}
		longest = max(longest, hits[at]-before)
		before = hits[at]
	}
	return time.Duration(longest), true
}

// again waits until every prober has succeeded once more.
func again(ctx context.Context, probers []*prober) error {
	const longest = 20 * time.Second
	now := history.Now()
	for begun := time.Now(); ; {
		waiting := slices.ContainsFunc(probers, func(p *prober) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.hits) == 0 || p.hits[len(p.hits)-1] < now
		})
		if !waiting {
			return nil
		}
		if time.Since(begun) > longest {
			return fmt.Errorf("claims do not succeed on all masters, %v after the last fault was over", longest)
		}
		if err := pause(ctx, probeEvery); err != nil {
			return err
		}
	}
}

// middle is the median, 0 of none.
func middle[T cmp.Ordered](values []T) T {
	var none T
	if len(values) == 0 {
		return none
	}
	values = slices.Sorted(slices.Values(values))
	return values[(len(values)-1)/2]
}
