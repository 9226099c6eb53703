package redistest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

// process is one run of a binary, from its start until it has been reaped.
type process struct {
	os     *os.Process
	exited chan struct{} // closed when reaped
	err    error         // how it ended; read after exited
}

// spawn starts cmd so that it dies with this process.
//
// Linux delivers a parent-death signal when the *thread* which forked ends,
// not when the process does, and Go ends threads as it pleases. So each child
// has a goroutine which is locked to its thread, forks on it, and keeps it by
// waiting there for the child's end.
func spawn(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = dieWithParent()
	p := &process{exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.exited)
		err := cmd.Start()
		p.os = cmd.Process
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("redistest: start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill ends the process by its own pid and returns when it has been reaped,
// so that its port and its files are free.
func (p *process) kill() error {
	if err := p.os.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("redistest: kill %d: %w", p.os.Pid, err)
	}
	<-p.exited
	return nil
}
