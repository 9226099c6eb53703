package estimate

import (
	"math/rand/v2"
	"time"
)

// Hot is a key that many ask for: somebody works on it, then its result is handed out.
type Hot struct {
	Rate      int // arrivals a second, over all processes
	Processes int
	Work      time.Duration // from the first claim to the completion
	After     time.Duration // how long arrivals go on behind it
	Again     time.Duration // when one that was refused and does not wait comes back
	Wait      bool          // callers wait for the result
	MaxAge    time.Duration // of a finished result that a process keeps; 0: it keeps none
}

// Heat is what the key's master has to do each second. Every command comes alone.
type Heat struct {
	During, Behind           float64 // commands while the work goes on, and behind it
	DuringShare, BehindShare float64 // of a core; above 1 the master cannot do it
}

// Simulate lets callers arrive at random, each at a process drawn at random.
func (h Hot) Simulate(c *Costs, seed uint64) Heat {
	rng := rand.New(rand.NewPCG(seed, 3))
	s := &heating{Hot: h, room: make([]bool, h.Processes), kept: make([]float64, h.Processes)}
	work, end := h.Work.Seconds(), (h.Work + h.After).Seconds()
	s.claims, s.work = 1, work
	for at := rng.ExpFloat64() / float64(h.Rate); at < end; at += rng.ExpFloat64() / float64(h.Rate) {
		s.ask(at, rng.IntN(h.Processes))
	}
	during := c.Claim.Single + float64(s.refused)*c.Refused.Single + float64(s.marks)*(c.Mark.Single+c.Publish.Single) + c.Complete.Single
	behind := float64(s.replays) * c.Replay.Single
	return Heat{
		During: float64(s.claims+s.refused+2*s.marks+1) / work, DuringShare: during / 1e6 / work,
		Behind: float64(s.replays) / h.After.Seconds(), BehindShare: behind / 1e6 / h.After.Seconds(),
	}
}

// heating counts the commands of one simulation.
type heating struct {
	Hot
	work                            float64
	room                            []bool    // by process: somebody waits there
	kept                            []float64 // by process: until when it has the result; 0 never
	claims, refused, marks, replays int
}

// ask is a caller of one process that arrives, or comes back.
func (s *heating) ask(at float64, process int) {
	for ; at < s.work; at += s.Again.Seconds() {
		s.refused++
		if s.Wait {
			s.wait(process)
			return
		}
	}
	if s.MaxAge > 0 && at < s.kept[process] {
		return
	}
	s.replays++
	s.kept[process] = at + s.MaxAge.Seconds()
}

// wait goes into the process' room. Its first one subscribes and marks, and looks again when it is woken; its answer
// serves the others, and the next who ask if results are kept.
func (s *heating) wait(process int) {
	if s.room[process] {
		return
	}
	s.room[process] = true
	s.marks++
	s.replays++
	s.kept[process] = s.work + s.MaxAge.Seconds()
}
