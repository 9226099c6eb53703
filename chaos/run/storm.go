package run

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/onceward/coordinator/chaos/faults"
	"github.com/onceward/coordinator/chaos/history"
)

// storm is the faults of a group: what has happened, and what has to.
type storm struct {
	lanes [][]faults.Fault
	seed  int64
	each  bool // every fault has to happen, not one of every lane only
	least int  // that often

	mu          sync.Mutex
	happened    []history.Fault
	times       map[string]int
	unsupported map[string]bool
}

// most is how long a storm may take beyond its time until every fault has happened.
const most = 90 * time.Second

// streams of random numbers that are made of the seed; the callers have others.
const (
	streamTarget = 3 << 32
	streamLanes  = 4 << 32
)

// rage injects faults, one after the other in each lane, for the time given and until each has happened that has to.
// It returns when all is undone.
func (s *storm) rage(ctx context.Context, t *faults.Target, length time.Duration, note func(history.Fault)) error {
	ctx, cancel := context.WithTimeout(ctx, length+most)
	defer cancel()
	s.times, s.unsupported = map[string]int{}, map[string]bool{}
	begun := time.Now()
	go func() { // ends with ctx
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if time.Since(begun) >= length && len(s.missing()) == 0 {
				cancel()
			}
		}
	}()
	errs := make([]error, len(s.lanes))
	var wg sync.WaitGroup
	for i := range s.lanes {
		wg.Go(func() {
			if errs[i] = s.lane(ctx, t, i, note); errs[i] != nil {
				cancel() // a run whose cluster does not come back tells nothing any more
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// lane injects the faults of one lane in a random order, then all of them again in another.
func (s *storm) lane(ctx context.Context, t *faults.Target, number int, note func(history.Fault)) error {
	random := rand.New(rand.NewPCG(uint64(s.seed), streamLanes+uint64(number)))
	lane := slices.Clone(s.lanes[number])
	for ctx.Err() == nil {
		random.Shuffle(len(lane), func(i, j int) { lane[i], lane[j] = lane[j], lane[i] })
		for _, f := range lane {
			if ctx.Err() != nil {
				return nil
			}
			happened, err := f.Inject(ctx, t)
			for _, h := range happened {
				s.take(h)
				note(h)
			}
			switch {
			case err == nil || ctx.Err() != nil || errors.Is(err, faults.ErrNothing):
			case errors.Is(err, faults.ErrUnsupported):
				s.unsupport(f.Name())
			default:
				return fmt.Errorf("%s: %w", f.Name(), err)
			}
			// A while without faults, so that not all of the callers' work fails.
			if err := pause(ctx, 200*time.Millisecond+time.Duration(random.Int64N(int64(500*time.Millisecond)))); err != nil {
				return nil
			}
		}
	}
	return nil
}

func (s *storm) take(f history.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := slices.ContainsFunc(s.happened, func(h history.Fault) bool { return h.Name == f.Name && h.Start == f.Start })
	s.happened = append(s.happened, f)
	if f.Count > 0 && !before { // one with several effects is told several times
		s.times[f.Name]++
	}
}

func (s *storm) unsupport(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsupported[name] = true
}

// missing names the faults that have to happen yet.
func (s *storm) missing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []string
	for _, lane := range s.lanes {
		var names []string
		for _, f := range lane {
			if s.times[f.Name()] < s.minimum(f.Name()) {
				names = append(names, f.Name())
			}
		}
		if s.each || len(names) == len(lane) {
			missing = append(missing, names...)
		}
	}
	return missing
}

// minimum is how often a fault has to happen.
func (s *storm) minimum(name string) int {
	if s.unsupported[name] {
		return 0
	}
	return s.least
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
