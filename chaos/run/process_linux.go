package run

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// halted tells whether a process has come to a halt: kill(2) returns when SIGSTOP is pending.
func halted(pid int) (bool, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false, err
	}
	end := bytes.LastIndexByte(stat, ')') // the state follows the command's name, which may hold anything
	return end >= 0 && bytes.HasPrefix(stat[end+1:], []byte(" T")), nil
}
