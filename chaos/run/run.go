// Package run is a chaos run from its start to its report: groups of faults one after the other, each on a cluster of
// its own, with processes of callers that fight for keys, and a judgement of what they saw.
package run

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/onceward/coordinator/chaos/faults"
)

// Options of a run.
type Options struct {
	Seed      int64
	Duration  time.Duration // under faults, all groups together
	Groups    []string      // none: all
	Replicas  int           // WithReplicas in every group; 0: in none but the durable one
	Cache     time.Duration // WithReplayCache in every group, 0: in none
	Kills     int           // instead of groups: so many kills of a master
	Processes int
	Callers   int      // of each process
	Command   []string // starts a process of callers, which calls caller.Main
	Keep      string   // where the histories stay; empty: in a directory that goes when all is good
	Told      io.Writer
}

// spec is a group of faults that can be run.
type spec struct {
	name     string
	weight   int // its share of the time
	lanes    func() [][]faults.Fault
	each     bool // every fault has to happen
	minimum  int  // that often
	replicas int
	hidden   bool // only for who names it
}

// specs are the groups, in the order in which they run.
func specs() []spec {
	var all []spec
	for _, name := range faults.Groups() {
		s := spec{name: name, weight: 2, lanes: func() [][]faults.Fault { return faults.Lanes(name) }, each: true, minimum: 1}
		switch name {
		case faults.Failover:
			s.weight = 4
		case faults.Mixed:
			s.weight, s.each = 4, false
		}
		all = append(all, s)
	}
	return append(all,
		spec{name: "durable", weight: 2, lanes: durable, each: true, minimum: 1, replicas: 1},
		spec{name: Short, weight: 1, lanes: short, each: true, minimum: 1, hidden: true},
	)
}

// Names lists the groups.
func Names() string {
	var names []string
	for _, s := range specs() {
		if !s.hidden {
			names = append(names, s.name)
		}
	}
	return strings.Join(names, ", ")
}

// Known is nil when there are such groups.
func Known(groups []string) error {
	for _, name := range groups {
		if !slices.ContainsFunc(specs(), func(s spec) bool { return s.name == name }) {
			return fmt.Errorf("there is no group %q; there are %s", name, Names())
		}
	}
	return nil
}

// Run runs the groups. The error is about what kept it from running; what it found stands in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	chosen := slices.DeleteFunc(specs(), func(s spec) bool {
		if len(o.Groups) == 0 {
			return s.hidden
		}
		return !slices.Contains(o.Groups, s.name)
	})
	if o.Kills > 0 {
		chosen = []spec{{name: "kills", lanes: kills, each: true, minimum: o.Kills}}
		o.Duration = 0
	}
	dir, err := directory(o.Keep)
	if err != nil {
		return nil, err
	}
	tell := newTeller(o.Told)
	tell.say("seed %d, %v under faults, %d processes of %d callers; histories in %s", o.Seed, o.Duration, o.Processes, o.Callers, dir)
	report := &Report{Seed: o.Seed, Dir: dir}
	clock, err := faults.NewClock()
	if err != nil {
		tell.say("no faults of the clock: %v", err)
		clock = nil
	} else {
		defer func() { _ = clock.Close() }()
	}
	weights := 0
	for _, s := range chosen {
		weights += max(s.weight, 1)
	}
	begun := time.Now()
	for i, s := range chosen {
		if s.name == faults.Clocks && clock == nil {
			report.Skipped = append(report.Skipped, s.name+": there is no C compiler")
			continue
		}
		g := &group{
			options: &o, name: s.name, clock: clock, tell: tell, replicas: max(s.replicas, o.Replicas),
			length: o.Duration * time.Duration(max(s.weight, 1)) / time.Duration(weights),
			dir:    filepath.Join(dir, fmt.Sprintf("%d-%s", i+1, s.name)),
			storm:  &storm{lanes: s.lanes(), seed: o.Seed, each: s.each, least: s.minimum},
		}
		result, err := g.whole(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w; seed %d, histories in %s", context.Cause(ctx), o.Seed, dir)
		}
		if err != nil { // the next group has a cluster of its own
			result = &Group{Name: s.name, Replicas: g.replicas, Failures: []string{g.broke(err)}}
		}
		report.Groups = append(report.Groups, result)
	}
	report.end(begun)
	if report.OK && o.Keep == "" {
		report.Dir = ""
		return report, os.RemoveAll(dir)
	}
	return report, nil
}

func directory(keep string) (string, error) {
	if keep == "" {
		return os.MkdirTemp("", "chaos-")
	}
	return keep, os.MkdirAll(keep, 0o755)
}
