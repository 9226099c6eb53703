// Package renewal knows when each lease is to be renewed and when it ends. One goroutine, alive while there are
// leases, keeps a heap ordered by what comes next for each; renewals go out beside it, so that a slow server never
// delays a deadline.
package renewal

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"
)

// Host is what the schedule needs of the coordinator whose leases, of type L, it has in its care.
type Host[L any] struct {
	Base   context.Context   // ends with the coordinator
	Start  func(func()) bool // runs beside the callers; false when the coordinator is closed
	Jitter func(time.Duration) time.Duration

	Place    func(L) *Place        // where the lease keeps what the schedule needs
	Length   func(L) time.Duration // of the lease
	Deadline func(L) time.Time     // when the lease ends unless it is renewed
	Due      func(L) time.Time     // when to renew it next; its deadline when no renewal prolongs it
	Apart    func([]L) [][]L       // parts leases by the master that serves them now and keeps their order; it may take time
	Renew    func([]L)             // renews these, of one master, once; each is then answered by Retry, or by Back and Moved or Remove
	Lapse    func(L)               // ends the lease: its deadline has passed
	Close    func(L)               // ends the lease: the coordinator was closed
}

// Place is what the schedule keeps in each lease, under its own lock.
type Place struct {
	next   time.Time // when it must look at the lease
	due    time.Time // when the next renewal goes out
	under  bool      // a renewal is under way
	failed int       // renewals in a row that did not get through
	index  int       // in the heap, one more than the position; 0 when it is not there
}

// Schedule is the leases in its care.
type Schedule[L comparable] struct {
	Host[L]
	wake  chan struct{} // something earlier came into the heap
	mu    sync.Mutex
	queue queue[L]
	alive bool
}

// New makes an empty schedule; nothing runs until a lease is added.
func New[L comparable](host Host[L]) *Schedule[L] {
	return &Schedule[L]{Host: host, wake: make(chan struct{}, 1), queue: queue[L]{place: host.Place}}
}

const mostAtOnce = 512 // renewals in one go, which is one pipeline

// Len is how many leases are in care.
func (s *Schedule[L]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue.leases)
}

// Has says whether l is in care.
func (s *Schedule[L]) Has(l L) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Place(l).index > 0
}

// Add takes a lease into care until Remove. false: the coordinator is closed.
func (s *Schedule[L]) Add(l L) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan(l)
	heap.Push(&s.queue, l)
	if s.alive {
		s.nudge(l)
		return true
	}
	if s.alive = s.Start(s.loop); !s.alive {
		heap.Remove(&s.queue, s.Place(l).index-1)
	}
	return s.alive
}

// Remove ends the care for l.
func (s *Schedule[L]) Remove(l L) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.Place(l).index; at > 0 {
		heap.Remove(&s.queue, at-1)
	}
}

// Moved plans a lease anew after its deadline has moved.
func (s *Schedule[L]) Moved(l L) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.Place(l)
	if p.failed = 0; p.index > 0 {
		s.plan(l)
		heap.Fix(&s.queue, p.index-1)
		s.nudge(l)
	}
}

// Retry plans another renewal for a lease whose last one did not get through.
func (s *Schedule[L]) Retry(l L) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.Place(l)
	p.under = false
	if p.index == 0 {
		return
	}
	p.due = time.Now().Add(s.Jitter(min(s.Length(l)/20<<min(p.failed, 3), time.Second)))
	p.failed++
	s.settle(l)
	heap.Fix(&s.queue, p.index-1)
	s.nudge(l)
}

// Back notes that a renewal's answer is here; late when it was due longer than a third of the lease ago.
func (s *Schedule[L]) Back(l L) (late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.Place(l)
	p.under = false
	return time.Since(p.due) > s.Length(l)/3
}

func (s *Schedule[L]) plan(l L) {
	s.Place(l).due = s.Due(l)
	s.settle(l)
}

func (s *Schedule[L]) settle(l L) {
	p := s.Place(l)
	p.next = s.Deadline(l)
	if !p.under && p.due.Before(p.next) {
		p.next = p.due
	}
}

func (s *Schedule[L]) nudge(l L) {
	if s.queue.leases[0] != l {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Schedule[L]) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.Base.Done():
			s.endAll()
			return
		}
		lapsed, due, next, ok := s.collect(time.Now())
		for _, l := range lapsed {
			s.Lapse(l)
		}
		if len(due) > 0 {
			s.Start(func() { s.renew(due) })
		}
		if !ok {
			return
		}
		timer.Reset(time.Until(next))
	}
}

// collect takes what is to be done now: leases whose deadline has passed, and those whose renewal is due, with
// those soon due, so that they share pipelines. ok is false when no lease is left and the goroutine ends.
func (s *Schedule[L]) collect(now time.Time) (lapsed, due []L, next time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue.leases) > 0 {
		l := s.queue.leases[0]
		p, deadline := s.Place(l), s.Deadline(l)
		if !now.Before(deadline) {
			heap.Pop(&s.queue)
			lapsed = append(lapsed, l)
			continue
		}
		early := now
		if len(due) > 0 {
			early = now.Add(s.Length(l) / 30)
		}
		if p.next.After(early) || !p.next.Before(deadline) {
			break
		}
		p.under, p.next = true, deadline
		heap.Fix(&s.queue, 0)
		due = append(due, l)
	}
	if len(s.queue.leases) == 0 {
		s.alive = false
		return lapsed, due, time.Time{}, false
	}
	return lapsed, due, s.Place(s.queue.leases[0]).next, true
}

// renew has leases renewed in goes of one master each, all at once: one that hangs keeps no other's answers back. They
// are parted before they are cut, since pieces of a go that are cut by time alone get shorter with every master.
func (s *Schedule[L]) renew(due []L) {
	for _, group := range s.Apart(due) {
		for batch := range slices.Chunk(group, mostAtOnce) {
			s.Start(func() { s.Renew(batch) })
		}
	}
}

func (s *Schedule[L]) endAll() {
	s.mu.Lock()
	leases := s.queue.leases
	s.queue.leases, s.alive = nil, false
	for _, l := range leases {
		s.Place(l).index = 0
	}
	s.mu.Unlock()
	for _, l := range leases {
		s.Close(l)
	}
}

// queue is a heap of leases ordered by what comes next.
type queue[L any] struct {
	leases []L
	place  func(L) *Place
}

func (q *queue[L]) Len() int { return len(q.leases) }
func (q *queue[L]) Less(i, j int) bool {
	return q.place(q.leases[i]).next.Before(q.place(q.leases[j]).next)
}
func (q *queue[L]) Swap(i, j int) {
	q.leases[i], q.leases[j] = q.leases[j], q.leases[i]
	q.place(q.leases[i]).index, q.place(q.leases[j]).index = i+1, j+1
}
func (q *queue[L]) Push(l any) {
	q.leases = append(q.leases, l.(L))
	q.place(l.(L)).index = len(q.leases)
}
func (q *queue[L]) Pop() any {
	last := len(q.leases) - 1
	l := q.leases[last]
	var none L
	q.leases[last] = none
	q.leases = q.leases[:last]
	q.place(l).index = 0
	return l
}
