//go:build !linux

package redistest

import "syscall"

// dieWithParent has no counterpart here: a test binary which is killed leaves
// its servers behind.
func dieWithParent() *syscall.SysProcAttr { return nil }

// stopped takes SIGSTOP to have worked at once, for want of /proc.
func stopped(int) (bool, error) { return true, nil }
