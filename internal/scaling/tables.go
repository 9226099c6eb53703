package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/onceward/coordinator/internal/scaling/estimate"
)

// tables are the parts of the page.
func tables(c *estimate.Costs) []part {
	spreads := estimate.Spreads(estimate.Thrown, estimate.Seed)
	return []part{
		{"source", source(c)}, {"costs", costs(c)}, {"masters", masters(c)}, {"fits", fits(c)},
		{"spread", spread(spreads)}, {"bound", bound()}, {"renewals", renewals(c)}, {"leases", leases(c)},
		{"publish", publish(c)}, {"hot", hot(c)}, {"queue", queue(c)},
		{"records", records(c)}, {"memory", memory(c)}, {"sizes", sizes(c)}, {"example", example(c)},
	}
}

// table is Markdown's form of rows; the first one is the head.
func table(rows ...[]string) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return b.String()
}

func source(c *estimate.Costs) string {
	return fmt.Sprintf("%s: %s Pipelined: in pipelines of %d. Alone: one command for each read and write, %d callers at once. Results of %d bytes.\n",
		strings.ToUpper(c.Server[:1])+c.Server[1:], c.From, c.Pipeline, c.Callers, c.Payload)
}

func costs(c *estimate.Costs) string {
	rows := [][]string{{"command", "pipelined, µs", "alone, µs"}}
	for _, r := range []struct {
		name string
		cost estimate.Cost
	}{
		{"`SET PX`, for comparison", c.Set}, {"`GET`, for comparison", c.Get}, {"a fresh claim", c.Claim}, {"its completion", c.Complete},
		{"a claim and its completion: a *cycle*", c.Cycle()}, {"the same with a resource", c.Resource}, {"a replay", c.Replay}, {"a claim that is refused: in progress", c.Refused},
		{"a waiter's mark", c.Mark}, {"a completion that wakes", c.Waited}, {"a renewal", c.Renew}, {"`PUBLISH` to nobody", c.Publish}, {"`SPUBLISH` to nobody", c.SPublish},
	} {
		rows = append(rows, []string{r.name, decimals(r.cost.Pipelined, 1), decimals(r.cost.Single, 1)})
	}
	rows = append(rows,
		[]string{"a message on the cluster's bus, sent", decimals(c.Bus.Send, 1), ""},
		[]string{"the same, received", decimals(c.Bus.Receive, 1), ""},
		[]string{"the caller's process: a cycle through the library", "", decimals(c.Client.Cycle, 0)},
		[]string{"the same: a renewal in the background", decimals(c.Client.Renew, 0), ""})
	return table(rows...) + fmt.Sprintf("\nThe server was seen to grant %s fresh claims a second in pipelines of one connection, busy by %s, and %s alone, busy by %s; the callers ran beside it on the same machine.\n",
		about(c.Observed.Pipelined.PerSecond), percent(c.Observed.Pipelined.Busy), about(c.Observed.Single.PerSecond), percent(c.Observed.Single.Busy))
}

// masters is how much clusters can do, and how much they can keep.
func masters(c *estimate.Costs) string {
	p := estimate.Planned
	rows := [][]string{{"masters", "cycles/s, pipelined", "cycles/s, alone", "replays/s, pipelined", "replays/s, alone", "maxmemory", "keys/s that fit in it for 24 h", "CPU of those, alone"}}
	for _, n := range estimate.Masters {
		of := float64(n) / above(1e7, n)
		rate := func(micros float64) string { return count(of * p.Busy * 1e6 / micros) }
		fit := of * p.Fits(c, 24*time.Hour, c.Payload)
		rows = append(rows, []string{
			count(float64(n)), rate(c.Cycle().Pipelined), rate(c.Cycle().Single), rate(c.Replay.Pipelined), rate(c.Replay.Single),
			bytes(p.Max * float64(n)), count(fit), percent(fit * c.Cycle().Single / 1e6 / float64(n)),
		})
	}
	return table(rows...)
}

var payloads = []int{100, 512, 4096, 65536}

var retentions = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

func fits(c *estimate.Costs) string {
	rows := [][]string{append([]string{"retention"}, heads("results of %s", payloads)...)}
	for _, retention := range append([]time.Duration{10 * time.Minute}, retentions...) {
		row := []string{short(retention)}
		for _, payload := range payloads {
			fit := estimate.Planned.Fits(c, retention, payload)
			row = append(row, fmt.Sprintf("%s (%s)", count(fit), percent(fit*c.Cycle().Single/1e6)))
		}
		rows = append(rows, row)
	}
	return table(rows...)
}

func heads(format string, payloads []int) (all []string) {
	for _, n := range payloads {
		all = append(all, fmt.Sprintf(format, bytes(float64(n))))
	}
	return all
}

func spread(spreads []estimate.Spread) string {
	rows := [][]string{{"shape", "keys", "slots", "3 masters", "30 masters", "300 masters"}}
	for _, s := range spreads {
		rows = append(rows, []string{s.Name, s.About, decimals(s.Slot, 2), decimals(s.Master[3], 3), decimals(s.Master[30], 3), decimals(s.Master[300], 2)})
	}
	const n float64 = estimate.Thrown
	rows = append(rows, []string{"*bound*", "*thrown at random, in 99 of 100 cases*", "*" + decimals(above(n, estimate.Slots), 2) + "*",
		"*" + decimals(above(n, 3), 3) + "*", "*" + decimals(above(n, 30), 3) + "*", "*" + decimals(above(n, 300), 2) + "*"})
	return fmt.Sprintf("%s keys of each shape, the fullest against the mean:\n\n", count(n)) + table(rows...)
}

// above is the bound for the fullest bin against the mean; with masters as bins it counts that slots cannot be halved.
func above(keys float64, bins int) float64 {
	slots := math.Ceil(estimate.Slots/float64(bins)) / (estimate.Slots / float64(bins))
	return slots * estimate.Most(keys, float64(bins)) / (keys / float64(bins))
}

func bound() string {
	rows := [][]string{{"keys", "slots", "3 masters", "30 masters", "300 masters"}}
	for _, keys := range []float64{1e4, 1e5, 1e6, 1e7, 1e8, 1e9} {
		rows = append(rows, []string{count(keys), decimals(above(keys, estimate.Slots), 2), decimals(above(keys, 3), 3), decimals(above(keys, 30), 3), decimals(above(keys, 300), 2)})
	}
	return table(rows...)
}

const live = 10_000_000 // leases of the tables about renewals

func renewals(c *estimate.Costs) string {
	rows := [][]string{{"processes", "leases of each", "renewals/s of each", "masters", "pipelines/s of each process", "renewals in one", "CPU of a master"}}
	for _, processes := range []int{10, 100, 1000} {
		each := estimate.Renewals(live/processes, 30*time.Second, estimate.Seed)
		for _, n := range estimate.Masters {
			on := each.On(processes, n, c.Renew)
			rows = append(rows, []string{count(float64(processes)), count(live / float64(processes)), count(each.Renewals), count(float64(n)),
				count(on.Pipelines), count(on.Size), percent(on.Share)})
		}
	}
	each := estimate.Renewals(live/100, 30*time.Second, estimate.Seed)
	enough := 1
	for each.On(100, enough, c.Renew).Share > estimate.Planned.Busy {
		enough++
	}
	return table(rows...) + fmt.Sprintf("\nFrom %d masters on, renewals take no more than %s of each, and then there is nothing else that they do.\n", enough, percent(estimate.Planned.Busy))
}

func leases(c *estimate.Costs) string {
	rows := [][]string{{"lease", "each lease is renewed every", "renewals/s", "cores of masters, pipelined", "cores, alone", "masters for them, alone"}}
	for _, lease := range []time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute} {
		rate := live * estimate.PerLease(lease)
		cores := rate * c.Renew.Single / 1e6
		rows = append(rows, []string{short(lease), decimals(1/estimate.PerLease(lease), 1) + " s", count(rate),
			decimals(rate*c.Renew.Pipelined/1e6, 1), decimals(cores, 1), count(math.Ceil(cores / estimate.Planned.Busy))})
	}
	return table(rows...)
}

func publish(c *estimate.Costs) string {
	rows := [][]string{{"masters", "wake-ups/s, all", "`PUBLISH`: messages/s on the bus", "bus of a master", "CPU of a master for it", "`SPUBLISH`: messages/s", "bus of a master", "CPU"}}
	w := estimate.Wakes{Replicas: 1, Each: 1000}
	for _, w.Masters = range estimate.Masters[1:] {
		wide, sharded := w.ClusterWide(c), w.Sharded(c)
		rows = append(rows, []string{count(float64(w.Masters)), count(w.Each * float64(w.Masters)),
			count(wide.Messages), bytes(wide.Bytes) + "/s", percent(wide.Share), count(sharded.Messages), bytes(sharded.Bytes) + "/s", percent(sharded.Share)})
	}
	text := table(rows...) + "\nFrom so many masters on, each with one replica, `PUBLISH` would take that much of every master:\n\n"
	rows = [][]string{{"wake-ups/s of each master", "10 %", "60 %", "all of it"}}
	for _, w.Each = range []float64{100, 1000, 5000} {
		rows = append(rows, []string{count(w.Each), count(float64(w.FullAt(c, .1))), count(float64(w.FullAt(c, .6))), count(float64(w.FullAt(c, 1)))})
	}
	return text + table(rows...)
}

func hot(c *estimate.Costs) string {
	rows := [][]string{{"arrivals/s", "refused, back each second", "refused, waiting", "replays", "replays, results kept for 1 s"}}
	for _, rate := range []int{100, 1000, 10_000, 50_000} {
		h := estimate.Hot{Rate: rate, Processes: 100, Work: 5 * time.Second, After: 5 * time.Second, Again: time.Second}
		again := h.Simulate(c, estimate.Seed)
		h.Wait = true
		waiting := h.Simulate(c, estimate.Seed)
		h.MaxAge = time.Second
		kept := h.Simulate(c, estimate.Seed)
		heat := func(commands, share float64) string { return fmt.Sprintf("%s/s, %s", about(commands), percent(share)) }
		rows = append(rows, []string{count(float64(rate)), heat(again.During, again.DuringShare), heat(waiting.During, waiting.DuringShare),
			heat(waiting.Behind, waiting.BehindShare), heat(kept.Behind, kept.BehindShare)})
	}
	return table(rows...) + fmt.Sprintf("\nOne master answers at most %s refused claims or %s replays of one key a second, if it does nothing else.\n",
		about(1e6/c.Refused.Single), about(1e6/c.Replay.Single))
}

func queue(c *estimate.Costs) string {
	rows := [][]string{{"busy", "mean, µs", "by M/D/1", "99 %", "99.9 %", "half in pipelines: mean", "99 %"}}
	for _, busy := range []float64{.2, .4, .6, .7, .8, .9, .95} {
		q := c.Queue(busy, estimate.Seed)
		rows = append(rows, []string{percent(busy), count(q.Mean), count(q.MD1), count(q.P99), count(q.P999), count(q.Mean2), count(q.P99Bursts)})
	}
	return table(rows...)
}

func records(c *estimate.Costs) string {
	rows := [][]string{{"record, fingerprint of 32 bytes", "bytes of data", "bytes in all"}}
	r := c.Running()
	rows = append(rows, []string{"in flight", count(float64(c.Data(r))), count(float64(c.All(r)))})
	for _, payload := range payloads {
		r := c.Completed(payload)
		rows = append(rows, []string{"completed, " + bytes(float64(payload)), count(float64(c.Data(r))), count(float64(c.All(r)))})
	}
	return table(rows...)
}

var rates = []float64{10, 100, 1000, 10_000, 100_000}

func memory(c *estimate.Costs) string {
	rows := [][]string{append([]string{"keys/s", "retention"}, heads("results of %s", payloads)...)}
	for _, rate := range rates {
		for _, retention := range retentions {
			row := []string{count(rate), short(retention)}
			for _, payload := range payloads {
				row = append(row, bytes(rate*retention.Seconds()*float64(c.All(c.Completed(payload)))))
			}
			rows = append(rows, row)
		}
	}
	return table(rows...)
}

const largest = 500 // masters of a cluster: with a replica each, the 1,000 nodes that Redis' documentation speaks of

func sizes(c *estimate.Costs) string {
	rows := [][]string{append([]string{"keys/s", "CPU of masters, of one core", "retention"}, heads("results of %s", payloads)...)}
	for _, rate := range rates {
		for _, retention := range retentions {
			w := estimate.Work{Keys: rate, Retention: retention, Replays: .1, Runs: time.Second, Lease: 30 * time.Second}
			row := []string{count(rate), percent(estimate.Planned.Size(c, w).Cores), short(retention)}
			for _, w.Payload = range payloads {
				n := estimate.Planned.Size(c, w)
				by := ""
				if n.ByCores > n.ByBytes {
					by = " (CPU)"
				}
				if n.Masters > largest {
					row = append(row, "beyond one cluster")
					continue
				}
				row = append(row, count(float64(n.Masters))+by)
			}
			rows = append(rows, row)
		}
	}
	return table(rows...)
}

// example works out one case by the page's formula, step by step.
func example(c *estimate.Costs) string {
	p := estimate.Planned
	w := estimate.Work{Keys: 2000, Retention: 24 * time.Hour, Payload: 1024, Replays: .2, Runs: time.Minute, Lease: 30 * time.Second}
	n := p.Size(c, w)
	running := w.Keys * w.Runs.Seconds()
	renewed := running * estimate.PerLease(w.Lease)
	each := w.Keys * w.Retention.Seconds() * n.Record
	var b strings.Builder
	b.WriteString("```text\n")
	for _, line := range [][3]string{
		{"record", count(float64(w.Payload)) + " bytes of result", count(n.Record) + " bytes in all"},
		{"stored", fmt.Sprintf("%s × 86,400 s × %s bytes", count(w.Keys), count(n.Record)), bytes(each)},
		{"in flight", fmt.Sprintf("%s × 60 s = %s, × %d bytes", count(w.Keys), count(running), c.All(c.Running())), bytes(n.Memory - each)},
		{"renewals", fmt.Sprintf("%s ÷ %s s", count(running), decimals(1/estimate.PerLease(w.Lease), 1)), count(renewed) + "/s"},
		{"CPU", fmt.Sprintf("%s × (%s + 0.2 × %s) + %s × %s µs", count(w.Keys), decimals(c.Cycle().Single, 1), decimals(c.Replay.Single, 1),
			count(renewed), decimals(c.Renew.Single, 1)), decimals(n.Cores, 2) + " cores"},
		{"masters", fmt.Sprintf("%s ÷ (32 GB × 80 %%)", bytes(n.Memory)), fmt.Sprintf("%d for the memory", n.ByBytes)},
		{"", decimals(n.Cores, 2) + " ÷ 60 %", fmt.Sprintf("%d for the CPU", n.ByCores)},
		{"", "the larger of the two", fmt.Sprintf("%d, each busy by %s", n.Masters, percent(n.Busy))},
		{"host", fmt.Sprintf("%s × 1.1 + %s copied in a fork", bytes(n.Memory/float64(n.Masters)), bytes(p.Copied(n.Memory/float64(n.Masters), n.Write))),
			bytes(n.Host) + ", and as much for each replica"},
	} {
		fmt.Fprintf(&b, "%-10s %-48s %s\n", line[0], line[1], line[2])
	}
	b.WriteString("```\n")
	return b.String()
}

// about prints a number that is not exact, with three digits that count.
func about(x float64) string {
	if x >= 1000 {
		unit := math.Pow(10, math.Floor(math.Log10(x))-2)
		x = math.Round(x/unit) * unit
	}
	return count(x)
}

// count prints a number with commas. It is exact where it is whole and has five digits at most.
func count(x float64) string {
	whole := math.Abs(x-math.Round(x)) < 1e-6
	switch {
	case x >= 100_000, x >= 1000 && !whole:
		unit := math.Pow(10, math.Floor(math.Log10(x))-2)
		x = math.Round(x/unit) * unit
	case x < 10 && !whole:
		return decimals(x, 1)
	}
	digits := strconv.FormatFloat(x, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func decimals(x float64, n int) string { return strconv.FormatFloat(x, 'f', n, 64) }

func percent(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < .001:
		return "under 0.1 %"
	case x < .0995:
		return decimals(x*100, 1) + " %"
	}
	return count(math.Round(x*100)) + " %"
}

// bytes prints a size with two or three digits that count.
func bytes(x float64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	if x == 4096 || x == 65536 {
		return fmt.Sprintf("%.0f KiB", x/1024)
	}
	i := 0
	for x >= 999.5 && i < len(units)-1 {
		x, i = x/1000, i+1
	}
	if x < 9.95 && i > 0 {
		return decimals(x, 1) + " " + units[i]
	}
	return decimals(x, 0) + " " + units[i]
}

func short(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.0f d", d.Hours()/24)
	case d >= time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	case d >= time.Minute:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}
