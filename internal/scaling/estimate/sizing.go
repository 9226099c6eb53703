package estimate

import (
	"math"
	"time"
)

// Plan is what a planner assumes. None of it is measured.
type Plan struct {
	Busy     float64 // the share of a core that masters are to use at the peak
	Filled   float64 // the share of maxmemory that records are to fill
	Max      float64 // maxmemory of a master, bytes
	Fragment float64 // how many times used_memory the process takes
	Dump     float64 // bytes a second that a fork writes
	Dirty    float64 // bytes of pages that one write makes the fork copy
}

// Planned is the plan of the tables.
var Planned = Plan{Busy: 0.6, Filled: 0.8, Max: 32e9, Fragment: 1.1, Dump: 100e6, Dirty: 3 * 4096}

// Work is what a service asks for.
type Work struct {
	Keys      float64 // a second, at the peak
	Retention time.Duration
	Payload   int
	Replays   float64       // for each key
	Runs      time.Duration // how long the work takes; within a fifth of the lease it is not renewed
	Lease     time.Duration
}

// Need is what that takes.
type Need struct {
	Record  float64 // bytes
	Memory  float64 // bytes of records, all masters
	Cores   float64 // of masters, all of them
	ByBytes int     // masters for the memory
	ByCores int     // masters for the CPU
	Masters int
	Busy    float64 // of a master's core, with so many masters
	Write   float64 // writes a second of a master
	Host    float64 // bytes that the host of a master needs
}

// Size is how many masters the work needs.
func (p Plan) Size(c *Costs, w Work) Need {
	n := Need{Record: float64(c.All(c.Completed(w.Payload)))}
	running := w.Keys * w.Runs.Seconds()
	n.Memory = w.Keys*w.Retention.Seconds()*n.Record + running*float64(c.All(c.Running()))
	renewals := running * PerLease(w.Lease)
	if w.Runs < w.Lease/5 {
		renewals = 0
	}
	n.Cores = (w.Keys*(c.Cycle().Single+w.Replays*c.Replay.Single) + renewals*c.Renew.Single) / 1e6
	n.ByBytes = int(math.Ceil(n.Memory / p.Filled / p.Max))
	n.ByCores = int(math.Ceil(n.Cores / p.Busy))
	n.Masters = max(n.ByBytes, n.ByCores, 1)
	of := float64(n.Masters)
	n.Busy = n.Cores / of
	n.Write = (2*w.Keys + renewals) / of
	n.Host = p.Host(n.Memory/of, n.Write)
	return n
}

// Host is the memory of a master's host: the process, and what a fork makes it copy while records are written.
func (p Plan) Host(records, writes float64) float64 {
	return records*p.Fragment + p.Copied(records, writes)
}

// Copied is what a fork costs: each write copies pages that no earlier one has, until all are copied. A larger master
// takes longer to dump, and has as many more pages that a write can hit, so that the part that is copied is the same.
func (p Plan) Copied(records, writes float64) float64 {
	return records * (1 - math.Exp(-writes*p.Dirty/p.Dump))
}

// Fits is how many keys a second one master can keep.
func (p Plan) Fits(c *Costs, retention time.Duration, payload int) float64 {
	return p.Max * p.Filled / retention.Seconds() / float64(c.All(c.Completed(payload)))
}

// PerLease is how often a lease is renewed, each second: after a third of it, less a tenth of that by the jitter in the
// mean, and half of the window in which renewals go along with an earlier one.
func PerLease(lease time.Duration) float64 {
	return 1 / (lease.Seconds()/renewAfter*(1-1.0/jitterPart/2) - lease.Seconds()/earlyPart/2)
}
