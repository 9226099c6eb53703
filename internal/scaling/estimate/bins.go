package estimate

import "math"

// Most is the bound for balls thrown into bins at random: the least load that, by the union bound, some bin reaches in
// one of a hundred throws at most. A bin's load is taken for Poisson's, which is above the binomial one in the tail.
func Most(balls, bins float64) float64 {
	const risk = 0.01
	mean := balls / bins
	low, high := math.Floor(mean), math.Ceil(mean+40*math.Sqrt(mean)+100)
	for low+1 < high {
		k := math.Floor((low + high) / 2)
		if bins*tail(mean, k) <= risk {
			high = k
		} else {
			low = k
		}
	}
	return high
}

// tail is the chance that a Poisson number of this mean is k or more.
func tail(mean, k float64) float64 {
	if mean > 1e5 { // where it is normal for all that matters here
		return math.Erfc((k-mean)/math.Sqrt(2*mean)) / 2
	}
	if k <= 0 {
		return 1
	}
	gamma, _ := math.Lgamma(k + 1)
	term := math.Exp(k*math.Log(mean) - mean - gamma)
	sum := 0.0
	for ; term > sum*1e-12 || k < mean; k++ {
		sum += term
		term *= mean / (k + 1)
	}
	return math.Min(sum, 1)
}
