//go:build !unix

package redistest

import "syscall"

// Sending these fails where they do not exist; they are here so that the
// package, and with it the tests which import it, compiles everywhere.
const (
	sigStop = syscall.Signal(19)
	sigCont = syscall.Signal(18)
)
