package redistest

import "context"

// Masters returns the live nodes which own slots, according to themselves, in
// the order of [Cluster.Nodes].
func (c *Cluster) Masters(ctx context.Context) ([]*Server, error) {
	vs, err := c.views(ctx)
	if err != nil {
		return nil, err
	}
	var masters []*Server
	for _, v := range vs {
		if !v.self.slots.empty() {
			masters = append(masters, v.node)
		}
	}
	return masters, nil
}

// SlotsOf returns the slots of a live node as ranges [from, to]: those that it
// owns and those on their way to it, both according to itself. A replica has
// none.
func (c *Cluster) SlotsOf(ctx context.Context, s *Server) ([][2]int, error) {
	v, err := c.view(ctx, s)
	if err != nil {
		return nil, err
	}
	if v.self.master != "" {
		return nil, nil // of Valkey, replicas know what is on its way to their master
	}
	all := v.self.slots
	for _, o := range v.self.open {
		all.add(o.slot)
	}
	return all.ranges(), nil
}

func (s *slotSet) ranges() [][2]int {
	var rs [][2]int
	for slot := range slotCount {
		switch {
		case !s.has(slot):
		case len(rs) > 0 && rs[len(rs)-1][1] == slot-1:
			rs[len(rs)-1][1] = slot
		default:
			rs = append(rs, [2]int{slot, slot})
		}
	}
	return rs
}
