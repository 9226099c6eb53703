package coordinator

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// renewer renews all leases of a coordinator and ends those whose deadline passes. One goroutine, alive
// while there are leases, keeps a heap ordered by what comes next for each; renewals go out in pipelines,
// beside it, so that a slow server never delays a deadline.
type renewer struct {
	c     *Coordinator
	wake  chan struct{} // something earlier came into the heap
	mu    sync.Mutex
	queue leaseHeap
	alive bool
}

// renewal is what the renewer keeps in each lease.
type renewal struct {
	next   time.Time // when the renewer must look at the lease
	due    time.Time // when the next renewal goes out
	under  bool      // a renewal is under way
	failed int       // renewals in a row that did not get through
	index  int       // in the heap, one more than the position; 0 when it is not there
}

const renewalsPerPipeline = 512

func newRenewer(c *Coordinator) *renewer {
	return &renewer{c: c, wake: make(chan struct{}, 1)}
}

// add takes a lease into care until remove.
func (r *renewer) add(l *Lease) {
	r.c.noteHeld(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan(l)
	heap.Push(&r.queue, l)
	if r.alive {
		r.nudge(l)
		return
	}
	if r.alive = r.c.start(r.loop); !r.alive {
		heap.Remove(&r.queue, l.index-1)
		l.cancel(ErrClosed)
		r.c.noteHeld(-1)
	}
}

func (r *renewer) remove(l *Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.index > 0 {
		heap.Remove(&r.queue, l.index-1)
	}
}

// reschedule plans a lease anew after its deadline has moved.
func (r *renewer) reschedule(l *Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.failed = 0
	if l.index > 0 {
		r.plan(l)
		heap.Fix(&r.queue, l.index-1)
		r.nudge(l)
	}
}

// retry plans another renewal for a lease whose last one did not get through.
func (r *renewer) retry(l *Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.under = false
	if l.index == 0 {
		return
	}
	l.due = time.Now().Add(r.c.jitter(min(l.lease/20<<min(l.failed, 3), time.Second)))
	l.failed++
	r.settle(l)
	heap.Fix(&r.queue, l.index-1)
	r.nudge(l)
}

// plan sets the next renewal at a third of the lease; none for a lease that renewals cannot prolong.
func (r *renewer) plan(l *Lease) {
	l.mu.Lock()
	l.due = l.sent.Add(r.c.jitter(l.lease / 3))
	if l.manual || l.end >= l.maximum {
		l.due = l.deadline
	}
	l.mu.Unlock()
	r.settle(l)
}

func (r *renewer) settle(l *Lease) {
	l.next = l.Deadline()
	if !l.under && l.due.Before(l.next) {
		l.next = l.due
	}
}

func (r *renewer) nudge(l *Lease) {
	if r.queue[0] != l {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *renewer) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.wake:
		case <-r.c.base.Done():
			r.endAll()
			return
		}
		lost, due, next, ok := r.collect(time.Now())
		for _, l := range lost {
			l.finish(ErrLeaseLost)
		}
		for len(due) > 0 {
			n := min(len(due), renewalsPerPipeline)
			batch := due[:n]
			due = due[n:]
			r.c.start(func() { r.renew(batch) })
		}
		if !ok {
			return
		}
		timer.Reset(time.Until(next))
	}
}

// collect takes what is to be done now: leases whose deadline has passed, and those whose renewal is due, with
// those soon due, so that they share pipelines. ok is false when no lease is left and the goroutine ends.
func (r *renewer) collect(now time.Time) (lost, due []*Lease, next time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 {
		l := r.queue[0]
		deadline := l.Deadline()
		if !now.Before(deadline) {
			heap.Pop(&r.queue)
			lost = append(lost, l)
			continue
		}
		early := now
		if len(due) > 0 {
			early = now.Add(l.lease / 30)
		}
		if l.next.After(early) || !l.next.Before(deadline) {
			break
		}
		l.under, l.next = true, deadline
		heap.Fix(&r.queue, 0)
		due = append(due, l)
	}
	if len(r.queue) == 0 {
		r.alive = false
		return lost, due, time.Time{}, false
	}
	return lost, due, r.queue[0].next, true
}

func (r *renewer) endAll() {
	r.mu.Lock()
	leases := r.queue
	r.queue, r.alive = nil, false
	for _, l := range leases {
		l.index = 0
	}
	r.mu.Unlock()
	for _, l := range leases {
		l.finish(ErrClosed)
	}
}

// renew sends one pipeline of renewals, once; what does not get through is planned again soon, until the deadline.
func (r *renewer) renew(leases []*Lease) {
	bound := longest
	calls := make([]*call, len(leases))
	byCall := make(map[*call]*Lease, len(leases))
	for i, l := range leases {
		calls[i] = l.renewCall(false)
		byCall[calls[i]] = l
		bound = min(bound, l.lease/3)
	}
	ctx, cancel := context.WithTimeout(r.c.base, bound)
	defer cancel()
	if r.c.cluster == nil || len(leases) == 1 {
		r.send(ctx, calls, leases)
		return
	}
	// Each master by itself, so that one that hangs keeps no other's answers back.
	var sending sync.WaitGroup
	for _, group := range r.c.byMaster(ctx, calls) {
		its := make([]*Lease, len(group))
		for i, k := range group {
			its[i] = byCall[k]
		}
		sending.Go(func() { r.send(ctx, group, its) })
	}
	sending.Wait()
}

// send sends one master's renewals and takes their answers in.
func (r *renewer) send(ctx context.Context, calls []*call, leases []*Lease) {
	if err := r.c.exchangeOne(ctx, calls); err != nil && r.c.cluster != nil {
		r.c.cluster.ReloadState(ctx)
	}
	renewed, late := 0, 0
	for i, l := range leases {
		k := calls[i]
		if !k.settled {
			r.retry(l)
			late++
			continue
		}
		r.mu.Lock()
		l.under = false
		tardy := time.Since(l.due) > l.lease/3
		r.mu.Unlock()
		err := l.renewed(k)
		if k.err == nil && k.reply.code != codeOK {
			continue // over: the lease has told its holder
		}
		if err != nil {
			r.retry(l)
		} else {
			renewed++
		}
		if err != nil || tardy {
			late++
		}
	}
	for outcome, count := range map[string]int{"renewed": renewed, "late": late} {
		if count > 0 {
			r.c.observer.Note(Event{Op: "renewal", Outcome: outcome, Count: count})
		}
	}
}

// leaseHeap orders leases by what comes next.
type leaseHeap []*Lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].next.Before(h[j].next) }
func (h leaseHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}
func (h *leaseHeap) Push(l any) {
	*h = append(*h, l.(*Lease))
	l.(*Lease).index = len(*h)
}
func (h *leaseHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	l.index = 0
	return l
}
