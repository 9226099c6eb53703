package run

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onceward/coordinator/chaos/caller"
	"github.com/onceward/coordinator/chaos/faults"
	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/pgtest"
	"github.com/onceward/coordinator/internal/redistest"
)

// What the callers of every run have in common. Leases are short, so that many lapse.
const (
	prefix        = "chaos"
	shortestLease = 300 * time.Millisecond
	longestLease  = time.Second
	longestGrace  = longestLease / 10 // the coordinator's default
	confirmTime   = 500 * time.Millisecond

	domainSlots = 24
)

// group is the run of one group of faults, on a cluster of its own.
type group struct {
	options  *Options
	name     string
	storm    *storm
	replicas int
	length   time.Duration // under faults
	dir      string
	clock    *faults.Clock
	tell     *teller

	cluster   *redistest.Cluster
	postgres  *pgtest.Server
	table     *caller.Table
	plan      *caller.Plan
	out       *history.Writer
	processes atomic.Int64 // started so far
	crews     []*crew
	probers   []*prober
	leaks     []history.Leak
}

// nextProcess numbers the processes from 1; 0 is the one that runs all.
func (g *group) nextProcess() int { return int(g.processes.Add(1)) }

// run does everything from the start of the servers to the last line of the history.
func (g *group) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return err
	}
	if g.out, err = history.Create(filepath.Join(g.dir, "run.jsonl")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.out.Close()) }()
	g.tell.status("%s: starting the cluster", g.name)
	if g.cluster, err = faults.StartCluster(ctx, g.clock); err != nil {
		return err
	}
	defer g.cluster.Stop()
	if g.postgres, err = pgtest.Start(ctx); err != nil {
		return err
	}
	defer g.postgres.Stop()
	if g.table, err = caller.OpenTable(g.postgres.URL(), 1, &atomic.Int64{}); err != nil {
		return err
	}
	defer g.table.Close()
	if err := g.table.Create(ctx); err != nil {
		return err
	}

	run := history.Run{
		Seed: g.options.Seed, Group: g.name, Engine: "redis", Replicas: g.replicas,
		Lease: int64(longestLease), Grace: int64(longestGrace), Lifetime: int64(caller.MaxLifetime), Cache: int64(g.options.Cache), Start: history.Now(),
	}
	g.plan = &caller.Plan{
		Seed: g.options.Seed, Seats: g.options.Processes * g.options.Callers, Started: run.Start,
		Every: 160 * time.Millisecond, Life: 1500 * time.Millisecond, Fewest: 3, Most: 7,
		Slots: caller.SpreadSlots(domainSlots),
	}
	if err := g.work(ctx); err != nil {
		return err
	}
	run.End = history.Now()
	rec := caller.NewRecorder(g.out, 0)
	domains := make([]caller.Domain, g.plan.Begun(run.End))
	for i := range domains {
		domains[i] = g.plan.Domain(i)
	}
	g.tell.status("%s: claiming the keys of %d domains once more", g.name, len(domains))
	if err := g.finish(ctx, domains, rec); err != nil {
		return fmt.Errorf("the end: %w", err)
	}
	for _, d := range domains {
		line := history.Domain{Name: d.Name, Resource: d.Resource, Slot: d.Slot()}
		for _, key := range d.Keys {
			line.Keys = append(line.Keys, key.ID)
		}
		if err := g.out.Write(history.Line{Domain: &line}); err != nil {
			return err
		}
	}
	for _, f := range slices.Concat(g.storm.happened, onTheirWay(g.storm.happened)) {
		if err := g.out.Write(history.Line{Fault: &f}); err != nil {
			return err
		}
	}
	if stepped(g.storm.happened) {
		run.Lifetime = 1
	}
	for i := range g.leaks {
		if err := g.out.Write(history.Line{Leak: &g.leaks[i]}); err != nil {
			return err
		}
	}
	return errors.Join(rec.Err(), g.out.Write(history.Line{Run: &run}))
}

// work has the callers work while the faults are injected, and returns when all of them have ended.
func (g *group) work(ctx context.Context) (err error) {
	var networks []*faults.Network
	defer func() {
		for _, n := range networks {
			err = errors.Join(err, n.Close())
		}
	}()
	target := &faults.Target{
		Cluster: g.cluster, Postgres: g.postgres, Clock: g.clock, Lease: longestLease, Grace: longestGrace, Slots: g.plan.Slots,
		Rand: rand.New(rand.NewPCG(uint64(g.options.Seed), streamTarget)),
	}
	defer func() {
		for _, c := range g.crews {
			c.stop()
		}
	}()
	for place := range g.options.Processes {
		network, err := faults.NewNetwork(g.cluster)
		if err != nil {
			return err
		}
		networks = append(networks, network)
		c := &crew{group: g, place: place, network: network}
		g.crews = append(g.crews, c)
		if err := c.start(ctx); err != nil {
			return err
		}
		target.Processes = append(target.Processes, c)
	}
	target.Networks = networks
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	if g.probers, err = probe(probing, networks[0].Addrs()); err != nil {
		return err
	}

	watching, stopWatching := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { g.watch(watching) })
	err = g.storm.rage(ctx, target, g.length, g.note)
	stopWatching()
	watcher.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	g.tell.status("%s: the faults are over", g.name)
	if err := target.Heal(ctx); err != nil {
		return err
	}
	if err := again(ctx, g.probers); err != nil {
		return err
	}
	stopProbing()
	for _, p := range g.probers {
		p.close()
	}
	if err := g.endCallers(); err != nil {
		return err
	}
	left, err := g.connected(ctx)
	g.leaks = append(g.leaks, history.Leak{Connections: left})
	return err
}

// endCallers lets all callers end, at the same time, and adds up what they leave.
func (g *group) endCallers() error {
	const longest = 20 * time.Second
	reports, errs := make([]*caller.Report, len(g.crews)), make([]error, len(g.crews))
	var wg sync.WaitGroup
	for i, c := range g.crews {
		wg.Go(func() { reports[i], errs[i] = c.current().end(longest) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, r := range reports {
		g.leaks = append(g.leaks, history.Leak{Process: g.crews[i].ID(), Goroutines: r.Goroutines, Connections: r.Connections})
	}
	return nil
}

// note tells of a fault as soon as it is over.
func (g *group) note(f history.Fault) {
	text := fmt.Sprintf("%s: %s, %d in %v", g.name, f.Name, f.Count, time.Duration(f.End-f.Start).Round(10*time.Millisecond))
	if o, ok := outageOf(g.probers, f); ok {
		if o.Promotion > 0 {
			text += fmt.Sprintf("; promoted after %v, claims succeed again %v later", o.Promotion.Round(10*time.Millisecond), o.After.Round(10*time.Millisecond))
		} else {
			text += fmt.Sprintf("; %v without a claim", o.Again.Round(10*time.Millisecond))
		}
	}
	if f.Detail != "" {
		text += " (" + f.Detail + ")"
	}
	g.tell.say("%s", text)
}

// watch shows how things stand.
func (g *group) watch(ctx context.Context) {
	begun := time.Now()
	for pause(ctx, 500*time.Millisecond) == nil {
		g.storm.mu.Lock()
		count := len(g.storm.happened)
		g.storm.mu.Unlock()
		text := fmt.Sprintf("%s: %.0fs of %.0fs, %d faults, %d domains", g.name, time.Since(begun).Seconds(), g.length.Seconds(), count, g.plan.Begun(history.Now()))
		if missing := g.storm.missing(); time.Since(begun) > g.length && len(missing) > 0 {
			text += fmt.Sprintf(", %d kinds of faults to come", len(missing))
		}
		g.tell.status("%s", text)
	}
}
