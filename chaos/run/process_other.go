//go:build !linux

package run

import (
	"syscall"
	"time"
)

func dieWithParent() *syscall.SysProcAttr { return nil }

// halted waits for as long as a signal takes to arrive.
func halted(int) (bool, error) {
	time.Sleep(20 * time.Millisecond)
	return true, nil
}
