package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

func clocks() []Fault {
	return []Fault{
		step{name: "clock-forward", by: time.Hour},
		step{name: "clock-back", by: -time.Hour},
		skew{},
	}
}

// step moves the clock of one master or of all nodes, and after a while back to what is right: a step in the other
// direction.
type step struct {
	name string
	by   time.Duration
}

func (s step) Name() string  { return s.name }
func (s step) Group() string { return Clocks }

func (s step) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	defer t.breakNodes()()
	one, err := t.pick(ctx)
	if err != nil {
		return nil, err
	}
	if !t.Clock.controls(one.master) {
		return nil, ErrUnsupported
	}
	f := history.Fault{Name: s.name, Effect: history.Step, Offset: int64(s.by), Start: history.Now(), Detail: "all nodes"}
	servers := t.Cluster.Nodes()
	if t.either(s.name) {
		servers = []*redistest.Server{one.master}
		f.Detail = "one master"
		if f.Slots, err = t.Cluster.SlotsOf(ctx, one.master); err != nil {
			return nil, err
		}
	}
	before, err := t.Cluster.Masters(ctx)
	if err != nil {
		return nil, err
	}
	for _, node := range servers {
		t.Clock.Set(node, s.by)
	}
	f.Count = int64(len(servers))
	pause(ctx, t.between(time.Second, 2*time.Second))
	for _, node := range servers {
		t.Clock.Set(node, 0)
	}
	err = errors.Join(t.reconnect(ctx), t.heal(ctx))
	all := happened(f)
	forks, asked := t.deposed(ctx, before, f)
	return append(all, forks...), errors.Join(err, asked)
}

// deposed returns the forks of those shards in which a step of the clock has led to a failover: after it a node may
// take others for silent that are not.
func (t *Target) deposed(ctx context.Context, before []*redistest.Server, f history.Fault) ([]history.Fault, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	after, err := t.Cluster.Masters(ctx)
	if err != nil {
		return nil, err
	}
	f.Effect, f.Slots, f.Offset, f.Count, f.Detail = history.Fork, nil, 0, 0, "failover after the step"
	f.End = history.Now()
	for _, m := range after {
		if slices.Contains(before, m) {
			continue
		}
		slots, err := t.Cluster.SlotsOf(ctx, m)
		if err != nil {
			return nil, err
		}
		f.Slots, f.Count = merged(append(f.Slots, slots...)), f.Count+1
	}
	if f.Count == 0 {
		return nil, nil
	}
	return []history.Fault{f}, nil
}

// reconnect has all nodes connect anew to each other. A node that has heard of another in what it now takes for the
// future would not ask it for a sign of life until then, an hour from now: it would neither notice its death nor learn
// what has become of it. A new connection begins with such a question.
func (t *Target) reconnect(ctx context.Context) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	linked := func(state string) func() error {
		return func() error {
			for _, node := range t.Cluster.Nodes() {
				text, err := ask(ctx, node, "CLUSTER", "NODES").Text()
				if err != nil {
					return err
				}
				for line := range strings.Lines(text) {
					if fields := strings.Fields(line); !strings.Contains(fields[2], "myself") && fields[7] != state {
						return fmt.Errorf("%s to %s is %s", node.Addr(), fields[1], fields[7])
					}
				}
			}
			return nil
		}
	}
	for _, node := range t.Cluster.Nodes() {
		t.Clock.cut(node, cutBus)
		defer t.Clock.cut(node, 0)
	}
	for _, node := range t.Cluster.Nodes() {
		// A connection ends when it is used, and this uses all of them.
		if err := ask(ctx, node, "PUBLISH", "faults:reconnect", "").Err(); err != nil {
			return err
		}
	}
	if err := poll(ctx, "the nodes to part", linked("disconnected")); err != nil {
		return err
	}
	for _, node := range t.Cluster.Nodes() {
		t.Clock.cut(node, 0)
	}
	return poll(ctx, "the nodes to connect", linked("connected"))
}

// apart is how far skew puts clocks apart: more than the grace of a lease of less than 3 s.
const apart = 300 * time.Millisecond

// skew puts the clock of a replica ahead or back, and has it change places with its master: without loss, but the keys
// of the shard see the clock step.
type skew struct{}

func (skew) Name() string  { return "clock-skew" }
func (skew) Group() string { return Clocks }

func (s skew) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	defer t.breakNodes()()
	one, err := t.pick(ctx)
	if err != nil {
		return nil, err
	}
	if !t.Clock.controls(one.replica) {
		return nil, ErrUnsupported
	}
	by := apart
	if t.either(s.Name()) {
		by = -apart
	}
	f := history.Fault{Name: s.Name(), Effect: history.Step, Offset: int64(by), Start: history.Now(), Detail: "300 ms apart, and a failover without loss"}
	if f.Slots, err = t.Cluster.SlotsOf(ctx, one.master); err != nil {
		return nil, err
	}
	t.Clock.Set(one.replica, by)
	f.Count = 1
	kept, cancel := detached(ctx)
	defer cancel()
	err = t.Cluster.Failover(kept, one.replica)
	f.Promoted = history.Now()
	pause(ctx, t.between(300*time.Millisecond, time.Second))
	t.Clock.Set(one.replica, 0)
	err = errors.Join(err, t.heal(ctx))
	f.Slots = t.moved.touching(f.Slots, f.Start, one.master, one.replica)
	return happened(f), err
}
