package main

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// trips counts how often one operation waits for the server: on the connections, so that whatever the client does by
// itself is counted as well. dial makes the client.
func (l *lab) trips(ctx context.Context, rounds int, dial func(redis.Options) *redis.Client, what func(*coordinator.Coordinator) contender) ([]float64, error) {
	const cycles = 20
	counter := &tripCounter{}
	rdb := dial(redis.Options{Dialer: counter.dial, PoolSize: 1})
	defer rdb.Close()
	coord, err := coordinator.New(rdb)
	if err != nil {
		return nil, err
	}
	defer coord.Close()
	op := what(coord).op
	if err := op(ctx); err != nil { // dials and says hello
		return nil, err
	}
	var each []float64
	for range rounds {
		before := counter.trips.Load()
		for range cycles {
			if err := op(ctx); err != nil {
				return nil, err
			}
		}
		each = append(each, float64(counter.trips.Load()-before)/cycles)
	}
	return each, nil
}

// tripCounter counts round trips of the connections that it dials: a trip begins with the first write
// after a read.
type tripCounter struct{ trips atomic.Int64 }

func (t *tripCounter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &tripConn{Conn: conn, counter: t}, nil
}

type tripConn struct {
	net.Conn
	counter *tripCounter
	asked   atomic.Bool // something was written since the last read
}

func (c *tripConn) Write(p []byte) (int, error) {
	if !c.asked.Swap(true) {
		c.counter.trips.Add(1)
	}
	return c.Conn.Write(p)
}

func (c *tripConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.asked.Store(false)
	return n, err
}
