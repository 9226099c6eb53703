//go:build unix

package main

import "golang.org/x/sys/unix"

// clientCPU is the CPU time of this process, µs.
func clientCPU() (float64, error) {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return 0, err
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e3, nil
}
