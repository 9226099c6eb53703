//go:build !unix

package main

import "errors"

func clientCPU() (float64, error) {
	return 0, errors.New("the CPU time of a process is asked for by getrusage, which this system does not have")
}
