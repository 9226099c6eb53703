package carrier

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Calls that are made one by one, but at the same time, share pipelines: a system call and a wake-up for each command
// are most of what it costs, on either side. Nothing waits for others to come: the goroutine that sends lets those run
// that are ready to, once, and takes what they have asked for. A caller who is alone is sent at once; the busier the
// process, the longer its pipelines.

const (
	longestPipeline = 128      // calls in one pipeline
	largestShared   = 16 << 10 // bytes of arguments; a call with more goes alone, and keeps nobody waiting
)

// lane gathers calls for one server.
type lane struct {
	waiting []*ride
	leaving bool // somebody is about to take those who wait
}

// laneKey says which calls may share: those for one master, apart from those that wait for replicas.
type laneKey struct {
	master  *redis.Client
	durable bool
}

// lanes are those that somebody waits in.
type lanes struct {
	mu   sync.Mutex
	open map[laneKey]*lane
}

// ride is one call on its way in a pipeline that it may share.
type ride struct {
	ctx  context.Context
	call *Call
	took time.Time // when it was sent; zero before
	done chan answer
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

// share sends a call in a pipeline with others.
func (c *Carrier) share(ctx context.Context, key laneKey, k *Call) error {
	r := &ride{ctx: ctx, call: k, done: make(chan answer, 1)}
	c.lanes.mu.Lock()
	l := c.lanes.open[key]
	if l == nil {
		l = &lane{}
		if c.lanes.open == nil {
			c.lanes.open = map[laneKey]*lane{}
		}
		c.lanes.open[key] = l
	}
	l.waiting = append(l.waiting, r)
	if !l.leaving {
		l.leaving = true
		go c.depart(key, l)
	}
	c.lanes.mu.Unlock()

	select {
	case a := <-r.done:
		return k.settle(a, r.took)
	case <-ctx.Done():
	}
	if c.lanes.leave(l, r) {
		return context.Cause(ctx)
	}
	// A reply that is all but here makes the outcome known, which is worth a moment.
	last := time.NewTimer(lastMoment)
	defer last.Stop()
	select {
	case a := <-r.done:
		return k.settle(a, r.took)
	case <-last.C:
		k.MayHaveRun = true
		return context.Cause(ctx)
	}
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

// depart sends what has gathered.
func (c *Carrier) depart(key laneKey, l *lane) {
	runtime.Gosched()
	rides := c.lanes.take(key, l, func() { go c.depart(key, l) })
	if len(rides) == 0 {
		return
	}
	calls := make([]*Call, len(rides))
	ctx := rides[0].ctx
	if len(rides) > 1 {
		var done context.CancelFunc
		ctx, done = together(rides)
		defer done()
	}
	for i, r := range rides {
		calls[i] = r.call
	}
	answers := c.transmit(ctx, calls)
	for i, r := range rides {
		r.done <- answers[i]
	}
}

// take empties a lane; more is called when some have to wait for another pipeline.
func (s *lanes) take(key laneKey, l *lane, more func()) []*ride {
	s.mu.Lock()
	defer s.mu.Unlock()
	rides := l.waiting
	if len(rides) > longestPipeline {
		rides = rides[:longestPipeline:longestPipeline]
		l.waiting = l.waiting[longestPipeline:]
		more()
	} else {
		l.waiting, l.leaving = nil, false
		delete(s.open, key)
	}
	now := time.Now()
	for _, r := range rides {
		r.took = now
	}
	return rides
}

// together is a context for calls of several callers: it has the values of the first, and ends when the last
// of them would give up.
func together(rides []*ride) (context.Context, context.CancelFunc) {
	ctx := context.WithoutCancel(rides[0].ctx)
	var end time.Time
	for _, r := range rides {
		at, has := r.ctx.Deadline()
		if !has {
			return ctx, func() {}
		}
		if at.After(end) {
			end = at
		}
	}
	return context.WithDeadline(ctx, end)
}
