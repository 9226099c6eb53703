package coordtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onceward/coordinator"
)

// The table of states and verbs, as far as calls can reach it: a grant of ours meets its key in some state and
// acts. Each cell says what it is told, and what is there afterwards.

// subject is one key, brought into a state.
type subject struct {
	key    coordinator.Key
	mine   *coordinator.Lease // acts
	latest coordinator.Token  // the greatest granted so far
}

const resultText = "result\x00\xff"

var fingerprint = coordinator.Fingerprint([]byte("fp"))

// states bring a key, of which mine is a live lease, into a state. What ends mine is done by a twin in another
// process, so that mine does not know; short says that the lease in question must be one that lapses.
var states = map[string]struct {
	shortMine, shortOther bool
	make                  func(t *trial, there *coordinator.Coordinator, s *subject, claim func() *coordinator.Lease)
}{
	"absent":    {make: func(t *trial, _ *coordinator.Coordinator, s *subject, _ func() *coordinator.Lease) { t.lose(s.key) }},
	"live":      {make: func(*trial, *coordinator.Coordinator, *subject, func() *coordinator.Lease) {}},
	"lapsed":    {shortMine: true, make: func(*trial, *coordinator.Coordinator, *subject, func() *coordinator.Lease) {}},
	"completed": {make: twin(func(t *trial, l *coordinator.Lease) error { return l.Complete(t.ctx, []byte(resultText)) })},
	"failed":    {make: twin(func(t *trial, l *coordinator.Lease) error { return l.Fail(t.ctx, []byte(resultText)) })},
	"released":  {make: twin(func(t *trial, l *coordinator.Lease) error { return l.Release(t.ctx) })},
	"expired": {make: func(t *trial, there *coordinator.Coordinator, s *subject, _ func() *coordinator.Lease) {
		t.ok("expire", there.Expire(t.ctx, s.key))
	}},
	"other's live":   {make: other(nil)},
	"other's lapsed": {shortOther: true, make: other(nil)},
	"other's completed": {make: other(func(t *trial, l *coordinator.Lease) error {
		return l.Complete(t.ctx, []byte(resultText))
	})},
	"other's failed":   {make: other(func(t *trial, l *coordinator.Lease) error { return l.Fail(t.ctx, []byte(resultText)) })},
	"other's released": {make: other(func(t *trial, l *coordinator.Lease) error { return l.Release(t.ctx) })},
}

func twin(act func(*trial, *coordinator.Lease) error) func(*trial, *coordinator.Coordinator, *subject, func() *coordinator.Lease) {
	return func(t *trial, there *coordinator.Coordinator, s *subject, _ func() *coordinator.Lease) {
		l, err := there.Resume(t.ctx, s.key, s.mine.Grant(), coordinator.ManualRenewal())
		t.ok("resume", err)
		t.ok("the twin", act(t, l))
	}
}

func other(act func(*trial, *coordinator.Lease) error) func(*trial, *coordinator.Coordinator, *subject, func() *coordinator.Lease) {
	return func(t *trial, there *coordinator.Coordinator, s *subject, claim func() *coordinator.Lease) {
		twin(func(t *trial, l *coordinator.Lease) error { return l.Release(t.ctx) })(t, there, s, nil)
		l := claim()
		if act != nil {
			t.ok("the other one", act(t, l))
		}
	}
}

// verbs act on a subject.
var verbs = map[string]func(t *trial, there *coordinator.Coordinator, s *subject) error{
	"claim as the same owner": func(t *trial, _ *coordinator.Coordinator, s *subject) error {
		was := t.inspect(s.key).State
		l, err := t.c.Claim(t.ctx, s.key, fingerprint, coordinator.ManualRenewal(), coordinator.Owner(s.mine.Grant().Owner))
		if err == nil && was == coordinator.StateInProgress {
			if l.Grant() != s.mine.Grant() {
				return fmt.Errorf("asked again, it got another grant, token %d after %d", l.Token(), s.mine.Token())
			}
			return nil
		}
		return t.rose(s, l, err)
	},
	"claim": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		l, err := there.Claim(t.ctx, s.key, fingerprint, coordinator.ManualRenewal())
		return t.rose(s, l, err)
	},
	"claim with another fingerprint": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		l, err := there.Claim(t.ctx, s.key, coordinator.Fingerprint([]byte("fq")), coordinator.ManualRenewal())
		return t.rose(s, l, err)
	},
	"claim without a fingerprint": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		l, err := there.Claim(t.ctx, s.key, coordinator.ManualRenewal())
		return t.rose(s, l, err)
	},
	"claim in quarantine": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		l, err := there.Claim(t.ctx, s.key, fingerprint, coordinator.ManualRenewal(), coordinator.QuarantineLapsed())
		return t.rose(s, l, err)
	},
	"renew": func(t *trial, _ *coordinator.Coordinator, s *subject) error { return s.mine.Renew(t.ctx) },
	"resume": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		_, err := there.Resume(t.ctx, s.key, s.mine.Grant(), coordinator.ManualRenewal())
		return err
	},
	"checkpoint": func(t *trial, _ *coordinator.Coordinator, s *subject) error {
		return s.mine.SaveCheckpoint(t.ctx, []byte("so far"))
	},
	"complete": func(t *trial, _ *coordinator.Coordinator, s *subject) error {
		return s.mine.Complete(t.ctx, []byte(resultText))
	},
	"complete otherwise": func(t *trial, _ *coordinator.Coordinator, s *subject) error {
		return s.mine.Complete(t.ctx, []byte("another"))
	},
	"fail": func(t *trial, _ *coordinator.Coordinator, s *subject) error {
		return s.mine.Fail(t.ctx, []byte(resultText))
	},
	"release": func(t *trial, _ *coordinator.Coordinator, s *subject) error { return s.mine.Release(t.ctx) },
	"give back": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		return there.GiveBack(t.ctx, s.key, s.mine.Grant().Owner)
	},
	"expire": func(t *trial, there *coordinator.Coordinator, s *subject) error { return there.Expire(t.ctx, s.key) },
	"resolve to rerun": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		return there.Resolve(t.ctx, s.key, coordinator.Resolution{Rerun: true})
	},
	"resolve to a result": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		return there.Resolve(t.ctx, s.key, coordinator.Resolution{Payload: []byte(resultText)})
	},
	"result": func(t *trial, there *coordinator.Coordinator, s *subject) error {
		r, err := there.Result(t.ctx, s.key, []byte("fp"))
		if err == nil && string(r.Payload) != resultText {
			return fmt.Errorf("the result is %q", r.Payload)
		}
		return err
	},
	"fence": func(t *trial, _ *coordinator.Coordinator, s *subject) error {
		f := t.c.Fence(s.key)
		name := t.own(f)
		err := f.Do(t.ctx, s.mine.Grant(), "set", name, "written", "px", "60000").Err()
		if there := t.rdb.Exists(t.ctx, name).Val() == 1; there != (err == nil) {
			return fmt.Errorf("answered %w, and written: %v", err, there)
		}
		return err
	},
}

// own is a key of the user's behind a fence.
func (t *trial) own(f *coordinator.Fence) string { return t.prefix + "-own" + f.Tag() }

// rose notes a grant, whose token must exceed every one before it.
func (t *trial) rose(s *subject, l *coordinator.Lease, err error) error {
	if err != nil {
		return err
	}
	if l.Token() <= s.latest {
		return fmt.Errorf("P2: a grant with token %d after %d", l.Token(), s.latest)
	}
	s.latest = l.Token()
	return nil
}

// columns are the states, in the order in which cells has them.
var columns = []string{
	"absent", "live", "lapsed", "completed", "failed", "released", "expired",
	"other's live", "other's lapsed", "other's completed", "other's failed", "other's released",
}

// cells have, for each verb and state, what it is told and what is there then. "=" is that nothing has changed,
// byte for byte; "*" that there is a grant.
var cells = map[string]string{
	//                               absent        live          lapsed        completed    failed       released    expired     o live       o lapsed      o completed  o failed     o released
	"claim as the same owner":        "ok *         |ok =         |ok *         |completed = |completed = |ok *       |ok *       |in_progress = |ok *         |completed = |completed = |ok *",
	"claim":                          "ok *         |in_progress =|ok *         |completed = |completed = |ok *       |ok *       |in_progress = |ok *         |completed = |completed = |ok *",
	"claim with another fingerprint": "ok *         |mismatch =   |mismatch =   |mismatch =  |mismatch =  |mismatch = |ok *       |mismatch =    |mismatch =   |mismatch =  |mismatch =  |mismatch =",
	"claim without a fingerprint":    "ok *         |mismatch =   |mismatch =   |mismatch =  |mismatch =  |mismatch = |ok *       |mismatch =    |mismatch =   |mismatch =  |mismatch =  |mismatch =",
	"claim in quarantine":            "ok *         |in_progress =|uncertain =  |completed = |completed = |ok *       |ok *       |in_progress = |uncertain =  |completed = |completed = |ok *",
	"renew":                          "lost =       |ok *         |lost =       |stale =     |stale =     |stale =    |stale =    |stale =       |stale =      |stale =     |stale =     |stale =",
	"resume":                         "lost =       |ok *         |lost =       |stale =     |stale =     |stale =    |stale =    |stale =       |stale =      |stale =     |stale =     |stale =",
	"checkpoint":                     "lost =       |ok *         |ok lapsed    |stale =     |stale =     |stale =    |stale =    |stale =       |stale =      |stale =     |stale =     |stale =",
	"complete":                       "ok completed |ok completed |ok completed |ok =        |completed = |stale =    |stale =    |stale =       |stale =      |stale =     |stale =     |stale =",
	"complete otherwise":             "ok completed |ok completed |ok completed |completed = |completed = |stale =    |stale =    |stale =       |stale =      |stale =     |stale =     |stale =",
	"fail":                           "ok failed    |ok failed    |ok failed    |completed = |ok =        |stale =    |stale =    |stale =       |stale =      |stale =     |stale =     |stale =",
	"release":                        "ok =         |ok released  |ok released  |ok =        |ok =        |ok =       |ok =       |ok =          |ok =         |ok =        |ok =        |ok =",
	"give back":                      "ok released  |ok released  |ok released  |ok =        |ok =        |ok =       |ok =       |ok =          |ok =         |ok =        |ok =        |ok =",
	"expire":                         "ok released  |ok released  |ok released  |ok released |ok released |ok released|ok released|ok released   |ok released  |ok released |ok released |ok released",
	"resolve to rerun":               "not_found =  |in_progress =|ok released  |completed = |completed = |ok =       |ok =       |in_progress = |ok released  |completed = |completed = |ok =",
	"resolve to a result":            "not_found =  |in_progress =|ok completed |ok =        |completed = |not_found =|not_found =|in_progress = |ok completed |ok =        |completed = |not_found =",
	"result":                         "not_found =  |in_progress =|in_progress =|ok =        |ok =        |not_found =|not_found =|in_progress = |in_progress =|ok =        |ok =        |not_found =",
	"fence":                          "stale =      |ok =         |ok =         |stale =     |stale =     |stale =    |stale =    |stale =       |stale =      |stale =     |stale =     |stale =",
}

// withResource are the cells that a resource changes: its fence is lost as well, and nobody can tell who held it.
var withResource = map[string]string{"complete absent": "lost =", "complete otherwise absent": "lost =", "fail absent": "lost ="}

var told = map[string]error{
	"ok": nil, "completed": coordinator.ErrCompleted, "in_progress": coordinator.ErrInProgress, "mismatch": coordinator.ErrMismatch,
	"uncertain": coordinator.ErrUncertain, "lost": coordinator.ErrLeaseLost, "stale": coordinator.ErrStaleToken, "not_found": coordinator.ErrNotFound,
}

func cellChecks() []check {
	return []check{
		{"P1 to P4", "every state meets every verb", func(t *trial) { t.meet("") }},
		{"P1 to P4", "every state meets every verb, of a resource", func(t *trial) { t.meet("resource ") }},
	}
}

// meet brings a key into the state of each cell, then lets each verb act.
func (t *trial) meet(resource string) {
	there := t.open()
	subjects := map[string]*subject{}
	for verb := range verbs {
		for _, state := range columns {
			key := t.key()
			if resource != "" {
				key.Resource = resource + key.ID
			}
			subjects[verb+" "+state] = t.bring(there, key, state)
		}
	}
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		row := strings.Split(cells[verb], "|")
		for i, state := range columns {
			name, cell := verb+" "+state, row[i]
			if changed, ok := withResource[name]; ok && resource != "" {
				cell = changed
			}
			t.judge(there, subjects[name], verb, state, strings.Fields(cell))
		}
	}
}

func (t *trial) bring(there *coordinator.Coordinator, key coordinator.Key, state string) *subject {
	t.Helper()
	to := states[state]
	lease := func(lapses bool) coordinator.ClaimOption {
		if lapses {
			return coordinator.LeaseFor(short)
		}
		return coordinator.LeaseFor(long)
	}
	s := &subject{key: key}
	s.mine = t.claim(t.c, key, fingerprint, coordinator.ManualRenewal(), lease(to.shortMine))
	s.latest = s.mine.Token()
	to.make(t, there, s, func() *coordinator.Lease {
		l := t.claim(there, key, fingerprint, coordinator.ManualRenewal(), lease(to.shortOther))
		t.ok("the other one's token", t.rose(s, l, nil))
		return l
	})
	return s
}

func (t *trial) judge(there *coordinator.Coordinator, s *subject, verb, state string, cell []string) {
	t.Helper()
	if strings.HasSuffix(state, "lapsed") {
		t.lapsed(s.key)
	}
	before := t.raw(s.key)
	err := verbs[verb](t, there, s)
	t.want(fmt.Sprintf("%s, %s", verb, state), err, told[cell[0]])
	after := t.raw(s.key)
	switch what := t.inspect(s.key); cell[1] {
	case "=":
		if !maps.Equal(before, after) {
			t.Errorf("%s, %s: it changed what is there\nfrom %q\nto   %q", verb, state, before, after)
		}
	case "*":
		if what.State != coordinator.StateInProgress || what.Token != s.latest {
			t.Errorf("%s, %s: left %s with token %d, the grant has %d", verb, state, what.State, what.Token, s.latest)
		}
	default:
		if string(what.State) != cell[1] {
			t.Errorf("%s, %s: left %s, not %s", verb, state, what.State, cell[1])
		}
	}
}
