package judge

import (
	"testing"

	"github.com/onceward/coordinator/chaos/history"
)

// thousands is a run of many domains: half of them undisturbed, the others under the faults that kinds tell.
func thousands(domains int) *history.History {
	kinds := []int{0, 1, 2, 3, 0, 1, 4, 6, 9, 10}
	all := &history.History{}
	for i := range domains {
		h := simulate(uint64(i), i, simulated[kinds[i%len(kinds)]].conditions)
		all.Run = h.Run
		all.Events = append(all.Events, h.Events...)
		all.Holdings = append(all.Holdings, h.Holdings...)
		all.Faults = append(all.Faults, h.Faults...)
		all.Sinks = append(all.Sinks, h.Sinks...)
		all.Domains = append(all.Domains, h.Domains...)
	}
	return all
}

func BenchmarkJudge(b *testing.B) {
	h := thousands(2000)
	b.ReportMetric(float64(len(h.Events))/2000, "operations/domain")
	for b.Loop() {
		v := Judge(h, Options{Minimum: none, Undecided: 1})
		b.ReportMetric(float64(v.Counts["undecided domains"]), "undecided")
		b.ReportMetric(float64(v.Counts["domains explained by a loss"]), "losses")
		if n := len(v.Failures()); n > 0 {
			b.Fatal(v.Failures()[:min(n, 3)])
		}
	}
}
