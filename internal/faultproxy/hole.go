package faultproxy

import (
	"io"
	"time"
)

// BlackHole lets nothing through any more, in either direction, as a network
// that is partitioned: connections stay open and go dead, not even the end of
// one is heard of on its other side, and new ones are taken but get nowhere.
// To the rule requests are shown when they get through.
func (p *Proxy) BlackHole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hole == nil {
		p.hole, p.stuck = make(chan struct{}), map[*conn]int{}
	}
}

// EndBlackHole ends the partition, and returns how many requests and replies
// were under way. A network that kept them, or whose senders have gone on
// trying, delivers them now: with deliver EndBlackHole returns when the server
// has answered those requests, or has not within 5 s. Otherwise they are lost,
// and the connections with them.
func (p *Proxy) EndBlackHole(deliver bool) int {
	p.mu.Lock()
	hole, stuck := p.hole, p.stuck
	p.hole, p.stuck = nil, nil
	if hole != nil && !deliver {
		for c := range p.conns {
			c.close()
		}
	}
	p.mu.Unlock()
	if hole == nil {
		return 0
	}
	close(hole)
	n := 0
	for _, k := range stuck {
		n += k
	}
	if deliver {
		p.settle(stuck)
	}
	return n
}

// Stuck returns how many requests and replies wait at the black hole.
func (p *Proxy) Stuck() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, k := range p.stuck {
		n += k
	}
	return n
}

// settle waits until the connections have nothing under way, or are closed.
func (p *Proxy) settle(conns map[*conn]int) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(deliverTimeout)
	for c := range conns {
		for !c.settled() {
			select {
			case <-tick.C:
			case <-end:
				return
			case <-p.done:
				return
			}
		}
	}
}

// pass waits while there is a black hole, and counts what waits unless it is
// merely the end of the connection. It returns false if the connection was
// closed meanwhile.
func (c *conn) pass(counts bool) bool {
	for {
		c.p.mu.Lock()
		hole := c.p.hole
		if hole != nil && counts {
			c.p.stuck[c]++
		}
		c.p.mu.Unlock()
		if hole != nil {
			select {
			case <-hole:
			case <-c.closed:
			}
		}
		select {
		case <-c.closed:
			return false
		default:
		}
		if hole == nil {
			return true
		}
	}
}

// reachable waits while there is a black hole, before there is a connection.
// It returns false if the proxy was closed meanwhile.
func (p *Proxy) reachable() bool {
	for {
		p.mu.Lock()
		hole := p.hole
		p.mu.Unlock()
		if hole == nil {
			return true
		}
		select {
		case <-hole:
		case <-p.done:
			return false
		}
	}
}

// copy is for what is not paired any more.
func (c *conn) copy(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !c.pass(n > 0) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *conn) working(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
}

// settled tells whether everything that came from the client was sent and
// answered, as far as it is to be.
func (c *conn) settled() bool {
	select {
	case <-c.closed:
		return true
	default:
	}
	c.mu.Lock()
	last, busy := c.last, c.busy
	c.mu.Unlock()
	if busy || last == nil {
		return !busy
	}
	select {
	case <-last.done:
		return true
	default:
		return false
	}
}
