package faultproxy

import (
	"sync/atomic"
	"time"
)

// Action is what happens to a request.
type Action int

const (
	// Pass does nothing to it.
	Pass Action = iota
	// DropReply lets the server run the command, swallows the reply, and
	// closes the client's connection: the client cannot know whether the
	// command ran. It did.
	DropReply
	// DropRequest never sends the command and closes the client's
	// connection. To the client it looks the same as DropReply.
	DropRequest
	// StallReply lets the server run the command, and keeps the reply (and
	// with it all later ones of the connection) for Verdict.For, or until
	// Release if that is 0, or until the client hangs up.
	StallReply
	// Hold keeps the command and closes the client's connection; the command
	// is delivered at Release, on a connection of its own. Networks do this
	// to clients which gave up waiting and have sent the next command over
	// another connection already. In a transaction (MULTI) it would be run
	// outside of it.
	Hold
	// CutReply lets the server run the command, sends the first half of the
	// reply, and closes the client's connection.
	CutReply
	// Delay sends the command (and all later ones of the connection)
	// Verdict.For later, even if the client has hung up by then.
	Delay

	actions
)

// String returns the name of the action.
func (a Action) String() string {
	names := [...]string{"Pass", "DropReply", "DropRequest", "StallReply", "Hold", "CutReply", "Delay"}
	if a < 0 || a >= actions {
		return "Action(?)"
	}
	return names[a]
}

// Verdict is what a rule decides about a request. The zero value lets it pass.
type Verdict struct {
	Action Action
	// For is how long to Delay or StallReply.
	For time.Duration
}

// Rule decides about requests. It is called from many goroutines at once, in
// order of arrival for each connection. It is not asked any more about a
// connection which has subscribed.
type Rule func(Request) Verdict

// Once returns a rule which applies v to the first request of that name, given
// in upper case, and lets everything else pass: a retry is to succeed.
func Once(name string, v Verdict) Rule {
	var used atomic.Bool
	return func(r Request) Verdict {
		if r.Name == name && used.CompareAndSwap(false, true) {
			return v
		}
		return Verdict{}
	}
}
