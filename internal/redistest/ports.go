package redistest

import (
	"fmt"
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
)

func hostPort(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// freePort returns a port which is free together with its bus port. Somebody
// else may take either before the server binds it; the caller retries then.
func freePort() (int, error) {
	var last error
	for range 100 {
		port := firstPort + rand.IntN(portRange)
		if last = bindable(port); last != nil {
			continue
		}
		if last = bindable(port + busOffset); last != nil {
			continue
		}
		return port, nil
	}
	return 0, fmt.Errorf("redistest: no free port: %w", last)
}

func bindable(port int) error {
	l, err := net.Listen("tcp", hostPort(port))
	if err != nil {
		return err
	}
	return l.Close()
}
