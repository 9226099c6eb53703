package redistest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// member is what one node says of another, or of itself: a line of CLUSTER
// NODES.
type member struct {
	id     string
	addr   string
	flags  map[string]bool
	master string // id of the primary it replicates
	epoch  int64
	slots  slotSet
	open   []openSlot // known to the node itself only
}

// openSlot is a slot on its way to (or from) the node with the id peer.
type openSlot struct {
	slot      int
	peer      string
	migrating bool // to peer; otherwise importing from it
}

// view is how the cluster looks from one node. Views differ: after every
// change it takes the gossip a while to spread.
type view struct {
	node    *Server
	self    member
	members []member
}

// ofSlots returns the members which own slots.
func (v *view) ofSlots() []member {
	var ms []member
	for _, m := range v.members {
		if !m.slots.empty() {
			ms = append(ms, m)
		}
	}
	return ms
}

func parseNodes(text string) ([]member, error) {
	var ms []member
	for line := range strings.Lines(text) {
		// id ip:port@busport[,hostname] flags master ping pong epoch link slot...
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, fmt.Errorf("redistest: CLUSTER NODES line %q", line)
		}
		m := member{id: f[0], flags: map[string]bool{}}
		m.addr, _, _ = strings.Cut(f[1], "@")
		for _, flag := range strings.Split(f[2], ",") {
			m.flags[flag] = true
		}
		if f[3] != "-" {
			m.master = f[3]
		}
		var err error
		if m.epoch, err = strconv.ParseInt(f[6], 10, 64); err != nil {
			return nil, fmt.Errorf("redistest: CLUSTER NODES line %q: %w", line, err)
		}
		for _, s := range f[8:] {
			if strings.HasPrefix(s, "[") {
				o, err := parseOpen(s)
				if err != nil {
					return nil, err
				}
				m.open = append(m.open, o)
			} else if err := m.slots.addRange(s); err != nil {
				return nil, err
			}
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// parseOpen parses "[93->-id]" (migrating) and "[93-<-id]" (importing).
func parseOpen(text string) (openSlot, error) {
	inner := strings.Trim(text, "[]")
	slot, peer, migrating := strings.Cut(inner, "->-")
	if !migrating {
		slot, peer, _ = strings.Cut(inner, "-<-")
	}
	n, err := strconv.Atoi(slot)
	if err != nil {
		return openSlot{}, fmt.Errorf("redistest: open slot %q: %w", text, err)
	}
	return openSlot{slot: n, peer: peer, migrating: migrating}, nil
}

// view asks one node how it sees the cluster.
func (c *Cluster) view(ctx context.Context, s *Server) (*view, error) {
	text, err := s.admin.ClusterNodes(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("redistest: CLUSTER NODES of %s: %w", s.Addr(), err)
	}
	ms, err := parseNodes(text)
	if err != nil {
		return nil, err
	}
	for _, m := range ms {
		if m.flags["myself"] {
			c.remember(s, m.slots)
			return &view{node: s, self: m, members: ms}, nil
		}
	}
	return nil, fmt.Errorf("redistest: CLUSTER NODES of %s lacks itself", s.Addr())
}

// views asks all nodes which can be asked.
func (c *Cluster) views(ctx context.Context) ([]*view, error) {
	vs := make([]*view, len(c.nodes))
	err := each(c.nodes, func(i int, s *Server) (err error) {
		if s.responsive() {
			vs[i], err = c.view(ctx, s)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var asked []*view
	for _, v := range vs {
		if v != nil {
			asked = append(asked, v)
		}
	}
	if len(asked) == 0 {
		return nil, errors.New("redistest: no node of the cluster is alive")
	}
	return asked, nil
}

// each calls f for all servers at once, so that six of them take no longer
// than the slowest, and returns the errors.
func each(servers []*Server, f func(i int, s *Server) error) error {
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { errs[i] = f(i, s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
