package estimate

import (
	"math"
	"math/rand/v2"
	"time"
)

// The rules of internal/renewal and of the coordinator's jitter. A test holds a process of this simulation beside the
// real schedule.
const (
	renewAfter = 3   // a renewal is due after this part of the lease
	jitterPart = 5   // less up to this part of that
	earlyPart  = 30  // with one that is due go those due within this part of the lease
	mostAtOnce = 512 // leases in one go, which is of one master
	tick       = time.Millisecond
	warmUp     = 2 // rounds of renewals until the beginning is forgotten
	counted    = 1 // rounds behind them
)

// Renewing is what one process with so many leases does each second.
type Renewing struct {
	Leases   int
	Renewals float64
	Wakes    float64 // how often it finds renewals due
}

// Renewals simulates a process that holds leases of one length, claimed at any time of the first third, with answers
// that come at once. Leases differ in nothing but when they are due, so a calendar of numbers stands for them.
func Renewals(leases int, lease time.Duration, seed uint64) Renewing {
	rng := rand.New(rand.NewPCG(seed, 2))
	span := int(lease / renewAfter / tick)
	early := int(lease / earlyPart / tick)
	calendar := make([]int, 2*(span+early)) // a ring; nothing is planned farther ahead than half of it
	for range leases {
		calendar[rng.IntN(span)]++
	}
	from, to := warmUp*span, (warmUp+counted)*span
	began := 0 // when the first wake was counted; the last one ends the count
	renewals, wakes, now := 0, 0, 0
	for ; ; now++ {
		if calendar[now%len(calendar)] == 0 {
			continue
		}
		if now >= to {
			break
		}
		due := 0
		for at := now; at <= now+early; at++ {
			due += calendar[at%len(calendar)]
			calendar[at%len(calendar)] = 0
		}
		for range due {
			calendar[(now+span-rng.IntN(span/jitterPart+1))%len(calendar)]++
		}
		if now >= from {
			if wakes == 0 {
				began = now
			}
			renewals += due
			wakes++
		}
	}
	seconds := (time.Duration(now-began) * tick).Seconds()
	return Renewing{Leases: leases, Renewals: float64(renewals) / seconds, Wakes: float64(wakes) / seconds}
}

// Touched is how many of so many masters n leases drawn at random lie on.
func Touched(n, masters float64) float64 {
	return masters * (1 - math.Pow(1-1/masters, n))
}

// Fleet is what processes with equal shares of the leases do to masters.
type Fleet struct {
	Pipelines float64 // a second, of each process
	Size      float64 // renewals of a pipeline
	Share     float64 // of each master's core
}

// On spreads the leases of so many processes over masters. What is due at a wake is parted by master and then cut into
// goes, each of which is a pipeline.
func (r Renewing) On(processes, masters int, renew Cost) Fleet {
	due := r.Renewals / r.Wakes
	touched := Touched(due, float64(masters))
	pipelines := r.Wakes * touched * math.Ceil(due/touched/mostAtOnce)
	size := r.Renewals / pipelines
	return Fleet{pipelines, size, r.Renewals * float64(processes) / float64(masters) * renew.In(size) / 1e6}
}
