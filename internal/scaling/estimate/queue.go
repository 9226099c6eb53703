package estimate

import (
	"math/rand/v2"
	"slices"
)

// Queueing is how long commands take at a master, from their arrival to their answer, in µs; the network is not in it.
type Queueing struct {
	Busy             float64 // the share of the time that the master is busy
	Mean, P99, P999  float64 // of single commands
	MD1              float64 // the mean by the formula for services of one length
	Mean2, P99Bursts float64 // of single commands where half of the load is pipelines
}

// reading is how much Redis reads from one connection before it turns to the next one.
const reading = 16 << 10

// Queue simulates a master that serves one command after the other. Half of the commands are replays, the others claims
// and completions; in the second simulation half of the load is renewals, as many of a pipeline in a row as Redis
// reads at once.
func (c *Costs) Queue(busy float64, seed uint64) Queueing {
	singles := []float64{c.Claim.Single, c.Complete.Single, c.Replay.Single, c.Replay.Single}
	mean := 0.0
	for _, s := range singles {
		mean += s / float64(len(singles))
	}
	plain := waits(busy, mean, singles, 0, 0, seed)
	request := c.Wire.Renew * 2 / 3 // the rest is the answer
	burst := reading / request * c.Renew.Pipelined
	mixed := waits(busy, mean, singles, 0.5, burst, seed)
	return Queueing{
		Busy: busy, Mean: average(plain), P99: quantile(plain, .99), P999: quantile(plain, .999),
		MD1: mean + busy*mean/2/(1-busy), Mean2: average(mixed), P99Bursts: quantile(mixed, .99),
	}
}

// waits simulates one queue, served in the order of arrival. It returns how long the single commands took, sorted.
func waits(busy, mean float64, singles []float64, bursts, burst float64, seed uint64) []float64 {
	const commands = 60_000
	rng := rand.New(rand.NewPCG(seed, 4))
	single := busy * (1 - bursts) / mean // arrivals in a µs
	others := 0.0
	if bursts > 0 {
		others = busy * bursts / burst
	}
	took := make([]float64, 0, commands)
	left := 0.0 // work that an arrival finds
	for len(took) < commands {
		left = max(0, left-rng.ExpFloat64()/(single+others))
		if rng.Float64()*(single+others) < others {
			left += burst
			continue
		}
		left += singles[rng.IntN(len(singles))]
		took = append(took, left)
	}
	slices.Sort(took)
	return took
}

func average(all []float64) (mean float64) {
	for _, x := range all {
		mean += x / float64(len(all))
	}
	return mean
}

func quantile(sorted []float64, q float64) float64 { return sorted[int(q*float64(len(sorted)))] }
