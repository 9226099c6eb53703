package history

import "golang.org/x/sys/unix"

// Now reads the machine's monotonic clock, which is the same for all processes, in nanoseconds.
func Now() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &at); err != nil {
		panic("no monotonic clock: " + err.Error())
	}
	return at.Nano()
}
