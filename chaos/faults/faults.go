// Package faults breaks a cluster of real servers, the network before it, the processes which use it and their PostgreSQL, while a
// chaos run goes on, and says what it did.
//
// A run starts like this:
//
//	clock, err := faults.NewClock()              // optional: without it the faults of the clock are not supported
//	cluster, err := faults.StartCluster(ctx, clock)
//	network, err := faults.NewNetwork(cluster)   // one for each process of callers, or one for all of them
//	target := &faults.Target{Cluster: cluster, Networks: …, Processes: …, Clock: clock, Lease: lease, Grace: grace}
//	err = faults.Run(ctx, target, "failover", func(f history.Fault) { … })
//	// when ctx has ended: target.Heal(…), read the sinks, then network.Close, cluster.Stop, clock.Close
//
// The callers dial by [Dialer] with the map of [Network.Addrs], which may travel to them as JSON. Whoever judges the
// end of the run asks the servers themselves.
//
// The faults of a group come one after the other. The groups of [Mixed] run at the same time, each in a lane of its
// own: what they must not do to each other they sort out by the target (see [Target.Heal]).
//
// What the history.Fault of each says, beyond what is written there:
//
//   - Slots of a fork are also those which were on their way from or to one of the two servers. Of move-slots they are
//     those that were moved.
//   - A fork ends when the cluster is whole again. Slots that nobody owns after it, or a master too many, are mended
//     before, so that records may change hands until then.
//   - clock-forward: what has less than an hour to live is gone at once. Both steps, there and back, are in Start to
//     End, and tokens made meanwhile stay ahead. Should a step lead to a failover, a fork of the same name comes with it.
//   - clock-skew: Promoted is when the clock stepped for the keys of the shard, by Offset, and it steps back before End.
//   - Late: of hold-requests and partition-callers everything that was under way arrives in the last moments before
//     End, of slow-links each request by itself.
//   - Stop: Processes are the numbers from before a Respawn.
//   - evict: Count is all evictions, of which Detail says how many were not of the filling.
package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/pgtest"
	"github.com/onceward/coordinator/internal/redistest"
)

// Fault is one way to break something.
type Fault interface {
	// Name is the same in every history.Fault it returns.
	Name() string
	// Group is the one of the groups in which it takes part; see [Groups].
	Group() string
	// Inject does it, waits until its effect is over and the cluster is whole again, and returns what happened.
	// When ctx ends it undoes what it did, which takes some seconds where a server has to come back. What it returns
	// has happened, with an error or without.
	Inject(ctx context.Context, t *Target) ([]history.Fault, error)
}

// ErrUnsupported is returned by faults which need what the target does not have: a clock, processes, or PostgreSQL.
var ErrUnsupported = errors.New("faults: not supported by this target")

// ErrNothing is returned by faults which found nothing to hit: the callers were idle.
var ErrNothing = errors.New("faults: there was nothing to hit")

// The groups of faults.
const (
	Failover   = "failover"
	Networking = "network"
	Resharding = "resharding"
	Memory     = "memory"
	Clocks     = "clock"
	Callers    = "callers"
	Databases  = "postgres"
	Mixed      = "mixed" // failover, network, resharding, callers and postgres at the same time
)

// Groups returns the names of all groups.
func Groups() []string {
	return []string{Failover, Networking, Resharding, Memory, Clocks, Callers, Databases, Mixed}
}

// All returns every fault once.
func All() []Fault {
	return slices.Concat(failovers(), networks(), reshardings(), memories(), clocks(), callers(), databases())
}

// Lanes returns the faults of a group. Those of one lane exclude each other, lanes may run at the same time. A group
// that does not exist has none.
func Lanes(group string) [][]Fault {
	if group == Mixed {
		return [][]Fault{failovers(), networks(), reshardings(), callers(), databases()}
	}
	var lane []Fault
	for _, f := range All() {
		if f.Group() == group {
			lane = append(lane, f)
		}
	}
	if lane == nil {
		return nil
	}
	return [][]Fault{lane}
}

// Process is a process of callers. It is the orchestrator's to implement.
type Process interface {
	// ID is the number that its events carry as history.Event.Process. It may change by Respawn.
	ID() int
	// Stop halts it (SIGSTOP) and returns when it has come to a halt; Cont lets it run on.
	Stop() error
	Cont() error
	// Kill ends it without warning (SIGKILL), stopped or not, and returns when it is gone.
	Kill() error
	// Respawn starts another one in its place, and returns when that one is at work.
	Respawn(ctx context.Context) error
}

// Target is what faults are done to.
type Target struct {
	Cluster *redistest.Cluster
	// Postgres is the callers' other sink; nil: no faults of it.
	Postgres *pgtest.Server
	// Networks is how callers reach the nodes: one for all, or one for each of Processes, in the same order.
	Networks  []*Network
	Processes []Process
	// Slots are those that the callers use, of which some are moved; nil: those of keys that are found.
	Slots []int
	Clock *Clock     // nil: no faults of the clock, and no node cut off from the others
	Rand  *rand.Rand // nil: drawn anew in each run
	Lease time.Duration
	Grace time.Duration
	Log   func(string) // may be nil

	mu    sync.Mutex // guards Rand and turns
	turns map[string]bool
	shape sync.Mutex // held by whoever moves a slot or heals
	nodes sync.Mutex // held by whoever makes a node fail, until the cluster is whole again
	// turmoil is odd while a fault makes nodes fail.
	turmoil atomic.Int64
	moved   moves
}

// Run injects the faults of a group until ctx ends: every fault of a lane once, in random order, then all of them
// again. It takes note of each as soon as it is over. When ctx has ended everything is undone and the error is nil.
// note may be called from several goroutines at once.
func Run(ctx context.Context, t *Target, group string, note func(history.Fault)) error {
	lanes := Lanes(group)
	if lanes == nil {
		return fmt.Errorf("faults: there is no group %q", group)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(lanes))
	var wg sync.WaitGroup
	for i, lane := range lanes {
		wg.Go(func() {
			if errs[i] = runLane(ctx, t, lane, note); errs[i] != nil {
				cancel() // a run whose cluster does not come back tells nothing any more
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func runLane(ctx context.Context, t *Target, lane []Fault, note func(history.Fault)) error {
	lane = slices.Clone(lane)
	for ctx.Err() == nil {
		t.shuffle(lane)
		supported := false
		for _, f := range lane {
			if ctx.Err() != nil {
				return nil
			}
			happened, err := f.Inject(ctx, t)
			for _, h := range happened {
				t.logf("%s: %d in %v %s", h.Name, h.Count, time.Duration(h.End-h.Start).Round(time.Millisecond), h.Detail)
				note(h)
			}
			supported = supported || !errors.Is(err, ErrUnsupported)
			switch {
			case err == nil || ctx.Err() != nil:
			case errors.Is(err, ErrUnsupported), errors.Is(err, ErrNothing):
				t.logf("%s: %v", f.Name(), err)
			default:
				return fmt.Errorf("%s: %w", f.Name(), err)
			}
			if !t.rest(ctx) {
				return nil
			}
		}
		if !supported {
			return fmt.Errorf("no fault of the group %s: %w", lane[0].Group(), ErrUnsupported)
		}
	}
	return nil
}

// rest gives the callers a while without this lane's faults, so that not all of their work fails.
func (t *Target) rest(ctx context.Context) bool {
	return pause(ctx, 200*time.Millisecond+time.Duration(t.float()*float64(600*time.Millisecond)))
}
