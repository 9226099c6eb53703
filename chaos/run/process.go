package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/onceward/coordinator/chaos/caller"
)

// child is one run of the callers' program, from its start until it has been reaped.
type child struct {
	process *os.Process
	in      io.WriteCloser
	said    *spoken
	errors  *opening
	exited  chan struct{} // closed when reaped
	err     error         // how it ended; read after exited
}

// spawn starts the callers' program with its configuration. It dies with this process: on Linux by a signal, which
// comes when the thread that forked ends, so that thread is kept until the child's end; elsewhere when its input ends.
func spawn(command []string, config caller.Config) (*child, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = dieWithParent()
	c := &child{said: &spoken{ready: make(chan struct{})}, errors: &opening{}, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = c.said, c.errors
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.in = in
	started := make(chan error, 1)
	go func() { // ends with the child
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.exited)
		err := cmd.Start()
		c.process = cmd.Process
		started <- err
		if err == nil {
			c.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start a process of callers: %w", err)
	}
	if err := json.NewEncoder(in).Encode(config); err != nil {
		return nil, errors.Join(fmt.Errorf("configure a process of callers: %w", err), c.kill())
	}
	return c, nil
}

// atWork returns when the callers have begun.
func (c *child) atWork(ctx context.Context) error {
	select {
	case <-c.said.ready:
		return nil
	case <-c.exited:
		return fmt.Errorf("a process of callers ended before it began: %w; it said: %s", c.err, c.errors)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end lets the callers end their last operations, and returns what they report.
func (c *child) end(longest time.Duration) (*caller.Report, error) {
	if err := c.in.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return nil, err
	}
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-timer.C:
		return nil, errors.Join(fmt.Errorf("a process of callers did not end within %v", longest), c.kill())
	}
	if c.err != nil {
		return nil, fmt.Errorf("a process of callers failed: %w; it said: %s", c.err, c.errors)
	}
	report := &caller.Report{}
	if err := json.Unmarshal(c.said.last(), report); err != nil {
		return nil, fmt.Errorf("a process of callers ended without a report: %w", err)
	}
	return report, nil
}

// kill ends the process by its own pid and returns when it has been reaped.
func (c *child) kill() error {
	if err := c.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %d: %w", c.process.Pid, err)
	}
	<-c.exited
	return nil
}

func (c *child) signal(s syscall.Signal) error {
	if err := c.process.Signal(s); err != nil {
		return fmt.Errorf("signal %v to %d: %w", s, c.process.Pid, err)
	}
	return nil
}

// spoken is a process's output: a first line when it is at work, a last one when it ends.
type spoken struct {
	mu    sync.Mutex
	text  []byte
	ready chan struct{}
	once  sync.Once
}

func (s *spoken) Write(data []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, data...)
	if bytes.HasPrefix(s.text, []byte("ready\n")) {
		s.once.Do(func() { close(s.ready) })
	}
	return len(data), nil
}

func (s *spoken) last() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(s.text), []byte("\n"))
	return lines[len(lines)-1]
}

// opening keeps the beginning and drops the rest: a panic says at first what happened.
type opening struct {
	mu   sync.Mutex
	text []byte
}

func (t *opening) Write(data []byte) (int, error) {
	const most = 8 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, data[:min(len(data), most-len(t.text))]...)
	return len(data), nil
}

func (t *opening) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
