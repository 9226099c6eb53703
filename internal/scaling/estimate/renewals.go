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
	mostAtOnce = 512 // leases in one go
	tick       = time.Millisecond
	warmUp     = 2 // rounds of renewals until the beginning is forgotten
	counted    = 1 // rounds behind them
)

// Renewing is what one process with so many leases does each second.
type Renewing struct {
	Leases   int
	Renewals float64
	Wakes    float64 // how often it finds renewals due
	Goes     float64 // of 512 leases at most; each is split by master
	Size     float64 // leases of a go
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
	renewals, wakes, goes, now := 0, 0, 0, 0
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
			goes += (due + mostAtOnce - 1) / mostAtOnce
		}
	}
	seconds := (time.Duration(now-began) * tick).Seconds()
	return Renewing{
		Leases: leases, Renewals: float64(renewals) / seconds, Wakes: float64(wakes) / seconds, Goes: float64(goes) / seconds,
		Size: float64(renewals) / float64(goes),
	}
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

// On spreads the leases of so many processes over masters. A go takes leases as they come due and is then split by
// master, so that its pipelines get shorter with every master.
func (r Renewing) On(processes, masters int, renew Cost) Fleet {
	return r.fleet(processes, masters, renew, r.Goes*Touched(r.Size, float64(masters)))
}

// Sorted is On for a schedule that sorts what is due at a wake by master first, and cuts it into goes then.
func (r Renewing) Sorted(processes, masters int, renew Cost) Fleet {
	due := r.Renewals / r.Wakes
	touched := Touched(due, float64(masters))
	return r.fleet(processes, masters, renew, r.Wakes*touched*math.Ceil(due/touched/mostAtOnce))
}

func (r Renewing) fleet(processes, masters int, renew Cost, pipelines float64) Fleet {
	size := r.Renewals / pipelines
	return Fleet{pipelines, size, r.Renewals * float64(processes) / float64(masters) * renew.In(size) / 1e6}
}
