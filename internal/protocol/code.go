// Package protocol is what goes to the scripts and what comes back: it builds their arguments and reads their replies
// and records. It is the one place that does either; scripts/*.lua is the other side.
package protocol

// Code is what a script answers first; scripts/common.lua has the same numbers.
type Code int64

// The codes; the script's header tells what each of them means there.
const (
	OK Code = iota
	Over
	Mismatch
	InProgress
	Finished
	Uncertain
	Lost
	Stale
	Absent
	Corrupt
	MovedOn
	Restored
	KeyExpired
	Ahead
	Spent
	Blocked
	Failed

	// End is one past the last.
	End
)
