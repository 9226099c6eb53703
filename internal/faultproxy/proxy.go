package faultproxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// dialTimeout is plenty for a server on the same machine.
const dialTimeout = 5 * time.Second

// Proxy passes connections on to one server, and interferes as its rule says.
type Proxy struct {
	target string
	ln     net.Listener
	rule   atomic.Pointer[Rule]
	seq    atomic.Int64
	counts [actions]atomic.Int64
	ran    [actions]atomic.Int64
	done   chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	accepts int
	conns   map[*conn]struct{}
	held    []held
	release chan struct{} // closed by Release, then replaced
	hole    chan struct{} // closed when a black hole ends; nil if there is none
	stuck   map[*conn]int // how much each has waiting at the black hole
}

// New starts a proxy in front of the server at target, a host:port. Without a
// rule everything passes.
func New(target string) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("faultproxy: %w", err)
	}
	p := &Proxy{
		target:  target,
		ln:      ln,
		done:    make(chan struct{}),
		conns:   map[*conn]struct{}{},
		release: make(chan struct{}),
	}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr returns the address which clients are to use in place of the server's.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// SetRule replaces the rule, for requests which arrive from now on; nil lets
// everything pass. What was delayed, stalled or held stays so.
func (p *Proxy) SetRule(r Rule) {
	if r == nil {
		p.rule.Store(nil)
		return
	}
	p.rule.Store(&r)
}

// Count returns how many requests have met with the action. They are counted
// when the rule has decided.
func (p *Proxy) Count(a Action) int64 { return p.counts[a].Load() }

// Answered returns how many of the requests which have met with the action the
// server has answered since, whatever became of the answer.
func (p *Proxy) Answered(a Action) int64 { return p.ran[a].Load() }

// Close ends all connections and returns when every goroutine of the proxy has
// ended. Requests which are still held are lost.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.done)
	err := p.ln.Close()
	for c := range p.conns {
		c.close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	if err != nil {
		return fmt.Errorf("faultproxy: %w", err)
	}
	return nil
}

// Sever closes all connections of the moment, as a network that fails does.
// New ones are accepted.
func (p *Proxy) Sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return // Close has closed the listener
		}
		p.mu.Lock()
		p.accepts++
		id := p.accepts
		p.mu.Unlock()
		p.wg.Go(func() { p.serve(id, client) })
	}
}

func (p *Proxy) serve(id int, client net.Conn) {
	if !p.reachable() {
		_ = client.Close()
		return
	}
	server, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil {
		_ = client.Close()
		return
	}
	c := newConn(p, id, client.(*net.TCPConn), server.(*net.TCPConn))
	if !p.register(c) {
		c.close()
		return
	}
	c.run()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// register makes c known to Close, unless that has been called already.
func (p *Proxy) register(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) judge(r Request) Verdict {
	var v Verdict
	if rule := p.rule.Load(); rule != nil {
		v = (*rule)(r)
	}
	p.counts[v.Action].Add(1)
	return v
}

func (p *Proxy) released() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.release
}

// Dialer returns a dial function for go-redis which goes to a proxy in place
// of the server it stands before, and to everybody else directly. Clients of a
// cluster need it, because the cluster tells them the servers' own addresses.
func Dialer(proxies ...*Proxy) func(ctx context.Context, network, addr string) (net.Conn, error) {
	by := map[string]string{}
	for _, p := range proxies {
		by[p.target] = p.Addr()
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to, ok := by[addr]; ok {
			addr = to
		}
		d := net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, network, addr)
	}
}
