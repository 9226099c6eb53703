package wakeup

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
)

// hub listens for wake-ups on behalf of the rooms. On a cluster it has a connection for each slot that is
// waited in, because channels of two slots cannot share a sharded subscription; elsewhere it has one. A
// connection ends with its last channel.
type hub struct {
	Host

	mu    sync.Mutex
	lines map[int]*line // by slot
}

// mostLines bounds the connections for waiting; who finds none left polls.
const mostLines = 128

// line is one connection's worth of channels.
type line struct {
	hub     *hub
	slot    int
	changed chan struct{}
	wanted  map[string]*topic // under hub.mu
	dropped map[string]int    // under hub.mu: unsubscribed, and not yet confirmed
}

type topic struct {
	listening bool
	subs      map[*subscription]struct{}
}

// subscription wakes one room.
type subscription struct {
	hub   *hub
	line  *line
	name  string
	ready chan struct{} // closed once messages arrive
	woken chan struct{} // a message came, or one may have been missed
}

func (h *hub) subscribe(name string) *subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &subscription{hub: h, name: name, ready: make(chan struct{}), woken: make(chan struct{}, 1)}
	slot := 0
	if h.Cluster != nil {
		slot = keyname.Slot(name)
	}
	l := h.lines[slot]
	if l == nil {
		l = &line{hub: h, slot: slot, changed: make(chan struct{}, 1), wanted: map[string]*topic{}, dropped: map[string]int{}}
		if len(h.lines) >= mostLines || !h.Start(l.run) {
			return s // never ready: its room polls
		}
		h.lines[slot] = l
	}
	s.line = l
	t := l.wanted[name]
	if t == nil {
		t = &topic{subs: map[*subscription]struct{}{}}
		l.wanted[name] = t
		l.nudge()
	}
	t.subs[s] = struct{}{}
	if t.listening {
		close(s.ready)
	}
	return s
}

// end is safe on nil.
func (s *subscription) end() {
	if s == nil || s.line == nil {
		return
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	t := s.line.wanted[s.name]
	delete(t.subs, s)
	if len(t.subs) == 0 {
		delete(s.line.wanted, s.name)
		s.line.nudge()
	}
	if len(s.line.wanted) == 0 {
		delete(s.hub.lines, s.line.slot)
	}
}

// listens says whether messages arrive now.
func (s *subscription) listens() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.line == nil {
		return false
	}
	t := s.line.wanted[s.name]
	return t != nil && t.listening
}

func (s *subscription) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

func (l *line) nudge() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// run keeps a session open until nothing is wanted any more.
func (l *line) run() {
	for try := 1; ; try++ {
		if began := time.Now(); l.session() {
			return
		} else if time.Since(began) > Poll {
			try = 1
		}
		if l.hub.Cluster != nil {
			l.hub.Cluster.ReloadState(l.hub.Base) // the slot may have moved
		}
		if !l.hub.BackOff(l.hub.Base, try) {
			return
		}
	}
}

// session listens on one connection until it breaks, the slot moves away (false), or nobody wants it any
// more (true).
func (l *line) session() bool {
	ctx, cancel := context.WithCancel(l.hub.Base)
	var ps *redis.PubSub
	if l.hub.Cluster != nil {
		ps = l.hub.Cluster.SSubscribe(ctx)
	} else {
		ps = l.hub.Client.Subscribe(ctx)
	}
	var reader chan struct{}
	asked := map[string]*topic{}
	defer func() {
		cancel()
		_ = ps.Close()
		if reader != nil {
			<-reader
		}
		l.deafen()
	}()
	l.nudge()
	for {
		select {
		case <-l.changed:
		case <-reader:
			reader = nil
			return false
		case <-ctx.Done():
			return true
		}
		add, drop, idle := l.compare(asked)
		if idle {
			return true
		}
		if l.ask(ctx, ps, add, drop) != nil {
			return false
		}
		if reader == nil {
			reader = make(chan struct{})
			go l.read(ctx, ps, reader)
		}
	}
}

func (l *line) ask(ctx context.Context, ps *redis.PubSub, add, drop []string) (err error) {
	subscribe, unsubscribe := ps.Subscribe, ps.Unsubscribe
	if l.hub.Cluster != nil {
		subscribe, unsubscribe = ps.SSubscribe, ps.SUnsubscribe
	}
	if len(add) > 0 {
		err = subscribe(ctx, add...)
	}
	if err == nil && len(drop) > 0 {
		err = unsubscribe(ctx, drop...)
	}
	return err
}

// compare says what to ask the server for, and whether there is nothing left to listen for.
func (l *line) compare(asked map[string]*topic) (add, drop []string, idle bool) {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	for name, t := range l.wanted {
		if asked[name] != t { // also one that was ended and begun again: it waits for a confirmation of its own
			asked[name] = t
			add = append(add, name)
		}
	}
	for name := range asked {
		if l.wanted[name] == nil {
			delete(asked, name)
			drop = append(drop, name)
			l.dropped[name]++
		}
	}
	return add, drop, len(l.wanted) == 0
}

// read hands messages on until the connection breaks or the server takes a subscription away, as it
// does when the slot moves.
func (l *line) read(ctx context.Context, ps *redis.PubSub, done chan struct{}) {
	defer close(done)
	for {
		message, err := ps.Receive(ctx)
		if err != nil {
			return
		}
		switch m := message.(type) {
		case *redis.Message:
			l.wake(m.Channel, false)
		case *redis.Subscription:
			switch m.Kind {
			case "subscribe", "ssubscribe":
				l.wake(m.Channel, true)
			case "unsubscribe", "sunsubscribe":
				l.hub.mu.Lock()
				taken := l.dropped[m.Channel] == 0 && l.wanted[m.Channel] != nil
				if l.dropped[m.Channel]--; l.dropped[m.Channel] <= 0 {
					delete(l.dropped, m.Channel)
				}
				l.hub.mu.Unlock()
				if taken {
					return
				}
			}
		}
	}
}

// wake wakes who waits on a channel. When listening has (again) begun, a message may have been missed before.
func (l *line) wake(channel string, begun bool) {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	t := l.wanted[channel]
	if t == nil {
		return
	}
	for s := range t.subs {
		select {
		case <-s.ready:
			s.wake()
		default:
			if begun {
				close(s.ready)
			}
		}
	}
	t.listening = t.listening || begun
}

// deafen notes that nothing arrives any more, until the next session. Who listened looks again, and more often from now on.
func (l *line) deafen() {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	for _, t := range l.wanted {
		if t.listening {
			t.listening = false
			for s := range t.subs {
				s.wake()
			}
		}
	}
	clear(l.dropped)
}
