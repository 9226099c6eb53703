package faultproxy

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// conn is a client's connection with its counterpart to the server. One
// goroutine takes requests upstream, another takes replies downstream.
type conn struct {
	p      *Proxy
	id     int
	client *net.TCPConn
	server *net.TCPConn

	gone   chan struct{} // closed when the client has hung up
	closed chan struct{}
	once   sync.Once

	mu  sync.Mutex
	due []*pending // requests sent whose replies are due, in order
	// last is the last request sent, and busy tells whether more of them have
	// been read and not sent yet.
	last *pending
	busy bool

	// Upstream's own:
	setup []byte // requests which prepared the connection
	ask   []byte // the request before, if that was ASKING
}

// pending is a request which the server was sent.
type pending struct {
	v       Verdict
	release <-chan struct{}
	unpairs bool
	done    chan struct{} // closed when its reply has been dealt with
}

func newConn(p *Proxy, id int, client, server *net.TCPConn) *conn {
	return &conn{
		p: p, id: id, client: client, server: server,
		gone:   make(chan struct{}),
		closed: make(chan struct{}),
	}
}

// expect notes that a reply is due. There may be any number of them: many
// clients write all of a pipeline before they read, and Redis lets them. To
// make such a client wait would be a deadlock of the proxy's own making.
func (c *conn) expect(s *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = append(c.due, s)
	c.last = s
}

// next returns the request whose reply is due next, or nil if none is.
func (c *conn) next() *pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.due) == 0 {
		return nil
	}
	s := c.due[0]
	c.due = c.due[1:]
	return s
}

// close ends the connection on both sides, and thereby its goroutines.
func (c *conn) close() {
	c.once.Do(func() {
		close(c.closed)
		_ = c.client.Close()
		_ = c.server.Close()
	})
}

// run returns when both directions have ended.
func (c *conn) run() {
	var wg sync.WaitGroup
	wg.Go(func() {
		c.upstream()
		close(c.gone)
		// What was sent has left the client's hands: the server shall still
		// get it, so it is told of the end rather than cut off. It answers
		// by closing, which ends the other direction.
		_ = c.server.CloseWrite()
	})
	wg.Go(func() {
		c.downstream()
		c.close()
	})
	wg.Wait()
}

func (c *conn) upstream() {
	r := bufio.NewReader(c.client)
	for {
		c.working(r.Buffered() > 0)
		req, err := readRequest(r)
		c.working(true)
		if !c.pass(err == nil) || err != nil {
			return
		}
		req.Conn, req.N = c.id, c.p.seq.Add(1)
		v := c.p.judge(req)
		switch v.Action {
		case Hold:
			c.p.hold(held{req: req, before: append(append([]byte(nil), c.setup...), c.ask...)})
			fallthrough
		case DropRequest:
			// The commands before it are none of the rule's business:
			// their replies get through first.
			c.drain()
			c.close()
			return
		case Delay:
			if !c.sleep(v.For) {
				return
			}
		}
		if !c.send(req, v) {
			return
		}
		if req.unpairs() {
			c.working(false)
			c.copy(c.server, r)
			return
		}
		if req.prepares() {
			c.setup = append(c.setup, req.raw...)
		}
		c.ask = nil
		if req.Name == "ASKING" {
			c.ask = req.raw
		}
	}
}

func (c *conn) send(req Request, v Verdict) bool {
	s := &pending{v: v, unpairs: req.unpairs(), release: c.p.released(), done: make(chan struct{})}
	c.expect(s) // before it is sent, so as to precede its reply
	_, err := c.server.Write(req.raw)
	return err == nil
}

// drain waits until the replies to everything sent have been dealt with.
func (c *conn) drain() {
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if last == nil {
		return
	}
	select {
	case <-last.done:
	case <-c.closed:
	}
}

// sleep waits even if the client has hung up, as packets under way do.
func (c *conn) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.closed:
		return false
	}
}

func (c *conn) downstream() {
	r := bufio.NewReader(c.server)
	for {
		frame, err := appendFrame(nil, r)
		if !c.pass(err == nil) || err != nil {
			return
		}
		if frame[0] == '>' {
			// Nobody asked for this one, so it is paired with nothing.
			c.reply(frame)
			continue
		}
		s := c.next()
		if s == nil {
			// A reply to nothing: Redis says so before it hangs up on a
			// client which it does not want, for instance.
			c.reply(frame)
			continue
		}
		c.p.ran[s.v.Action].Add(1)
		switch s.v.Action {
		case DropReply:
			return
		case CutReply:
			c.reply(frame[:len(frame)/2])
			return
		case StallReply:
			c.stall(s)
		}
		c.reply(frame)
		close(s.done)
		if s.unpairs {
			c.copy(c.client, r)
			return
		}
	}
}

// reply ignores errors: when the client does not listen any more, the server's
// replies are read nevertheless, so that it is not kept from working.
func (c *conn) reply(b []byte) { _, _ = c.client.Write(b) }

func (c *conn) stall(s *pending) {
	var elapsed <-chan time.Time
	release := s.release
	if s.v.For > 0 {
		t := time.NewTimer(s.v.For)
		defer t.Stop()
		elapsed, release = t.C, nil
	}
	select {
	case <-elapsed:
	case <-release:
	case <-c.gone:
	case <-c.closed:
	}
}
