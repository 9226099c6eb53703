package estimate

// Publishing is what waking waiters costs a cluster each second.
type Publishing struct {
	Masters  int
	Messages float64 // on the bus, all of them
	Share    float64 // of a master's core, for sending and receiving on the bus
	Bytes    float64 // on the bus, in and out of a master
}

// Wakes are completions that somebody waits for.
type Wakes struct {
	Masters  int
	Replicas int     // of each master
	Each     float64 // a second, of each master
}

// ClusterWide is what they cost with PUBLISH: every node hears every message.
func (w Wakes) ClusterWide(c *Costs) Publishing {
	nodes := float64(w.Masters * (1 + w.Replicas))
	sent, received := w.Each*(nodes-1), w.Each*float64(w.Masters-1)
	return Publishing{
		Masters: w.Masters, Messages: sent * float64(w.Masters), Share: (sent*c.Bus.Send + received*c.Bus.Receive) / 1e6,
		Bytes: (sent + received) * c.Bus.Bytes,
	}
}

// Sharded is the same with SPUBLISH: only the master's own replicas hear it.
func (w Wakes) Sharded(c *Costs) Publishing {
	sent := w.Each * float64(w.Replicas)
	return Publishing{Masters: w.Masters, Messages: sent * float64(w.Masters), Share: sent * c.Bus.Send / 1e6, Bytes: sent * c.Bus.Bytes}
}

// FullAt is the number of masters from which cluster-wide publishing takes more than this share of each one's core.
func (w Wakes) FullAt(c *Costs, share float64) int {
	for w.Masters = 1; w.ClusterWide(c).Share <= share && w.Masters < 1_000_000; {
		w.Masters++
	}
	return w.Masters
}
