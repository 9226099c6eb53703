package faults

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/onceward/coordinator/internal/faultproxy"
	"github.com/onceward/coordinator/internal/redistest"
)

// Network is a proxy in front of every node of a cluster. Several faults may be at work on it at the same time.
type Network struct{ links []*link }

// link is the way to one node.
type link struct {
	node  string
	proxy *faultproxy.Proxy

	mu    sync.Mutex
	rules []*imposed
	holes int
}

type imposed struct{ rule faultproxy.Rule }

// NewNetwork starts the proxies.
func NewNetwork(c *redistest.Cluster) (*Network, error) {
	n := &Network{}
	for _, addr := range c.Addrs() {
		proxy, err := faultproxy.New(addr)
		if err != nil {
			return nil, errors.Join(err, n.Close())
		}
		n.links = append(n.links, &link{node: addr, proxy: proxy})
	}
	return n, nil
}

// Addrs tells for the address of every node which address to dial instead.
func (n *Network) Addrs() map[string]string {
	addrs := map[string]string{}
	for _, l := range n.links {
		addrs[l.node] = l.proxy.Addr()
	}
	return addrs
}

// Close ends all connections and the proxies.
func (n *Network) Close() error {
	var errs []error
	for _, l := range n.links {
		errs = append(errs, l.proxy.Close())
	}
	return errors.Join(errs...)
}

// Dialer returns a dial function for go-redis that dials by such a map, and what is not in it directly. The cluster
// tells clients the nodes' own addresses, so a client needs it; its seeds may be either.
func Dialer(addrs map[string]string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	const timeout = 5 * time.Second // go-redis' default
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to, ok := addrs[addr]; ok {
			addr = to
		}
		d := net.Dialer{Timeout: timeout}
		return d.DialContext(ctx, network, addr)
	}
}

// to returns the way to a node.
func (n *Network) to(s *redistest.Server) *link {
	i := slices.IndexFunc(n.links, func(l *link) bool { return l.node == s.Addr() })
	return n.links[i]
}

// impose adds a rule, until it is lifted. Of several the one imposed first that does not let a request pass decides.
func (l *link) impose(rule faultproxy.Rule) (lift func()) {
	added := &imposed{rule}
	l.change(func() { l.rules = append(l.rules, added) })
	return func() {
		l.change(func() {
			l.rules = slices.DeleteFunc(l.rules, func(r *imposed) bool { return r == added })
		})
	}
}

func (l *link) change(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
	rules := slices.Clone(l.rules)
	if len(rules) == 0 {
		l.proxy.SetRule(nil)
		return
	}
	l.proxy.SetRule(func(r faultproxy.Request) faultproxy.Verdict {
		for _, i := range rules {
			if v := i.rule(r); v.Action != faultproxy.Pass {
				return v
			}
		}
		return faultproxy.Verdict{}
	})
}

// breakOff and mend make and end a black hole; the last of several ends it.
func (l *link) breakOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holes++
	l.proxy.BlackHole()
}

func (l *link) mend(deliver bool) int {
	l.mu.Lock()
	l.holes--
	last := l.holes == 0
	l.mu.Unlock()
	if !last {
		return 0
	}
	return l.proxy.EndBlackHole(deliver)
}

// works tells whether a request is work, rather than a connection's own business or a question about the cluster.
func works(r faultproxy.Request) bool {
	switch r.Name {
	case "HELLO", "AUTH", "CLIENT", "CLUSTER", "COMMAND", "INFO", "PING", "SELECT", "READONLY", "READWRITE", "ASKING",
		"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE":
		return false
	}
	return true
}

// links returns the ways of all callers to all nodes.
func (t *Target) links() []*link {
	var all []*link
	for _, n := range t.Networks {
		all = append(all, n.links...)
	}
	return all
}

// impose makes a rule for each way of all callers to all nodes, until they are lifted.
func (t *Target) impose(rule func() faultproxy.Rule) (lift func()) {
	var lifts []func()
	for _, l := range t.links() {
		lifts = append(lifts, l.impose(rule()))
	}
	return func() {
		for _, lift := range lifts {
			lift()
		}
	}
}

// count sums up what the proxies have counted.
func (t *Target) count(of func(*faultproxy.Proxy) int64) int64 {
	var n int64
	for _, l := range t.links() {
		n += of(l.proxy)
	}
	return n
}
