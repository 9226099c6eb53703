package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/onceward/coordinator/chaos/faults"
	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/chaos/judge"
)

// minima are how many events each check must have judged, for each second under faults; with fewer it has proved nothing.
var minima = map[string]float64{
	judge.Linearizable: 50, judge.Tokens: 4, judge.SinkOrder: 2, judge.PostgresSink: 2, judge.Results: 4, judge.HolderKnows: 0.5, judge.NothingHeld: 4, judge.Answers: 50,
}

// whole runs the group and judges what it has left.
func (g *group) whole(ctx context.Context) (*Group, error) {
	if err := g.run(ctx); err != nil {
		return nil, err
	}
	return g.judged()
}

// broke tells what kept the group from its end in a line. The rest, which may hold the logs of all servers, is put
// beside the history.
func (g *group) broke(err error) string {
	line, rest, long := strings.Cut(err.Error(), "\n")
	if long {
		name := filepath.Join(g.dir, "error.txt")
		if err := os.WriteFile(name, []byte(line+"\n"+rest), 0o644); err == nil {
			line += "; see " + name
		}
	}
	g.tell.say("%s: %s", g.name, line)
	return line
}

// judged reads the group's history and says what it came to.
func (g *group) judged() (*Group, error) {
	g.tell.status("%s: judging", g.name)
	result, err := judgeDir(g.dir)
	if err != nil {
		return nil, err
	}
	for _, lane := range g.storm.lanes {
		for _, f := range lane {
			result.Faults = append(result.Faults, g.timesOf(f))
		}
	}
	for _, name := range g.storm.missing() {
		result.fail("%s happened %d times, at least %d were wanted", name, g.storm.times[name], g.storm.minimum(name))
	}
	result.judgeTimes()
	g.tell.say("%s: %s; %d operations on %d domains in %.0f s, judged in %.1f s", g.name, result.state(), result.Events, result.Domains, result.Seconds, result.Judging)
	return result, nil
}

func (g *Group) state() string {
	if n := len(g.Failures); n > 0 {
		return fmt.Sprintf("%d failures", n)
	}
	return "good"
}

// judgeDir judges the history of a group.
func judgeDir(dir string) (*Group, error) {
	h, err := history.Read(dir)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	under := time.Duration(h.Run.End - h.Run.Start).Seconds()
	options := judge.Options{Minimum: map[string]int{}, Timeout: 20 * time.Second, Undecided: 1, Pictures: filepath.Join(dir, "pictures")}
	for name, each := range minima {
		options.Minimum[name] = max(int(each*under), 1)
	}
	verdict := judge.Judge(h, options)
	for _, f := range h.Faults {
		if f.Promoted > 0 && f.Effect != history.Wipe { // that is told of the fork as well
			verdict.Counts["promotions"]++
		}
	}
	return &Group{
		seed: h.Run.Seed, Name: h.Run.Group, Seconds: under, Replicas: h.Run.Replicas, Domains: len(h.Domains), Events: len(h.Events), Leaks: h.Leaks,
		Checks: verdict.Checks, Counts: verdict.Counts, Failures: verdict.Failures(), Judging: time.Since(begun).Seconds(),
	}, nil
}

// Judge judges the histories again that a run has kept in a directory.
func Judge(dir string) (*Report, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*", "run.jsonl"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no run has kept its histories in %s", dir)
	}
	report := &Report{Dir: dir}
	begun := time.Now()
	for _, name := range names {
		group, err := judgeDir(filepath.Dir(name))
		if err != nil {
			return nil, err
		}
		report.Seed, report.Groups = group.seed, append(report.Groups, group)
	}
	report.end(begun)
	return report, nil
}

// timesOf puts together what the probers have seen of a fault.
func (g *group) timesOf(f faults.Fault) *FaultTimes {
	t := &FaultTimes{Name: f.Name(), Times: g.storm.times[f.Name()], Minimum: g.storm.minimum(f.Name()), Unsupported: g.storm.unsupported[f.Name()]}
	if !g.storm.each {
		t.Minimum = 0
	}
	var again, promotion, after []time.Duration
	told := map[int64]bool{} // by start
	for _, h := range g.storm.happened {
		if h.Name != t.Name || told[h.Start] {
			continue
		}
		told[h.Start] = true
		t.Count += h.Count
		o, ok := outageOf(g.probers, h)
		if !ok {
			continue
		}
		again = append(again, o.Again)
		if o.Promotion > 0 {
			promotion, after = append(promotion, o.Promotion), append(after, o.After)
		}
	}
	t.Again, t.Promotion, t.After = spread(again), spread(promotion), spread(after)
	return t
}

// longestWait is within what time of a promotion claims succeed again, in the middle of all promotions after a kill.
const longestWait = time.Second

// fewestKills make a median; a single one may have met a busy machine.
const fewestKills = 3

// judgeTimes checks that claims succeed again soon after a killed master was replaced. Where other faults go on at the
// same time, what keeps claims from succeeding may be one of them.
func (g *Group) judgeTimes() {
	if g.Name == faults.Mixed {
		return
	}
	i := slices.IndexFunc(g.Faults, func(t *FaultTimes) bool { return t.Name == killMaster })
	if i >= 0 && g.Faults[i].After.N >= fewestKills && g.Faults[i].After.P50 > float64(longestWait.Milliseconds()) {
		g.fail("after the kill of a master claims succeeded %s after the promotion (median of %d); %v was wanted", inShort(g.Faults[i].After.P50), g.Faults[i].After.N, longestWait)
	}
}
