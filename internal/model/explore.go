package model

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
)

// Stats is what an exploration did.
type Stats struct {
	States int            // different ones, each checked
	Moves  int            // between them
	Depth  int            // of the longest of the shortest ways to a state
	Seen   map[string]int // situations, by how many moves led into them
}

// Counterexample is a history in which a promise does not hold.
type Counterexample struct {
	Broken string   // the promise and how
	Steps  []string // one line each, the shortest such history
}

func (c *Counterexample) String() string {
	var b strings.Builder
	for i, step := range c.Steps {
		fmt.Fprintf(&b, "%3d  %s\n", i+1, step)
	}
	return b.String() + "     " + c.Broken
}

// ErrTooMany means that a scope has more states than Explore was allowed to visit.
var ErrTooMany = errors.New("the scope has too many states")

// Explore visits every state of a scope, nearest first, until a promise is broken. It is an error to have more than limit
// states.
func Explore(scope Scope, without Without, limit int) (Stats, *Counterexample, error) {
	x := &explorer{Scope: scope, p: Protocol{Units: scope.units(), Without: without}, seen: map[string]int{}}
	visited := newSet()
	var came []origin // by number of the state
	var level, next frontier
	seed := maphash.MakeSeed()

	var number int32
	var parent uint64
	var ordinal uint16
	var buf coder
	var broken string
	keep := func(w *world, _ string) {
		ordinal++
		if broken != "" {
			return
		}
		buf.buf = buf.buf[:0]
		x.trim(w)
		core := buf.world(w)
		if maphash.Bytes(seed, buf.buf[:core]) == parent && x.broken == "" {
			return // it changed nothing, so what follows it follows without it
		}
		if x.broken == "" {
			if !visited.add(maphash.Bytes(seed, buf.buf)) {
				return
			}
			x.broken = x.judge(w)
		}
		came = append(came, origin{number, ordinal})
		next.add(buf.buf, int32(len(came)))
		broken = x.broken
	}
	stats := Stats{Seen: x.seen}
	first := x.begin()
	keep(&first, "")
	for len(next.ends) > 0 {
		level, next = next, level
		next.reset()
		for i := range level.ends {
			text, n := level.get(i)
			w := x.decode(text)
			number, ordinal = n, 0
			parent = maphash.Bytes(seed, text[:len(text)-int(budgets)])
			x.moves(&w, keep)
			stats.Moves += int(ordinal)
			if broken != "" {
				stats.States = len(came)
				return stats, x.tell(came, broken), nil
			}
			if len(came) > limit {
				stats.States = len(came)
				return stats, nil, ErrTooMany
			}
		}
		stats.Depth++
	}
	stats.States = len(came)
	return stats, nil, nil
}

// trim drops what nothing that follows depends on, so that states that differ in it alone are one.
func (x *explorer) trim(w *world) {
	if w.phase != whole {
		w.left[cuts] = 0
	}
	if w.phase == replaced {
		w.left[promotions] = 0
		if w.left[answers] == 0 {
			w.nodes[0] = x.empty()
		}
	}
	for i := range w.callers {
		c := &w.callers[i]
		if c.believes <= w.time {
			c.believes = 0
		}
		if x.Shared && x.Evictions == 0 || x.Completes == 0 {
			c.end = 0
		}
	}
	for i := range w.flying {
		if l := &w.flight[i]; l.Verb != Renew && (l.Verb != Claim || w.callers[l.caller].state > asked) {
			l.sent = 0
		}
	}
	if x.Steps == 0 {
		for i := range w.nodes {
			w.nodes[i].looked = [MaxKeys]int64{}
		}
	}
	if x.Expires+x.Resolves == 0 {
		for i := range w.nodes {
			w.nodes[i].version, w.nodes[i].events = [MaxKeys]int8{}, [MaxKeys]int8{}
		}
		for i := range w.granted {
			w.grants[i].version = 0
		}
	}
}

func (x *explorer) empty() node {
	return node{Server: Server{Shared: x.Shared}, known: known{bound: [MaxKeys]int32{Unbound, Unbound}}}
}

func (x *explorer) decode(text []byte) world {
	w := x.begin()
	c := coder{buf: text, read: true}
	c.world(&w)
	w.setClocks(&x.p)
	return w
}

// tell walks to the state that came last again and writes the moves down.
func (x *explorer) tell(came []origin, broken string) *Counterexample {
	var path []uint16
	for i := int32(len(came)); came[i-1].parent != 0; i = came[i-1].parent {
		path = append(path, came[i-1].ordinal)
	}
	c := &Counterexample{Broken: broken}
	w := x.begin()
	x.telling = true
	for i := len(path) - 1; i >= 0; i-- {
		var n uint16
		var then world
		x.moves(&w, func(next *world, text string) {
			if n++; n == path[i] {
				then = *next
				x.trim(&then)
				c.Steps = append(c.Steps, text)
			}
		})
		var b coder
		b.world(&then)
		w = x.decode(b.buf)
	}
	return c
}

// origin is how a state was first reached: from which, by which of its moves.
type origin struct {
	parent  int32
	ordinal uint16
}

// frontier holds the states of one distance, written out.
type frontier struct {
	bytes   []byte
	ends    []int
	numbers []int32
}

func (f *frontier) add(text []byte, number int32) {
	f.bytes = append(f.bytes, text...)
	f.ends = append(f.ends, len(f.bytes))
	f.numbers = append(f.numbers, number)
}

func (f *frontier) get(i int) ([]byte, int32) {
	from := 0
	if i > 0 {
		from = f.ends[i-1]
	}
	return f.bytes[from:f.ends[i]], f.numbers[i]
}

func (f *frontier) reset() { f.bytes, f.ends, f.numbers = f.bytes[:0], f.ends[:0], f.numbers[:0] }

// set is a set of hashes. Of ten million states two share a hash with a probability of 1 in 180,000.
type set struct {
	slots []uint64
	used  int
}

func newSet() *set { return &set{slots: make([]uint64, 1<<12)} }

func (s *set) add(h uint64) bool {
	h |= 1 // 0 is an empty slot
	if s.used*2 > len(s.slots) {
		old := s.slots
		s.slots, s.used = make([]uint64, 2*len(old)), 0
		for _, h := range old {
			if h != 0 {
				s.add(h)
			}
		}
	}
	for i := int(h>>1) & (len(s.slots) - 1); ; i = (i + 1) & (len(s.slots) - 1) {
		switch s.slots[i] {
		case 0:
			s.slots[i] = h
			s.used++
			return true
		case h:
			return false
		}
	}
}
