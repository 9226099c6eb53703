package run

import (
	"slices"

	"github.com/onceward/coordinator/chaos/faults"
)

// Lanes of faults that are no group of the package faults.

const (
	killMaster = "kill-master"
	moveSlots  = "move-slots"
	partition  = "partition-callers" // with the failovers, but none: it loses nothing and nobody is promoted
)

// Short is a group with a fault of each kind, those that take least, for a test.
const Short = "short"

func lane(chosen func(faults.Fault) bool) [][]faults.Fault {
	return [][]faults.Fault{slices.DeleteFunc(faults.All(), func(f faults.Fault) bool { return !chosen(f) })}
}

func kills() [][]faults.Fault {
	return lane(func(f faults.Fault) bool { return f.Name() == killMaster })
}

// durable are single failovers, which lose nothing that a replica has confirmed.
func durable() [][]faults.Fault {
	return lane(func(f faults.Fault) bool { return f.Group() == faults.Failover && f.Name() != partition })
}

func short() [][]faults.Fault {
	names := []string{
		killMaster, "lose-suffix", partition, "drop-replies", "hold-requests", "kill-clients", moveSlots, "flush-scripts",
		"memory-full", "evict", "clock-forward", "stop-holders", "kill-holders", "kill-postgres", "terminate-sessions",
	}
	return lane(func(f faults.Fault) bool { return slices.Contains(names, f.Name()) })
}
