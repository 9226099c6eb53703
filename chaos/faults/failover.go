package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

// The faults here fork the history of a shard, except for the last, which comes with them because it looks the same
// from outside.
func failovers() []Fault {
	return []Fault{
		fork{name: "kill-master", do: killMaster},
		fork{name: "pause-master", detail: "stale master", do: pauseMaster},
		fork{name: "lose-suffix", detail: "forced", do: loseSuffix},
		fork{name: "isolate-master", detail: "cut off from all nodes", do: isolateMaster},
		partition{},
	}
}

// fork makes a master fail so that its replica takes its place.
type fork struct {
	name, detail string
	// do returns when the replica has taken over and nothing is left to undo that healing does not. It sets Count and
	// Promoted when these have happened.
	do func(ctx context.Context, t *Target, s shard, f *history.Fault) error
}

func (k fork) Name() string  { return k.name }
func (k fork) Group() string { return Failover }

func (k fork) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	defer t.breakNodes()()
	s, err := t.pick(ctx)
	if err != nil {
		return nil, err
	}
	f := history.Fault{Name: k.name, Effect: history.Fork, Detail: k.detail, Start: history.Now()}
	if f.Slots, err = t.Cluster.SlotsOf(ctx, s.master); err != nil {
		return nil, err
	}
	err = k.do(ctx, t, s, &f)
	err = errors.Join(err, t.heal(ctx))
	f.End = history.Now()
	f.Slots = t.moved.touching(f.Slots, f.Start, s.master, s.replica)
	if f.Count == 0 {
		return nil, err
	}
	return []history.Fault{f}, err
}

// promoted waits until the replica owns slots. It goes on when ctx has ended: a master that came back before would
// come back empty, and its replica with it.
func (t *Target) promoted(ctx context.Context, replica *redistest.Server) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	return poll(ctx, "the promotion of "+replica.Addr(), func() error {
		slots, err := t.Cluster.SlotsOf(ctx, replica)
		if err == nil && len(slots) == 0 {
			err = errors.New("it is a replica")
		}
		return err
	})
}

func killMaster(ctx context.Context, t *Target, s shard, f *history.Fault) error {
	if err := s.master.Kill(); err != nil {
		return err
	}
	f.Count = 1
	if err := t.promoted(ctx, s.replica); err != nil {
		return err
	}
	f.Promoted = history.Now()
	return nil
}

func pauseMaster(ctx context.Context, t *Target, s shard, f *history.Fault) error {
	if err := s.master.Pause(); err != nil {
		return err
	}
	f.Count = 1
	if err := t.promoted(ctx, s.replica); err != nil {
		return err
	}
	f.Promoted = history.Now()
	// The callers find the new master and work there, before the old one answers what is queued.
	pause(ctx, t.between(0, 500*time.Millisecond))
	return s.master.Resume()
}

// loseSuffix has a replica promoted that has missed what its master acknowledged. It is not enough to halt the replica:
// what the master sends meanwhile waits in the system's buffers. So the connection is closed while the replica is
// halted, and cannot be made again before the master is dead.
func loseSuffix(ctx context.Context, t *Target, s shard, f *history.Fault) (err error) {
	if err := s.replica.Pause(); err != nil {
		return err
	}
	if err := ask(ctx, s.master, "CLIENT", "KILL", "TYPE", "replica").Err(); err != nil {
		return errors.Join(err, s.replica.Resume())
	}
	if !pause(ctx, t.between(700*time.Millisecond, 1500*time.Millisecond)) {
		return s.replica.Resume() // the replica catches up, and nothing has happened
	}
	if err := s.master.Kill(); err != nil {
		return errors.Join(err, s.replica.Resume())
	}
	f.Count = 1
	if err := s.replica.Resume(); err != nil {
		return err
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := ask(ctx, s.replica, "CLUSTER", "FAILOVER", "TAKEOVER").Err(); err != nil {
		return fmt.Errorf("faults: takeover by %s: %w", s.replica.Addr(), err)
	}
	if err := t.promoted(ctx, s.replica); err != nil {
		return err
	}
	f.Promoted = history.Now()
	return nil
}

// isolateMaster cuts a master off from the other nodes, but not from its callers: it goes on to answer until it knows
// that it is alone, which takes the node timeout.
func isolateMaster(ctx context.Context, t *Target, s shard, f *history.Fault) error {
	if !t.Clock.controls(s.master) {
		return fmt.Errorf("%w: to cut off a node takes a clock", ErrUnsupported)
	}
	defer t.Clock.cut(s.master, 0)
	defer t.Clock.cut(s.replica, 0)
	t.Clock.cut(s.replica, cutReplication)
	t.Clock.cut(s.master, cutBus)
	f.Count = 1
	if err := t.promoted(ctx, s.replica); err != nil {
		return err
	}
	f.Promoted = history.Now()
	pause(ctx, t.between(0, 500*time.Millisecond))
	return nil
}

// partition separates the callers of one network from one master, or from all nodes.
type partition struct{}

func (partition) Name() string  { return "partition-callers" }
func (partition) Group() string { return Failover }

func (p partition) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	if len(t.Networks) == 0 {
		return nil, ErrUnsupported
	}
	n := t.Networks[t.number(len(t.Networks))]
	f := history.Fault{Name: p.Name(), Effect: history.NoLoss, Detail: "from all nodes, what was under way is lost"}
	links := n.links
	if t.either("partition-callers from one master") {
		masters, err := t.Cluster.Masters(ctx)
		if err != nil {
			return nil, err
		}
		links = []*link{n.to(masters[t.number(len(masters))])}
		f.Detail = "from one master, what was under way is lost"
	}
	deliver := t.either("partition-callers delivers")
	if deliver {
		f.Effect = history.Late
		f.Detail = f.Detail[:len(f.Detail)-len("lost")] + "delivered in the end"
	}
	f.Start = history.Now()
	for _, l := range links {
		l.breakOff()
	}
	pause(ctx, t.between(300*time.Millisecond, max(t.beyond(), time.Second)))
	for _, l := range links {
		f.Count += int64(l.mend(deliver))
	}
	f.End = history.Now()
	if f.Count == 0 {
		return nil, ErrNothing
	}
	return []history.Fault{f}, nil
}
