package main

import (
	"encoding/json"
	"fmt"
	"io"
)

// report is what a run came to, counted by the services and read out of the ledger.
type report struct {
	Requests         int `json:"requests"`
	Payments         int `json:"payments"`
	Executions       int `json:"executions"`
	Replays          int `json:"replays"`
	InProgress       int `json:"in_progress"`
	Takeovers        int `json:"takeovers"`
	StaleRefused     int `json:"stale_refused"`
	LedgerDuplicates int `json:"ledger_duplicates"`
	LedgerMissing    int `json:"ledger_missing"`
}

func (t *tally) report() report {
	t.mu.Lock()
	defer t.mu.Unlock()
	return report{
		Requests: t.requests, Payments: len(t.payments), Executions: t.executions, Takeovers: t.takeovers,
		Replays: int(t.replays.Load()), InProgress: int(t.inProgress.Load()), StaleRefused: int(t.staleRefused.Load()),
	}
}

// verdict is nil when every payment is booked exactly once.
func (r *report) verdict() error {
	if r.LedgerDuplicates == 0 && r.LedgerMissing == 0 {
		return nil
	}
	return fmt.Errorf("the ledger is wrong: %d bookings too many, %d payments missing", r.LedgerDuplicates, r.LedgerMissing)
}

func (r *report) json(out io.Writer) error { return json.NewEncoder(out).Encode(r) }

const (
	whyItHolds = `Why it holds: from its grant on, only the current holder can write behind a payment's fence, so what
it reads in the ledger stays true until it writes. It books what is not there; what comes late is refused.`
	whyItFails = `Without the fence a write counts whoever sends it and whenever it arrives: from a worker whose time is
over, out of the network after its sender gave up, or sent again because only the reply was lost.`
)

// table writes the report for people.
func (r *report) table(d *diary, fenced bool) {
	d.say(calm, "")
	for _, row := range []struct {
		name  string
		count int
		about string
	}{
		{"requests", r.Requests, "reached a worker"},
		{"payments", r.Payments, "were asked for, each under one idempotency key"},
		{"executions", r.Executions, "times a worker began to make a payment"},
		{"replays", r.Replays, "requests got the stored receipt"},
		{"in progress", r.InProgress, "requests were told to come back (409)"},
		{"takeovers", r.Takeovers, "runs followed one that crashed or stalled"},
		{"late writes refused", r.StaleRefused, "bookings came too late and changed nothing"},
		{"booked twice", r.LedgerDuplicates, "entries in the ledger beyond the first of their payment"},
		{"not booked", r.LedgerMissing, "payments the ledger does not have"},
	} {
		d.say(calm, "  %-20s %6d   %s", row.name, row.count, row.about)
	}
	d.say(calm, "")
	if err := r.verdict(); err != nil {
		d.say(bad, "FAILED: %v.", err)
	} else {
		d.say(good, "OK: every payment is booked exactly once.")
	}
	if fenced {
		d.say(calm, "%s", whyItHolds)
	} else {
		d.say(calm, "%s", whyItFails)
	}
}
