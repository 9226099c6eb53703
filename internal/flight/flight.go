// Package flight lets those who ask the same at the same time share answers, and nobody get one that is older than his
// question.
//
// For each key one question is under way at a time. Who finds none asks at once, and pays for one entry in a map. Who finds
// one does not get its answer: it may have been decided before he came. He joins those who wait for the next question; one
// of them asks it when the one before has ended, and its answer is for all who had joined by then. Who comes later joins those
// behind.
//
// Nobody waits long. When a turn does not come in time, the first who is out of patience takes it, and leaves the question
// that is still out to itself; when an answer does not come in time, each asks alone.
package flight

import (
	"context"
	"hash/maphash"
	"runtime"
	"sync"
	"time"
)

// Flights are the questions under way, by key; the answers are of type V.
type Flights[K comparable, V any] struct {
	seed maphash.Seed

	mu   sync.Mutex
	last uint64               // number of the latest question
	out  map[uint64]out[K, V] // by the key's hash, which is taken once; a key itself is long, and would be hashed four times
}

// out is what is under way for one key.
type out[K comparable, V any] struct {
	key    K
	number uint64    // of the question; 0 when it has ended, and one of next is to ask the next one
	next   *group[V] // who wait for the next question; nil when nobody does
}

// group are those who get one answer.
type group[V any] struct {
	members int           // who wait for the question to be asked
	turn    chan struct{} // holds something when it can be
	asked   time.Time     // when it was; zero before

	done   chan struct{} // closed behind what follows
	value  V
	shared bool // value is an answer for all
}

// New returns one with nothing under way.
func New[K comparable, V any]() *Flights[K, V] {
	return &Flights[K, V]{seed: maphash.MakeSeed(), out: map[uint64]out[K, V]{}}
}

// Place is one caller's part: he leads, and asks; or he waits.
type Place[K comparable, V any] struct {
	all    *Flights[K, V]
	key    K
	hash   uint64
	number uint64    // of the question that he asks; 0 when he asks none
	group  *group[V] // whom he waits with, or asks for; nil when he asks for himself
}

// Enter takes a place: one that leads where nothing is under way.
func (f *Flights[K, V]) Enter(key K) Place[K, V] {
	p := Place[K, V]{all: f, key: key, hash: maphash.Comparable(f.seed, key)}
	f.mu.Lock()
	defer f.mu.Unlock()
	o, busy := f.out[p.hash]
	switch {
	case !busy:
		p.ask()
		return p
	case o.key != key: // of all keys one has the entry; the other asks by himself
		f.last++
		p.number = f.last
		return p
	case o.next == nil:
		o.next = &group[V]{turn: make(chan struct{}, 1), done: make(chan struct{})}
		f.out[p.hash] = o
	}
	o.next.members++
	p.group = o.next
	return p
}

// ask begins a question; nobody waits behind it yet. With the lock held.
func (p *Place[K, V]) ask() {
	p.all.last++
	p.number = p.all.last
	p.all.out[p.hash] = out[K, V]{key: p.key, number: p.number}
}

// Leads says that the caller has to ask now, and to call End then.
func (p *Place[K, V]) Leads() bool { return p.number != 0 }

// Wait waits for the answer to a question that is asked from now on, or for the turn to ask it; for either no longer than
// patience. Not shared: the caller leads, or asks for himself; so he does when ctx has ended.
func (p *Place[K, V]) Wait(ctx context.Context, patience time.Duration) (value V, shared bool) {
	g := p.group
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-g.done:
			return g.value, g.shared
		case <-g.turn:
			if ctx.Err() != nil {
				p.leave()
				return value, false
			}
			runtime.Gosched() // those who have just had the answer before, and ask again, come along
			if p.take() {
				return value, false
			}
		case <-ctx.Done():
			p.leave()
			return value, false
		case <-timer.C:
			if p.take() {
				return value, false
			}
			left := patience - time.Since(g.asked)
			if left <= 0 {
				return value, false
			}
			timer.Reset(left)
		}
	}
}

// take asks the group's question; false when that is done already, and then asked may be read.
func (p *Place[K, V]) take() bool {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	if !p.group.asked.IsZero() {
		return false
	}
	p.group.asked = time.Now()
	p.ask()
	return true
}

// leave is for who does not wait any more. When he had the turn, another one gets it.
func (p *Place[K, V]) leave() {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	g := p.group
	if !g.asked.IsZero() {
		return
	}
	g.members--
	switch o := p.all.out[p.hash]; {
	case g.members > 0 && o.number == 0:
		g.give()
	case g.members == 0 && o.number == 0:
		delete(p.all.out, p.hash)
	case g.members == 0:
		o.next = nil
		p.all.out[p.hash] = o
	}
}

// give has one of a group ask, unless one is to already.
func (g *group[V]) give() {
	select {
	case g.turn <- struct{}{}:
	default:
	}
}

// End ends the question of who leads: value is for those who waited with him, if it is to be shared; otherwise each of
// them asks for himself. For others it does nothing.
func (p *Place[K, V]) End(value V, shared bool) {
	if p.number == 0 {
		return
	}
	p.pass()
	p.number = 0
	if g := p.group; g != nil {
		g.value, g.shared = value, shared
		close(g.done)
	}
}

// pass gives the turn to those behind a question, unless one of them has taken it.
func (p *Place[K, V]) pass() {
	f := p.all
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.out[p.hash]
	switch {
	case o.number != p.number:
	case o.next == nil:
		delete(f.out, p.hash)
	default:
		o.number = 0
		f.out[p.hash] = o
		o.next.give()
	}
}

// Len is for how many keys something is under way.
func (f *Flights[K, V]) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.out)
}
