// Package wakeup waits for keys on behalf of a coordinator's callers.
//
// Those who wait for one key in one process form a room. Its leader does the work for all: it listens,
// marks what it waits for, and looks again when it is woken, when it may have missed a message, when the lease must
// have ended, and slowly in any case, so that a lost message costs a delay and not a hang. What it finds finished it
// hands to those who were there when it looked: for a later call it may be too old. When it leaves, the next in line leads.
package wakeup

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// How long a leader waits at most before it looks again.
const (
	// Poll is for who cannot be woken: it does not listen yet or any more, or has found nothing to mark.
	Poll = 2 * time.Second
	// SlowPoll is for who listens to what is marked: how long a message that is lost all the same can delay a waiter.
	// With it a process sends a command every 13 s for a key, and while it works under a lease of 30 s one more
	// every 8.5 s.
	SlowPoll = 15 * time.Second
)

// Host is what waiting needs of the coordinator that it is a part of.
type Host struct {
	Client  redis.UniversalClient
	Cluster *redis.ClusterClient // the same, when it is one
	Base    context.Context      // ends with the coordinator
	Start   func(func()) bool    // runs beside the callers; false when the coordinator is closed
	BackOff func(ctx context.Context, try int) bool
	Jitter  func(time.Duration) time.Duration
	Note    func(waiters int) // by how much their number has changed
}

// Waits are a coordinator's rooms and what they listen to. R is the record that a leader finds finished.
type Waits[R any] struct {
	hub hub

	mu     sync.Mutex
	byName map[string]*room[R]
}

// New makes the waits of a coordinator; nothing runs until somebody waits.
func New[R any](host Host) *Waits[R] {
	return &Waits[R]{hub: hub{Host: host, lines: map[int]*line{}}, byName: map[string]*room[R]{}}
}

// Kind is how we listen, as the scripts mark it: '1' PUBLISH, '2' SPUBLISH.
func (r *Waits[R]) Kind() byte {
	if r.hub.Cluster != nil {
		return '2'
	}
	return '1'
}

type room[R any] struct {
	name    string
	members []*member[R] // in the order of their numbers; the first one leads
	entered int          // members so far
	guard   string       // what sub listens to
	sub     *subscription
}

type member[R any] struct {
	number int
	lead   chan struct{} // closed when this one leads
	told   chan *R       // the finished record that the leader found
}

func (r *Waits[R]) enter(name string) (*room[R], *member[R]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.byName[name]
	if in == nil {
		in = &room[R]{name: name}
		r.byName[name] = in
	}
	in.entered++
	m := &member[R]{number: in.entered, lead: make(chan struct{}), told: make(chan *R, 1)}
	in.members = append(in.members, m)
	if len(in.members) == 1 {
		close(m.lead)
	}
	return in, m
}

// leave hands the lead on; with the last one the subscription ends.
func (r *Waits[R]) leave(in *room[R], m *member[R]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.Index(in.members, m)
	if at < 0 {
		return
	}
	in.members = slices.Delete(in.members, at, at+1)
	if len(in.members) == 0 {
		delete(r.byName, in.name)
		in.sub.end()
		return
	}
	if at == 0 {
		close(in.members[0].lead)
	}
}

// latest is the number of who entered last.
func (r *Waits[R]) latest(in *room[R]) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return in.entered
}

// tell gives everybody but the leader what was found, up to that number, and they are out of the room.
func (r *Waits[R]) tell(in *room[R], latest int, found *R) {
	r.mu.Lock()
	defer r.mu.Unlock()
	leader := in.members[0]
	in.members = slices.DeleteFunc(in.members, func(m *member[R]) bool {
		tell := m != leader && m.number <= latest
		if tell {
			m.told <- found
		}
		return tell
	})
}

// View is what a look at a key showed.
type View[R any] struct {
	Done     bool          // there is an answer; the looker has it
	Finished *R            // and it serves everybody who was in the room before the look
	Guard    string        // what to listen to and mark: the record or the fence in the way; empty: poll
	Marked   bool          // it is marked already
	Ends     time.Duration // how long the lease in the way lasts, unless renewed
}

// Waiter is one caller's part in a room.
type Waiter[R any] struct {
	Look func() View[R]                                  // looks whether there is an answer now
	Mark func(ctx context.Context, seen View[R]) View[R] // asks to be woken; not marked means: look again
	Told func(*R)                                        // takes what another one's look has found finished
}

// In waits in the room of that name until w's look has an answer, or another one's look has. It is false
// when ctx or the coordinator ended first. seen is what w has looked at before.
func (r *Waits[R]) In(ctx context.Context, name string, seen View[R], w Waiter[R]) bool {
	r.hub.Note(1)
	defer r.hub.Note(-1)
	in, m := r.enter(name)
	defer r.leave(in, m)
	select {
	case found := <-m.told:
		w.Told(found)
		return true
	case <-m.lead:
	case <-ctx.Done():
		return false
	case <-r.hub.Base.Done():
		return false
	}
	if in.sub != nil {
		seen.Marked = false // it was, for the leader before; a release has taken that mark away
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if seen.Guard != "" && seen.Guard != in.guard {
			in.sub.end()
			in.guard, in.sub = seen.Guard, r.hub.subscribe(seen.Guard)
			seen.Marked = false // for others, and what they are sent before we listen is not for us
		}
		var ready, woken <-chan struct{}
		if in.sub != nil {
			woken = in.sub.woken
			if seen.Guard != "" && !seen.Marked {
				ready = in.sub.ready
			}
		}
		timer.Reset(r.pause(in, seen))
		select {
		case <-ready:
			if seen = w.Mark(ctx, seen); seen.Marked {
				continue
			}
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
			return false
		case <-r.hub.Base.Done():
			return false
		}
		latest := r.latest(in)
		if seen = w.Look(); seen.Finished != nil {
			r.tell(in, latest, seen.Finished)
		}
		if seen.Done {
			return true
		}
	}
}

// pause is how long to wait for a message.
func (r *Waits[R]) pause(in *room[R], seen View[R]) time.Duration {
	pause := Poll
	if seen.Guard != "" && seen.Marked && in.sub.listens() {
		pause = SlowPoll
	}
	pause = r.hub.Jitter(pause)
	if seen.Ends > 0 {
		pause = min(pause, seen.Ends+time.Millisecond)
	}
	return pause
}

// Waiting is how many callers wait now.
func (r *Waits[R]) Waiting() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range r.byName {
		n += len(in.members)
	}
	return n
}

// Listening says whether messages on a channel arrive now.
func (r *Waits[R]) Listening(name string) bool {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	for _, l := range r.hub.lines {
		if t := l.wanted[name]; t != nil && t.listening {
			return true
		}
	}
	return false
}
