package carrier

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Calls that are made one by one, but at the same time, share pipelines: a system call and a wake-up for each command
// are most of what it costs, on either side. Nothing waits for others to come: where others are about, the goroutine that
// sends lets those run that are ready to, once, and takes what they have asked for. A caller who is alone is sent at once;
// the busier the process, the longer its pipelines.

const (
	longestPipeline = 32       // calls in one pipeline: where there are more, another one fills while the server works on the first
	largestShared   = 16 << 10 // bytes of arguments; a call with more goes alone, and keeps nobody waiting
)

// lane gathers calls for one server.
type lane struct {
	waiting []*ride
	leaving bool // somebody is about to take those who wait
	out     int  // pipelines under way
	last    int  // calls in the latest one
}

// laneKey says which calls may share: those for one master, apart from those that wait for replicas.
type laneKey struct {
	master  *redis.Client
	durable bool
}

// lanes are those that somebody waits in, and some that somebody will.
type lanes struct {
	mu      sync.Mutex
	open    map[laneKey]*lane
	resting int            // senders that wait for more to send
	idlers  sync.WaitGroup // of them
}

// mostLanes are kept: masters come and go.
const mostLanes = 64

// of returns a lane; with the lock held.
func (s *lanes) of(key laneKey) *lane {
	l := s.open[key]
	if l == nil {
		if len(s.open) >= mostLanes {
			maps.DeleteFunc(s.open, func(_ laneKey, l *lane) bool { return len(l.waiting) == 0 && l.out == 0 })
		}
		if s.open == nil {
			s.open = map[laneKey]*lane{}
		}
		l = &lane{}
		s.open[key] = l
	}
	return l
}

// ride is one call on its way in a pipeline that it may share.
type ride struct {
	ctx  context.Context
	end  time.Time // when its caller gives up
	call *Call
	sent time.Time
	done chan answer // takes one without waiting
	time *time.Timer // of end
}

func (c *Carrier) newRide(ctx context.Context, end time.Time, k *Call) *ride {
	left := time.Until(end)
	if own, has := ctx.Deadline(); has && !own.After(end) {
		left += lastMoment // ctx ends by itself, and is to be the first
	}
	r, used := c.rides.Get().(*ride)
	if used {
		r.time.Reset(left)
	} else {
		r = &ride{done: make(chan answer, 1), time: time.NewTimer(left)}
	}
	r.ctx, r.end, r.call = ctx, end, k
	return r
}

// over takes back a ride whose answer has come.
func (c *Carrier) over(r *ride) {
	r.time.Stop()
	r.ctx, r.call = nil, nil
	c.rides.Put(r)
}

// laneOf is the lane that a call may share; false where it has to go alone.
func (c *Carrier) laneOf(ctx context.Context, k *Call) (laneKey, bool) {
	if k.Once || k.size() > largestShared {
		return laneKey{}, false
	}
	key := laneKey{durable: c.durably(k)}
	if c.Cluster != nil {
		if !c.reached.Load() {
			return laneKey{}, false // the topology may not be known yet, and asking for it takes time
		}
		master, err := c.Cluster.MasterForKey(ctx, k.Keys[0])
		if err != nil {
			return laneKey{}, false
		}
		key.master = master
	}
	return key, true
}

// size is about how many bytes a call's arguments take.
func (k *Call) size() (n int) {
	for _, arg := range k.Args {
		switch arg := arg.(type) {
		case string:
			n += len(arg)
		case []byte:
			n += len(arg)
		}
	}
	return n
}

// share sends a call in a pipeline with others, and waits until end for its answer.
func (c *Carrier) share(ctx context.Context, end time.Time, key laneKey, k *Call) error {
	r := c.newRide(ctx, end, k)
	c.lanes.mu.Lock()
	l := c.lanes.of(key)
	l.waiting = append(l.waiting, r)
	first := !l.leaving
	l.leaving = true
	c.lanes.mu.Unlock()
	if first {
		c.dispatch(l)
	}

	var cause error
	select {
	case a := <-r.done:
		return c.arrive(r, a)
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case <-r.time.C:
		cause = context.DeadlineExceeded
	}
	if c.lanes.leave(l, r) {
		c.over(r)
		return cause
	}
	// A reply that is all but here makes the outcome known, which is worth a moment.
	last := time.NewTimer(lastMoment)
	defer last.Stop()
	select {
	case a := <-r.done:
		return c.arrive(r, a)
	case <-last.C:
		k.MayHaveRun = true
		return cause
	}
}

// arrive takes in a ride's answer.
func (c *Carrier) arrive(r *ride, a answer) error {
	err := r.call.settle(a, r.sent)
	if err == nil {
		c.reached.Store(true)
	}
	c.over(r)
	return err
}

// leave takes a call out that was not sent yet; false when it was.
func (s *lanes) leave(l *lane, r *ride) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range l.waiting {
		if w == r {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// dispatch has a goroutine send what gathers in a lane: one that has sent before, if there is one, since it need not grow
// its stack again, which costs more than all else that a goroutine does here.
func (c *Carrier) dispatch(l *lane) {
	select {
	case c.senders <- l:
	default:
		go c.send(l)
	}
}

// mostSenders wait for more to send, until Base ends.
const mostSenders = 4

func (c *Carrier) send(l *lane) {
	for l != nil {
		c.depart(l)
		l = c.next()
	}
}

// next waits for a lane to send from; nil where enough others wait, or Base has ended.
func (c *Carrier) next() *lane {
	s := &c.lanes
	s.mu.Lock()
	if s.resting == mostSenders || c.Base.Err() != nil {
		s.mu.Unlock()
		return nil
	}
	s.resting++
	s.idlers.Add(1)
	s.mu.Unlock()
	var l *lane
	select {
	case l = <-c.senders:
	case <-c.Base.Done():
	}
	s.mu.Lock()
	s.resting--
	s.mu.Unlock()
	s.idlers.Done()
	return l
}

// Rest returns when nobody waits for anything to send any more, after Base has ended. What is out ends by the client's timeouts.
func (c *Carrier) Rest() {
	c.lanes.mu.Lock()
	idlers := &c.lanes.idlers // who has not seen Base's end has been counted
	c.lanes.mu.Unlock()
	idlers.Wait()
}

// depart sends what has gathered.
func (c *Carrier) depart(l *lane) {
	if c.lanes.busy(l) {
		runtime.Gosched()
	}
	rides, more := c.lanes.take(l)
	if more {
		c.dispatch(l)
	}
	if len(rides) == 0 {
		return
	}
	ctx, done := together(rides)
	defer done()
	calls := make([]*Call, len(rides))
	for i, r := range rides {
		calls[i] = r.call
	}
	answers := c.transmit(ctx, calls, false)
	c.lanes.arrived(l)
	for i, r := range rides {
		r.done <- answers[i]
	}
}

// busy says whether others are about to join, as far as can be told: those who wait, and those who have just had their answers,
// or soon will.
func (s *lanes) busy(l *lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(l.waiting) > 1 || l.out > 0 || l.last > 1
}

func (s *lanes) arrived(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.out--
}

// take empties a lane; more says that some have to wait for another pipeline.
func (s *lanes) take(l *lane) (rides []*ride, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rides = l.waiting
	l.waiting = nil
	if len(rides) > longestPipeline {
		l.waiting = slices.Clone(rides[longestPipeline:])
		rides, more = rides[:longestPipeline], true
	}
	l.leaving = more
	if len(rides) > 0 {
		l.out, l.last = l.out+1, len(rides)
	}
	now := time.Now()
	for _, r := range rides {
		r.sent = now
	}
	return rides, more
}

// together is a context for calls of several callers: it has the values of the first, and ends when the last
// of them would give up.
func together(rides []*ride) (context.Context, context.CancelFunc) {
	if len(rides) == 1 {
		return context.WithDeadline(rides[0].ctx, rides[0].end)
	}
	end := rides[0].end
	for _, r := range rides[1:] {
		if r.end.After(end) {
			end = r.end
		}
	}
	return context.WithDeadline(context.WithoutCancel(rides[0].ctx), end)
}
