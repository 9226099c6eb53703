package caller

import (
	"sync"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

// stalls knows when this process did not run: it was stopped, or the machine was too busy. A lease's context ends
// late then, for which its grace makes up; what is longer than that is no failure of the lease.
type stalls struct {
	mu   sync.Mutex
	last int64 // when it was seen to run
	all  []stall
}

type stall struct{ from, until int64 }

const (
	stallTick  = 5 * time.Millisecond
	shortStall = 10 * time.Millisecond // the least that is kept, beyond the tick
	mostStalls = 1000
)

// watch looks until done is closed.
func (s *stalls) watch(done <-chan struct{}) {
	tick := time.NewTicker(stallTick)
	defer tick.Stop()
	for {
		s.look(history.Now())
		select {
		case <-tick.C:
		case <-done:
			return
		}
	}
}

func (s *stalls) look(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != 0 && now-s.last > int64(stallTick+shortStall) {
		s.all = append(s.all, stall{s.last + int64(stallTick), now})
		if len(s.all) > mostStalls {
			s.all = s.all[1:]
		}
	}
	s.last = now
}

// since says whether there was a stall of that length at a moment or later, up to now.
func (s *stalls) since(from int64, least time.Duration) bool {
	s.look(history.Now()) // whoever asks may run before the one that watches
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.all) - 1; i >= 0 && s.all[i].until >= from; i-- {
		if s.all[i].until-s.all[i].from >= int64(least) {
			return true
		}
	}
	return false
}
