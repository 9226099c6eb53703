package coordtest

import (
	"bytes"
	"net"
	"sync"
)

// pipe is an in-memory connection with what TCP has and net.Pipe has not: room for a pipeline that is written
// before its replies are read.
type pipe struct {
	net.Conn
	out    chan []byte
	once   sync.Once
	closed chan struct{}
}

// room is how many writes a connection takes before somebody reads.
const room = 1 << 14

func buffered(conn net.Conn) net.Conn {
	p := &pipe{Conn: conn, out: make(chan []byte, room), closed: make(chan struct{})}
	go p.pump()
	return p
}

func (p *pipe) pump() {
	for {
		select {
		case b := <-p.out:
			if _, err := p.Conn.Write(b); err != nil {
				_ = p.Close()
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pipe) Write(b []byte) (int, error) {
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	default:
	}
	select {
	case p.out <- bytes.Clone(b):
		return len(b), nil
	case <-p.closed:
		return 0, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Conn.Close()
}
