// Package model is the protocol as a state machine of its own, written from the table of states and verbs and not
// from the scripts, in plain Go and without a server: what the scripts must do is said here a second time.
//
// It has two users. The explorer in this package runs it through every history of a small scope (callers, copies of
// requests, clocks, replicas, a replaced master that still answers) and checks the promises in every state. The
// oracle in the root package runs it beside the scripts and compares every reply and every record.
//
// Owners, fingerprints, payloads and keys are small numbers; times and tokens are whatever the user of the model
// counts in, see [Units].
package model
