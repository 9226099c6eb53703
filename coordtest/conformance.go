package coordtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// RunConformance holds the promises of this module against a server: one that is managed, a proxy, another implementation
// of Redis. open is called for each check and returns a client, a *redis.Client or *redis.ClusterClient, that stays
// usable until the check's test has ended; what it closes in t.Cleanup, it closes itself.
//
// The checks use a prefix of their own, drawn at random, and delete what they have written; they flush and load nothing
// else. The server's clock must run, so it does not take the client of an [Env]. It takes some seconds. What cannot be
// checked without faults, or without the server's clock in hand, is listed in the test's log.
func RunConformance(t *testing.T, open func(t *testing.T) redis.UniversalClient) {
	t.Helper()
	for _, c := range checks() {
		t.Run(c.name(), func(t *testing.T) {
			c.run(newTrial(t, open(t)))
		})
	}
	t.Run("not checked here", func(t *testing.T) {
		t.Log(strings.Join(unchecked, "\n"))
	})
}

// reporter is what a check says its findings to: a *testing.T, or what holds mutants against the checks.
type reporter interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// check is one part of one promise.
type check struct {
	promise string
	what    string
	run     func(*trial)
}

func (c check) name() string { return c.promise + " " + c.what }

// checks are all of them, in the order of the promises.
func checks() []check {
	return slices.Concat(
		cellChecks(),
		grantChecks(),
		lateChecks(),
		replayChecks(),
		copyChecks(),
		timeChecks(),
		waitChecks(),
		managementChecks(),
	)
}

// unchecked is what RunConformance cannot tell, and who can.
var unchecked = []string{
	"P1, P2 over a failover: a replica promoted without the last grant, a replaced master that still answers. Kill and freeze masters.",
	"P2 when a clock steps back, or two nodes' clocks differ. Move the server's clock.",
	"P3 in other stores than Redis: the store must compare the token itself.",
	"P4 to the end of the retention, and that a result is forgotten behind it: it takes at least as long.",
	"P5 on the wire: replies that are lost, requests that a proxy or a client sends again by itself, slots that move, scripts that are flushed.",
	"P6 for a holder that is paused, and for timers that come late. Stop the process.",
	"P7, ErrUnknown: it takes a reply that does not come.",
	"P8 when a clock steps back; and what a client that died leaves on the way.",
	"WithReplicas: how many replicas there are, and what they have, is the server's operator's to know.",
	"Servers' settings that lose records: eviction, no persistence, a full memory. docs/redis.md lists them.",
}

func (c check) String() string { return fmt.Sprintf("check %q", c.name()) }
