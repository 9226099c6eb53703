package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// account is whom the server runs as. PostgreSQL refuses to be root.
type account struct {
	uid, gid int
	other    bool // than this process'
}

func unprivileged() (*account, error) {
	if os.Getuid() != 0 {
		return &account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			continue
		}
		gid, err := strconv.Atoi(u.Gid)
		if err == nil {
			return &account{uid: uid, gid: gid, other: true}, nil
		}
	}
	return nil, fmt.Errorf("pgtest: PostgreSQL does not run as root, and there is no account postgres or nobody")
}

func (a *account) own(path string) error {
	if !a.other {
		return nil
	}
	if err := os.Chown(path, a.uid, a.gid); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

func (a *account) attributes() *syscall.SysProcAttr {
	attributes := dieWithParent()
	if a.other {
		attributes.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attributes
}

// process is one run of the postmaster, until it has been reaped.
type process struct {
	os     *os.Process
	exited chan struct{}
	err    error // read after exited
}

// spawn keeps the thread that forked for as long as the child lives: Linux sends the parent-death signal when the
// thread ends, not the process.
func spawn(cmd *exec.Cmd) (*process, error) {
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
		return nil, fmt.Errorf("pgtest: start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// kill ends the postmaster without warning. Its children notice by themselves and end.
func (p *process) kill() {
	_ = p.os.Kill() // it may have ended
	<-p.exited
}
