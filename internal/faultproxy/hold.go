package faultproxy

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"time"
)

// held is a request which waits for Release.
type held struct {
	req    Request
	before []byte // requests to be sent first, on a new connection
}

// Late is a request which was held, and what became of it.
type Late struct {
	Request Request
	// Reply is the server's answer as it came, in RESP: what a client would
	// have been told, had it waited.
	Reply []byte
	// Err says why the request could not be delivered or was not answered.
	Err error
}

// deliverTimeout bounds the delivery of a held request. A server which does
// not answer within it is dead or paused.
const deliverTimeout = 5 * time.Second

func (p *Proxy) hold(h held) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = append(p.held, h)
}

// Release lets go of all stalled replies, and delivers the requests held so
// far in the order of their arrival. Each gets a connection of its own, with
// the user, database and protocol of the original one. It returns what the
// server answered, so that all of them have run by then.
func (p *Proxy) Release() []Late {
	p.mu.Lock()
	all := p.held
	p.held = nil
	close(p.release)
	p.release = make(chan struct{})
	p.mu.Unlock()
	var late []Late
	for _, h := range all {
		reply, err := p.deliver(h)
		if err == nil {
			p.ran[Hold].Add(1)
		}
		late = append(late, Late{Request: h.req, Reply: reply, Err: err})
	}
	return late
}

// Held returns how many requests wait for Release.
func (p *Proxy) Held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held)
}

func (p *Proxy) deliver(h held) ([]byte, error) {
	conn, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil {
		return nil, fmt.Errorf("faultproxy: deliver late %s: %w", h.req.Name, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(deliverTimeout))
	if _, err := conn.Write(append(append([]byte(nil), h.before...), h.req.raw...)); err != nil {
		return nil, fmt.Errorf("faultproxy: deliver late %s: %w", h.req.Name, err)
	}
	r := bufio.NewReader(conn)
	before := bufio.NewReader(bytes.NewReader(h.before))
	for {
		// The first replies are those to what goes before.
		_, done := readRequest(before)
		reply, err := appendFrame(nil, r)
		for err == nil && reply[0] == '>' {
			reply, err = appendFrame(nil, r)
		}
		if err != nil {
			return nil, fmt.Errorf("faultproxy: reply to late %s: %w", h.req.Name, err)
		}
		if done != nil {
			return reply, nil
		}
	}
}
