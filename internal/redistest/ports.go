package redistest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
)

const (
	host = "127.0.0.1"

	// Ports are drawn from [firstPort, firstPort+portRange); the cluster bus
	// then listens 10000 above, Redis' default, below 32000. Both ranges lie
	// under the ephemeral ports of Linux (32768 and up) on purpose: while a
	// server is dead its port must not become the source port of somebody's
	// outgoing connection. In the ephemeral range a client that keeps dialing
	// a dead server on loopback even ends up connected to itself.
	firstPort = 12000
	portRange = 10000
	busOffset = 10000

	// FirstBusPort to LastBusPort are what the nodes of clusters talk to each
	// other by. No other server started here listens there.
	FirstBusPort = firstPort + busOffset
	LastBusPort  = FirstBusPort + portRange - 1
)

func hostPort(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// freePort returns a port which is free together with its bus port, and keeps
// it so for whoever draws ports here, in other processes as well, until the
// closer is closed. Anybody else may take either before the server binds it;
// the caller retries then.
func freePort() (int, io.Closer, error) {
	var last error
	for range 100 {
		port := firstPort + rand.IntN(portRange)
		var kept io.Closer
		if kept, last = keep(port); last != nil {
			continue
		}
		if last = errors.Join(bindable(port), bindable(port+busOffset)); last != nil {
			_ = kept.Close()
			continue
		}
		return port, kept, nil
	}
	return 0, nil, fmt.Errorf("redistest: no free port: %w", last)
}

// keep marks the port as somebody's, because a server which was killed and is
// to be restarted does not hold it. The mark is a socket for UDP, which Redis
// has no use for: no two processes can have the same one, and it goes with the
// process.
func keep(port int) (io.Closer, error) { return net.ListenPacket("udp", hostPort(port)) }

func bindable(port int) error {
	l, err := net.Listen("tcp", hostPort(port))
	if err != nil {
		return err
	}
	return l.Close()
}
