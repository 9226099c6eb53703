package judge

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/onceward/coordinator/chaos/history"
)

// corruptions are lies about one event. each says whether it has found an event to lie about.
var corruptions = []struct {
	name  string
	often int // in a hundred at least
	lie   func(h *history.History, e *history.Event) bool
}{
	{"an older token", 95, func(h *history.History, e *history.Event) bool {
		e.Token = firstToken(h) - 1
		return granted(e) && e.Caller != history.Final && e.Call > h.Events[0].Return
	}},
	{"an attempt too many", 85, func(_ *history.History, e *history.Event) bool {
		e.Attempt++
		return granted(e)
	}},
	{"a checkpoint from nowhere", 95, func(_ *history.History, e *history.Event) bool {
		e.Data = "t9999"
		return granted(e)
	}},
	{"a lost checkpoint", 55, func(_ *history.History, e *history.Event) bool {
		had := e.Data != ""
		e.Data = ""
		return granted(e) && had
	}},
	{"other bytes", 95, func(_ *history.History, e *history.Event) bool {
		had := e.Found != ""
		e.Found += "!"
		return had
	}},
	{"a failure for a result", 95, func(_ *history.History, e *history.Event) bool {
		e.Failed = !e.Failed
		return e.Found != ""
	}},
	{"a late holder let in", 90, func(_ *history.History, e *history.Event) bool {
		was := e.Outcome
		e.Outcome, e.Current = history.OK, 0
		return was == history.Stale
	}},
	{"a holder shut out", 50, func(_ *history.History, e *history.Event) bool {
		was := e.Outcome
		e.Outcome = history.Stale
		return was == history.OK && (e.Op == history.Write || e.Op == history.Complete || e.Op == history.Checkpoint)
	}},
	{"a second holder", 60, func(h *history.History, e *history.Event) bool {
		was := e.Outcome
		e.Outcome, e.Owner, e.Token, e.Attempt = history.Granted, "second", e.Call/1000+1_700_000_000_000_000, max(e.Attempt, 1)
		return e.Op == history.Claim && was == history.InProgress
	}},
	{"a run after the result", 95, func(h *history.History, e *history.Event) bool {
		was := e.Outcome
		e.Outcome, e.Owner, e.Token, e.Attempt, e.Found = history.Granted, "again", e.Call/1000+1_700_000_000_000_000, 2, ""
		return e.Op == history.Claim && was == history.Replayed
	}},
	{"another fingerprint let in", 90, func(_ *history.History, e *history.Event) bool {
		was := e.Outcome
		e.Outcome = history.InProgress
		return e.Op == history.Claim && was == history.Mismatch
	}},
	{"an expiry that nobody asked for", 50, func(_ *history.History, e *history.Event) bool {
		was := *e
		*e = history.Event{ID: was.ID, Process: was.Process, Caller: was.Caller, Domain: was.Domain, Key: was.Key, Op: history.Result, Call: was.Call, Return: was.Return, Outcome: history.Unavailable}
		return was.Op == history.Expire
	}},
	{"a line of another grant in PostgreSQL", 100, func(_ *history.History, e *history.Event) bool {
		e.Token++
		return e.Op == history.Insert && e.Outcome == history.OK
	}},
	{"a line in PostgreSQL that was sent to Redis", 100, func(_ *history.History, e *history.Event) bool {
		was := e.Op
		e.Op = history.Write
		return was == history.Insert && e.Outcome == history.OK
	}},
	{"a completion that nobody asked for", 70, func(_ *history.History, e *history.Event) bool {
		was := *e
		*e = history.Event{ID: was.ID, Process: was.Process, Caller: was.Caller, Domain: was.Domain, Key: was.Key, Op: history.Result, Call: was.Call, Return: was.Return, Outcome: history.Unavailable}
		return was.Outcome == history.OK && (was.Op == history.Complete || was.Op == history.Fail)
	}},
}

func firstToken(h *history.History) int64 {
	for i := range h.Events {
		if granted(&h.Events[i]) {
			return h.Events[i].Token
		}
	}
	return 0
}

// One lie in a history that is true otherwise is found, mostly: some lies could be true.
func TestCorrupted(t *testing.T) {
	some := []conditions{
		{keys: 1, callers: 5, visits: 5}, {keys: 2, shared: true, callers: 5, visits: 5}, {keys: 1, callers: 4, visits: 5, drops: true}, {keys: 1, callers: 5, visits: 6, forks: 1},
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range corruptions {
		tried, found := 0, 0
		for seed := range uint64(200) {
			h := simulate(seed, 0, some[seed%4])
			var at []int
			for i := range h.Events {
				if e := h.Events[i]; e.Return != 0 && e.Caller != history.Final && c.lie(h, &e) {
					at = append(at, i)
				}
			}
			if len(at) == 0 {
				continue
			}
			h.Events = slices.Clone(h.Events)
			c.lie(h, &h.Events[at[random.IntN(len(at))]])
			tried++
			if v := Judge(h, Options{Parallel: 1, Minimum: none, Undecided: 1}); !v.OK {
				found++
			}
		}
		t.Logf("%s: found %d of %d", c.name, found, tried)
		if tried < 15 || found*100 < c.often*tried {
			t.Errorf("%s: found %d of %d, at least %d%% were wanted", c.name, found, tried, c.often)
		}
	}
}
