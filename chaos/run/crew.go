package run

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/onceward/coordinator/chaos/caller"
	"github.com/onceward/coordinator/chaos/faults"
)

// crew is a process of callers; when it is killed, another takes its place, under another number.
type crew struct {
	group   *group
	place   int // among the crews, from 0
	network *faults.Network

	mu    sync.Mutex
	id    int
	child *child
}

var _ faults.Process = (*crew)(nil)

// ID is the number of the process in the history.
func (c *crew) ID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// start starts the process and returns when its callers are at work.
func (c *crew) start(ctx context.Context) error {
	o := c.group.options
	id := c.group.nextProcess()
	child, err := spawn(o.Command, caller.Config{
		Process: id, First: id * o.Callers, Seat: c.place * o.Callers, Callers: o.Callers, Plan: c.group.plan,
		File: filepath.Join(c.group.dir, fmt.Sprintf("process-%02d.jsonl", id)), Network: c.network.Addrs(),
		Postgres: c.group.postgres.URL(), Prefix: prefix, Shortest: shortestLease, Longest: longestLease, Replicas: c.group.replicas, Confirm: confirmTime,
		Cache: o.Cache,
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.id, c.child = id, child
	c.mu.Unlock()
	return child.atWork(ctx)
}

func (c *crew) current() *child {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.child
}

// Stop halts the process and returns when it has come to a halt.
func (c *crew) Stop() error {
	child := c.current()
	if err := child.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	const longest = 2 * time.Second
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		done, err := halted(child.process.Pid)
		if done || err != nil {
			return err
		}
		if time.Since(begun) > longest {
			return fmt.Errorf("process %d does not halt", child.process.Pid)
		}
	}
}

// Cont lets it run on.
func (c *crew) Cont() error { return c.current().signal(syscall.SIGCONT) }

// Kill ends it without warning.
func (c *crew) Kill() error { return c.current().kill() }

// Respawn starts another process in its place.
func (c *crew) Respawn(ctx context.Context) error { return c.start(ctx) }

// stop ends what is left of it, stopped or not; after an orderly end that is nothing.
func (c *crew) stop() {
	if child := c.current(); child != nil {
		_ = child.kill()
	}
}
