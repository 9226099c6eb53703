package judge

import (
	"cmp"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/model"
)

// sim is one fence domain on a simulated server: the protocol is that of the pure model, with times; what lies
// between it and the callers is written down here a second time, with the faults.
type sim struct {
	*rand.Rand
	with     conditions
	domain   history.Domain
	protocol model.Protocol
	now      int64 // ns
	queue    []sleeper
	main     server
	table    table
	old      *server // a replaced one that still answers
	until    int64   // when it is gone
	promoted int64   // from when on the main one is asked
	h        *history.History
	last     int64 // id of events
	owners   int32
	texts    int32
}

// conditions are what may happen in a simulation.
type conditions struct {
	keys     int
	shared   bool
	callers  int
	visits   int // of each caller
	drops    bool
	holds    bool
	forks    int
	wipes    bool
	steps    bool
	replicas int
	without  model.Without // guards of the protocol that are left out
	careless string        // what the simulated PostgreSQL leaves out
}

// table is the sink in PostgreSQL, with the mark of the domain.
type table struct {
	token int64
	owner int32
	lines []string
}

// What a table can leave out.
const (
	noMark    = "tokens are not compared"
	noLine    = "lines are lost"
	noRefusal = "refused lines are kept"
	noReason  = "grants are refused for nothing"
)

// insert is a transaction: it compares the grant with the mark, and raises that and adds the line, or refuses.
func (s *sim) insert(token int64, owner int32, line string) (seen int64, ok bool) {
	t := &s.table
	if s.with.careless == noReason && s.IntN(10) == 0 {
		return token, false
	}
	beyond := token < t.token && s.with.careless != noMark
	if beyond || token == t.token && owner != t.owner {
		if s.with.careless == noRefusal {
			t.lines = append(t.lines, line)
		}
		return t.token, false
	}
	t.token, t.owner = token, owner
	if s.with.careless != noLine || s.IntN(10) > 0 {
		t.lines = append(t.lines, line)
	}
	return 0, true
}

type server struct {
	model.Server
	sink []string
}

// takeover is what a simulated server adds to a grant: model.Reply.Which has no other use there.
const takeover = 1

type sleeper struct {
	until int64
	next  func() (int64, bool)
}

const (
	ms       = int64(time.Millisecond)
	simLease = 60 * ms
	simGrace = 20 * ms
)

// sleeping is given to everything that takes time: it returns that much later, in simulated time.
type sleeping func(ns int64)

func (s *sim) start(run func(sleeping)) {
	next, _ := iter.Pull(func(yield func(int64) bool) {
		run(func(ns int64) { yield(s.now + ns) })
	})
	s.queue = append(s.queue, sleeper{s.now, next})
}

func (s *sim) run() {
	for len(s.queue) > 0 {
		at := 0
		for i := range s.queue {
			if s.queue[i].until < s.queue[at].until {
				at = i
			}
		}
		one := s.queue[at]
		s.queue = slices.Delete(s.queue, at, at+1)
		s.now = max(s.now, one.until)
		if until, more := one.next(); more {
			s.queue = append(s.queue, sleeper{until, one.next})
		}
	}
}

func (s *sim) between(from, to int64) int64 { return from + s.Int64N(to-from+1) }
func (s *sim) chance(percent int) bool      { return s.IntN(100) < percent }

// simulate returns the history of a domain; its slot tells its faults from those of others.
func simulate(seed uint64, slot int, with conditions) *history.History {
	s := &sim{
		Rand: rand.New(rand.NewPCG(seed, 7)), with: with, protocol: model.Protocol{Units: model.RealUnits, Without: with.without}, h: &history.History{},
		domain: history.Domain{Name: fmt.Sprintf("d%d", slot), Resource: with.shared, Slot: slot},
	}
	s.main.Clock, s.main.Shared = 1_700_000_000_000_000, with.shared
	for i := range with.keys {
		s.domain.Keys = append(s.domain.Keys, fmt.Sprintf("k%d", i+1))
	}
	s.h.Run = history.Run{Lease: simLease, Grace: simGrace, Replicas: with.replicas, Lifetime: 100 * simLease}
	for i := range with.callers {
		c := &simCaller{sim: s, number: slot*100 + i + 1}
		s.start(c.run)
	}
	s.start(s.trouble)
	s.run()
	s.now += 10 * (simLease + simGrace)
	s.old, s.with.drops, s.with.holds, s.with.replicas = nil, false, false, 0
	s.start((&simCaller{sim: s, number: history.Final}).final)
	s.run()
	s.h.Domains = []history.Domain{s.domain}
	s.h.Sinks = []history.Sink{{Domain: s.domain.Name, Kind: history.Redis, Lines: s.main.sink}, {Domain: s.domain.Name, Kind: history.Postgres, Lines: s.table.lines}}
	slices.SortStableFunc(s.h.Events, func(a, b history.Event) int { return cmp.Compare(a.Call, b.Call) })
	return s.h
}

// trouble is the faults.
func (s *sim) trouble(sleep sleeping) {
	note := func(effect history.Effect, start, end int64, detail string) {
		s.h.Faults = append(s.h.Faults, history.Fault{
			Name: string(effect), Effect: effect, Start: start, End: end, Detail: detail, Count: 1, Slots: [][2]int{{s.domain.Slot, s.domain.Slot}},
		})
	}
	if s.with.drops {
		note(history.NoLoss, 0, 1<<40, "")
	}
	if s.with.holds {
		note(history.Late, 0, 1<<40, "")
	}
	if s.with.wipes {
		sleep(s.between(50*ms, 300*ms))
		from := s.now
		for range 1 + s.IntN(3) {
			if i := s.IntN(s.with.keys + 1); i < s.with.keys {
				s.main.Records[i] = model.Record{}
			} else {
				s.main.Fence = model.Fence{}
			}
			sleep(s.between(0, 20*ms))
		}
		note(history.Wipe, from, s.now, "")
	}
	if s.with.steps {
		sleep(s.between(50*ms, 300*ms))
		from := s.now
		s.main.Clock += s.between(-200_000, 200_000) // µs
		note(history.Step, from, s.now, "")
	}
	for range s.with.forks {
		sleep(s.between(80*ms, 400*ms))
		parted := s.now
		old := s.main
		old.sink = slices.Clone(old.sink)
		s.old, s.promoted = &old, s.now+s.between(5*ms, 100*ms)
		s.until = s.promoted + s.between(0, 100*ms)
		sleep(s.until - s.now)
		note(history.Fork, min(parted+s.between(0, 900*ms), s.promoted), s.until, "stale master")
		s.old = nil
	}
}

// at returns the server that a request comes to.
func (s *sim) at() *server {
	if s.old != nil && (s.now < s.promoted || s.chance(40)) {
		return s.old
	}
	return &s.main
}

// execute runs a request; with replicas, unconfirmed says that they did not get it.
func (s *sim) execute(q *model.Request, line string) (r model.Reply, unconfirmed bool) {
	at := s.at()
	shift := s.main.Clock - 1_700_000_000_000_000
	clock := 1_700_000_000_000_000 + shift + s.now/1000
	on := at.Server
	on.Clock = clock
	on.Forget(&s.protocol)
	before := on.Records[q.Key]
	r = on.Run(&s.protocol, q)
	if q.Verb == model.Claim && r.Code == model.OK && before.State == model.InProgress && before.Owner != q.Owner {
		r.Which = takeover
	}
	on.Clock = at.Clock
	at.Server = on
	if line != "" && r.Code == model.OK {
		at.sink = append(at.sink, line)
	}
	return r, at != &s.main || s.with.replicas > 0 && s.old == nil && s.chance(3)
}

// send sends a request, again and again, until it is answered. sent is when the copy went out that was.
func (s *sim) send(sleep sleeping, q model.Request, line string, once bool) (r model.Reply, unconfirmed, ok bool, sent int64) {
	for try := range 4 {
		if try > 0 {
			sleep(5 * ms)
		}
		sent = s.now
		sleep(s.between(ms/20, 2*ms))
		if s.with.holds && s.chance(6) {
			s.start(func(sleep sleeping) {
				sleep(s.between(10*ms, 150*ms))
				s.execute(&q, line)
			})
			sleep(10 * ms)
		} else if s.with.drops && s.chance(4) {
			sleep(8 * ms)
		} else if r, unconfirmed = s.execute(&q, line); !s.with.drops || !s.chance(6) {
			sleep(s.between(ms/20, 2*ms))
			return r, unconfirmed, true, sent
		} else {
			sleep(s.between(0, 10*ms))
		}
		if once || s.chance(15) {
			break
		}
	}
	return r, false, false, sent
}

func (s *sim) text() int32 {
	s.texts++
	return s.texts
}

func textOf(kind string, n int32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s%d", kind, n)
}

func ownerOf(n int32) string { return textOf("o", n) }
func printOf(n int32) string { return textOf("p", n) }
func dataOf(n int32) string  { return textOf("t", n) }
