package judge

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/onceward/coordinator/chaos/history"
)

// linearizable looks for an order of each domain's operations.
func (r *run) linearizable() *Check {
	c := &Check{Name: Linearizable, Promise: "P1, P3, P4, P5"}
	found := make([]finding, len(r.domains))
	next := make(chan int)
	var workers sync.WaitGroup
	for range r.options.Parallel {
		workers.Go(func() {
			for i := range next {
				found[i] = r.order(r.domains[i])
			}
		})
	}
	for i := range r.domains {
		next <- i
	}
	close(next)
	workers.Wait()

	pictures := 0
	lossy := map[*history.Fault]bool{}
	for i := range found {
		f, d := &found[i], r.domains[i]
		c.Seen += f.operations
		c.count("domains", 1)
		c.count("hidden operations", f.hidden)
		switch {
		case f.result == porcupine.Unknown:
			c.Undecided = append(c.Undecided, d.Name)
		case f.result == porcupine.Illegal:
			text := f.text
			if r.options.Pictures != "" && pictures < mostPictures {
				pictures++
				text += r.picture(f, d)
			}
			c.violate(d.Name, d.events, "%s", text)
		case f.stage > plain:
			c.count("domains explained by "+explained[f.stage], 1)
		}
		for _, fault := range f.losses {
			lossy[fault] = true
		}
	}
	c.count("promotions that lost something", len(lossy))
	c.count("undecided domains", len(c.Undecided))
	if n := len(c.Undecided); float64(n) > r.options.Undecided*float64(len(r.domains)) {
		c.violate("", nil, "the search for an order ran out of time or memory in %d of %d domains, %s the first; make them smaller", n, len(r.domains), c.Undecided[0])
	}
	return c
}

const mostPictures = 20

var explained = [stages]string{repeats: "repeated calls", wiped: "lost records", forked: "a loss"}

// finding is what became of one domain.
type finding struct {
	result     porcupine.CheckResult
	stage      stage // the first in which there is an order, or the last
	operations int
	hidden     int
	losses     []*history.Fault // the forks that explain it
	text       string
	plan       *plan
	forks      []window
}

// order looks for an order, with as little help from what is hidden and from the faults as it takes: what explains a
// domain is counted. The last stage has what the others have, so it alone decides that there is none.
func (r *run) order(d *domain) finding {
	p := newPlan(r, d)
	f := finding{operations: len(p.ops), hidden: len(p.hidden), result: porcupine.Ok}
	if len(p.ops) == 0 {
		return f
	}
	deadline := time.Now().Add(r.options.Timeout)
	f.plan, f.forks = p, p.met(p.forks)
	if len(f.forks) > mostForks {
		f.result = porcupine.Unknown
		return f
	}
	all := p.stages(f.forks)
	var none [stages]bool // of those in which there is no order for sure
	for _, e := range efforts {
		for _, s := range all {
			if none[s] || e.last && s != all[len(all)-1] {
				continue
			}
			x := p.search(s, f.forks, e)
			f.result, f.stage = x.find(max(time.Until(deadline), time.Millisecond)), s
			if f.result == porcupine.Ok {
				if s == forked {
					f.losses = p.losses(f.forks, e, deadline)
				}
				return f
			}
			none[s] = f.result == porcupine.Illegal && x.complete()
		}
	}
	if f.stage = all[len(all)-1]; none[f.stage] {
		f.result, f.text = porcupine.Illegal, f.stuck()
	} else {
		f.result = porcupine.Unknown
	}
	return f
}

// stages are those in which the domain has more than in the one before.
func (p *plan) stages(forks []window) []stage {
	all := []stage{plain}
	for _, o := range p.hidden {
		if o.stage == repeats {
			all = append(all, repeats)
			break
		}
	}
	if len(p.within(p.wipes))+len(p.within(p.lates)) > 0 {
		all = append(all, wiped)
	}
	if len(forks) > 0 {
		all = append(all, forked)
	}
	return all
}

// met returns the windows in which there were operations of the domain.
func (p *plan) met(windows []window) (some []window) {
	for _, w := range windows {
		for _, o := range p.ops {
			if w.overlaps(o.from, o.until) {
				some = append(some, w)
				break
			}
		}
	}
	return some
}

// within returns the windows between the domain's first operation and its last.
func (p *plan) within(windows []window) (some []window) {
	if len(p.ops) == 0 {
		return nil
	}
	from, until := p.ops[0].from, int64(0)
	for _, o := range p.ops {
		from, until = min(from, o.from), max(until, o.until)
	}
	for _, w := range windows {
		if w.overlaps(from, until) {
			some = append(some, w)
		}
	}
	return some
}

// losses says which forks it takes: one alone, if it can be, or all.
func (p *plan) losses(forks []window, e effort, deadline time.Time) (faults []*history.Fault) {
	if len(forks) > 1 {
		for i := range forks {
			x := p.search(forked, forks[i:i+1], e)
			if x.find(max(time.Until(deadline), time.Millisecond)) == porcupine.Ok {
				return []*history.Fault{forks[i].fault}
			}
		}
	}
	for _, w := range forks {
		faults = append(faults, w.fault)
	}
	return faults
}

// stuck tells how far the longest order goes and what has no place in it.
func (f *finding) stuck() string {
	x := f.plan.search(f.stage, f.forks, utmost)
	_, info := porcupine.CheckOperationsVerbose(x.model(), f.plan.operations(), 5*time.Second)
	var longest []int
	for _, partials := range info.PartialLinearizations() {
		for _, partial := range partials {
			if len(partial) > len(longest) {
				longest = partial
			}
		}
	}
	x.left = utmost.budget
	s, in := x.first, map[int]bool{}
	for _, i := range longest {
		if s = x.step(context.Background(), s, f.plan.ops[i]); len(s.worlds) == 0 {
			break
		}
		in[i] = true
	}
	var out *op // that ended first of those left over
	for i, o := range f.plan.ops {
		if !in[i] && (out == nil || o.until < out.until) {
			out = o
		}
	}
	if out == nil {
		return "no order of the operations gives these answers"
	}
	return fmt.Sprintf("no order of the operations gives these answers, with the explanation %q at the most; after %d of %d of them there is %s, where %q of caller %d at %s has no place",
		stageNames[f.stage], len(in), len(f.plan.ops), x.describeSet(s), tell(out.event), out.event.Caller, f.plan.run.since(out.from))
}

// picture writes porcupine's page of a domain, with the faults and the hidden operations beside, and says where.
func (r *run) picture(f *finding, d *domain) string {
	x := f.plan.search(f.stage, f.forks, utmost)
	_, info := porcupine.CheckOperationsVerbose(x.model(), f.plan.operations(), 5*time.Second)
	x.left = 100 * utmost.budget // the page walks every order again
	var notes []porcupine.Annotation
	first, last := f.plan.ops[0].from, f.plan.ops[len(f.plan.ops)-1].until
	for _, fault := range d.faults {
		if fault.Start <= last && fault.End >= first {
			notes = append(notes, porcupine.Annotation{
				Tag: "faults", Start: max(fault.Start, first), End: min(fault.End, last), Description: fault.Name,
				Details: fmt.Sprintf("%s: %s to %s %s", fault.Effect, r.since(fault.Start), r.since(fault.End), fault.Detail), BackgroundColor: "#f5b7b1",
			})
		}
	}
	for _, e := range d.events {
		if f.plan.sure(e) == possible {
			notes = append(notes, porcupine.Annotation{
				Tag: "perhaps", Start: max(e.Call, first), End: min(max(e.Return, e.Call), last), Description: tell(e), Details: e.Err, BackgroundColor: "#d5dbdb",
			})
		}
	}
	info.AddAnnotations(notes)
	name := filepath.Join(r.options.Pictures, fileName(d.Name)+".html")
	if err := os.MkdirAll(r.options.Pictures, 0o755); err != nil {
		return fmt.Sprintf(" (no picture: %v)", err)
	}
	if err := porcupine.VisualizePath(x.model(), info, name); err != nil {
		return fmt.Sprintf(" (no picture: %v)", err)
	}
	return "; see " + name
}

func fileName(domain string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_.", r) || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, domain)
}
