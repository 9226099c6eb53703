package coordinator

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/scripts"
)

// The table of states and verbs, cell by cell, with and without a resource, on miniredis and on a real
// server: the reply, the record and the fence afterwards, and what is left of their TTLs.

const (
	mine   = "11111111111111111111111111111111"
	theirs = "22222222222222222222222222222222"
	minted = Token(1_700_000_000_000_000) // an older token of ours: below any clock
	later  = minted + 5                   // theirs
	lent   = time.Minute                  // a lease with its grace
	kept   = 24 * time.Hour
	buried = 2 * time.Hour // what a tombstone stays
)

// stand makes the record of a state as of the server's clock.
func stand(state string, now time.Duration) (record, bool) {
	r := record{
		state: stateInProgress, owner: mine, token: minted, attempt: 2, bound: true, fingerprint: []byte("fp"),
		end: now + 30*time.Second, length: lent, maximum: now + time.Hour, data: []byte("so far"), sequence: 3, checkpointed: true,
	}
	finish := func(state byte, payload string) {
		r.state, r.end, r.length, r.maximum = state, now-time.Second, 0, 0
		r.data, r.sequence, r.checkpointed = []byte(payload), 0, false
	}
	who, what, _ := strings.Cut(state, " ")
	if who == "other" {
		r.owner, r.token = theirs, later
	}
	switch what {
	case "live":
	case "bare": // as the claim left it
		r.data, r.sequence, r.checkpointed = nil, 0, false
	case "stepped": // the clock was stepped back by an hour
		r.end, r.maximum = r.end+time.Hour, r.maximum+time.Hour
	case "lapsed":
		r.end = now - time.Second
	case "released":
		r.state = stateReleased
	case "tombstone":
		r.state, r.attempt, r.bound, r.fingerprint = stateReleased, 0, false, nil
		r.end, r.length, r.maximum = now, 0, 0
		r.data, r.sequence, r.checkpointed = nil, 0, false
	case "completed":
		finish(stateCompleted, "result")
	case "completed otherwise":
		finish(stateCompleted, "another result")
	case "failed":
		finish(stateFailed, "result")
	default:
		return record{}, false
	}
	return r, true
}

// standFence makes the fence of a state; it names the record that holds it.
func standFence(state string, now time.Duration, n keyname.Names) (record, bool) {
	r := record{
		state: stateInProgress, owner: mine, token: minted, bound: true, end: now + 30*time.Second, length: lent,
		maximum: now + time.Hour, data: []byte(n.Record), checkpointed: true,
	}
	if strings.HasPrefix(state, "other") {
		r.owner, r.token, r.data = theirs, later+1, []byte(n.Record+"x")
	}
	switch state {
	case "mine", "other":
	case "mine stepped", "other stepped":
		r.end, r.maximum = r.end+time.Hour, r.maximum+time.Hour
	case "mine lapsed", "other lapsed":
		r.end = now - time.Second
	case "mine cleared", "other cleared":
		r.state = stateReleased
	case "as the record's": // the other one of the record holds it
		r.owner, r.token = theirs, later
	case "as the record's, stepped":
		r.owner, r.token = theirs, later
		r.end, r.maximum = r.end+time.Hour, r.maximum+time.Hour
	default:
		return record{}, false
	}
	return r, true
}

// setting is one server with one key set up.
type setting struct {
	t     *testing.T
	c     *Coordinator
	rdb   redis.UniversalClient
	key   Key
	names keyname.Names
	now   time.Duration
}

func (s *setting) put(name string, r record, exists bool) {
	s.t.Helper()
	if !exists {
		s.rdb.Del(s.t.Context(), name)
		return
	}
	if err := s.rdb.Set(s.t.Context(), name, r.encode(), time.Hour).Err(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *setting) get(name string) string {
	s.t.Helper()
	v, err := s.rdb.Get(s.t.Context(), name).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		s.t.Fatal(err)
	}
	return v
}

func (s *setting) send(k *call) *reply {
	s.t.Helper()
	s.c.run(s.t.Context(), k)
	if k.err != nil {
		s.t.Fatalf("%s: %v", k.script.Verb, k.err)
	}
	return &k.reply
}

func setUp(t *testing.T, rdb redis.UniversalClient, resource string) *setting {
	s := &setting{t: t, c: open(t, rdb), rdb: rdb, key: newKey(t)}
	s.key.Resource = resource
	s.names = s.c.names(s.key)
	now, err := rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	s.now = time.Duration(now.UnixMilli()) * time.Millisecond
	return s
}

// verbs build each verb's call, as the wrapper does, for the grant or the owner "mine".
var verbs = map[string]func(s *setting) *call{
	"claim": func(s *setting) *call {
		return s.c.claimCall(&claim{key: s.key, names: s.names, request: request{owner: mine, fingerprint: []byte("fp"), lease: 50 * time.Second, grace: 10 * time.Second, lifetime: time.Hour}})
	},
	"claim with another fingerprint": func(s *setting) *call {
		return s.c.claimCall(&claim{key: s.key, names: s.names, request: request{owner: mine, lease: 50 * time.Second, grace: 10 * time.Second, lifetime: time.Hour}})
	},
	"claim in quarantine": func(s *setting) *call {
		return s.c.claimCall(&claim{key: s.key, names: s.names, request: request{owner: mine, fingerprint: []byte("fp"), quarantine: true, lease: 50 * time.Second, grace: 10 * time.Second, lifetime: time.Hour}})
	},
	"renew": func(s *setting) *call { return s.lease().renewCall(true) },
	"checkpoint": func(s *setting) *call {
		return s.lease().call(scripts.Checkpoint, s.lease().head, "0000000004", "further")
	},
	"checkpoint again": func(s *setting) *call {
		return s.lease().call(scripts.Checkpoint, s.lease().head, "0000000003", "so far")
	},
	"checkpoint too late": func(s *setting) *call {
		return s.lease().call(scripts.Checkpoint, s.lease().head, "0000000003", "further")
	},
	"complete":               func(s *setting) *call { return s.complete("c", s.now+30*time.Second) },
	"complete after the end": func(s *setting) *call { return s.complete("c", s.now-time.Second) },
	"fail":                   func(s *setting) *call { return s.complete("f", s.now+30*time.Second) },
	"release":                func(s *setting) *call { return s.lease().call(scripts.Release, s.lease().head, millis(kept)) },
	"give back": func(s *setting) *call {
		return &call{script: scripts.GiveBack, key: s.key, keys: s.names.Keys(), args: []any{mine, millis(kept), millis(buried)}}
	},
	"give back uncounted": func(s *setting) *call {
		return &call{script: scripts.GiveBack, key: s.key, keys: s.names.Keys(), args: []any{mine, millis(kept), millis(buried), "1"}}
	},
	"expire": func(s *setting) *call {
		return &call{script: scripts.Expire, key: s.key, keys: s.names.Keys(), args: []any{fmt.Sprintf("%016d", minted), mine, millis(buried), millis(kept)}}
	},
	"resolve to rerun":  func(s *setting) *call { return s.resolve("r", "") },
	"resolve to result": func(s *setting) *call { return s.resolve("c", "result") },
	"mark": func(s *setting) *call {
		return &call{script: scripts.Mark, key: s.key, keys: []string{s.names.Record}, args: []any{"2"}}
	},
	"fence": func(s *setting) *call {
		return &call{script: scripts.FenceDo, key: s.key, fenced: true, keys: []string{s.names.Guard(), "v{" + s.names.Tag + "}"}, args: []any{head(Grant{minted, mine}), "set", "written"}}
	},
	"inspect": func(s *setting) *call {
		return &call{script: scripts.Inspect, key: s.key, keys: []string{s.names.Record}, args: []any{"1"}}
	},
}

func (s *setting) lease() *Lease {
	g := Grant{minted, mine}
	return &Lease{c: s.c, key: s.key, names: s.names, grant: g, head: head(g), attempt: 2, lease: 50 * time.Second, grace: 10 * time.Second}
}

func (s *setting) complete(outcome string, end time.Duration) *call {
	l := s.lease()
	return l.call(scripts.Complete, l.head, outcome, millis(kept), "result", "00000002"+printOf([]byte("fp")), millis(end))
}

func (s *setting) resolve(to, payload string) *call {
	return &call{script: scripts.Resolve, key: s.key, keys: s.names.Keys(), args: []any{fmt.Sprintf("%016d", minted), to, payload, millis(kept)}}
}

// What a verb leaves, in few words. "same" is byte for byte.
//
//	grant N      in progress under "mine" with a token above all, attempt N, a whole lease
//	renewed      the same grant with a later end
//	saved        the same with the new checkpoint
//	done c/f     finished by "mine" under its own token
//	released     the same record, released
//	tombstone    released, attempt 0, bound to nothing, token raised
//	settled r/c  as resolve leaves it: token raised
//	marked       the same with the mark
type expectation struct {
	reply  code
	record string
	fence  string // with a resource and its fence as in the row
}

const gone = ""

// table has a line for each verb and state: the reply and what is left. Rows that a resource changes stand in
// withResource.
var table = map[string]map[string]expectation{
	"claim": {
		"absent": {codeOK, "grant 1", "held"}, "mine live": {codeOK, "same", "same"}, "mine lapsed": {codeOver, "same", "same"},
		"mine stepped": {codeOK, "cut", "cut"}, "other stepped": {codeInProgress, "cut", "cut"},
		"mine completed": {codeFinished, "same", "same"}, "mine failed": {codeFinished, "same", "same"}, "mine released": {codeOver, "same", "same"},
		"other live": {codeInProgress, "same", "same"}, "other lapsed": {codeOK, "grant 3", "held"}, "other released": {codeOK, "grant 3", "held"},
		"other completed": {codeFinished, "same", "same"}, "other failed": {codeFinished, "same", "same"}, "other tombstone": {codeOK, "grant 1", "held"},
		"mine tombstone": {codeOver, "same", "same"},
	},
	"claim with another fingerprint": {
		"absent": {codeOK, "grant 1", "held"}, "mine live": {codeMismatch, "same", "same"}, "mine lapsed": {codeMismatch, "same", "same"},
		"other live": {codeMismatch, "same", "same"}, "other lapsed": {codeMismatch, "same", "same"}, "other released": {codeMismatch, "same", "same"},
		"other completed": {codeMismatch, "same", "same"}, "other failed": {codeMismatch, "same", "same"}, "other tombstone": {codeOK, "grant 1", "held"},
	},
	"claim in quarantine": {
		"absent": {codeOK, "grant 1", "held"}, "other live": {codeInProgress, "same", "same"}, "other lapsed": {codeUncertain, "same", "same"},
		"mine lapsed": {codeOver, "same", "same"}, "other released": {codeOK, "grant 3", "held"}, "other completed": {codeFinished, "same", "same"},
	},
	"renew": {
		"absent": {codeLost, gone, "same"}, "mine live": {codeOK, "renewed", "renewed"}, "mine stepped": {codeOK, "renewed", "renewed"},
		"mine lapsed": {codeLost, "same", "same"}, "mine completed": {codeStale, "same", "same"}, "mine failed": {codeStale, "same", "same"},
		"mine released": {codeStale, "same", "same"}, "other live": {codeStale, "same", "same"}, "other lapsed": {codeStale, "same", "same"},
		"other released": {codeStale, "same", "same"}, "other completed": {codeStale, "same", "same"}, "other tombstone": {codeStale, "same", "same"},
	},
	"checkpoint": {
		"absent": {codeLost, gone, "same"}, "mine live": {codeOK, "saved", "same"}, "mine lapsed": {codeOK, "saved", "same"},
		"mine completed": {codeStale, "same", "same"}, "mine released": {codeStale, "same", "same"}, "other live": {codeStale, "same", "same"},
		"other lapsed": {codeStale, "same", "same"}, "other tombstone": {codeStale, "same", "same"}, "other completed": {codeStale, "same", "same"},
	},
	"checkpoint again":    {"mine live": {codeOK, "same", "same"}, "mine lapsed": {codeOK, "same", "same"}},
	"checkpoint too late": {"mine live": {codeStale, "same", "same"}, "mine lapsed": {codeStale, "same", "same"}},
	"complete": {
		"absent": {codeRestored, "done c", "cleared"}, "mine bare": {codeOK, "done c", "cleared"}, "mine live": {codeOK, "done c", "cleared"}, "mine lapsed": {codeOK, "done c", "cleared"},
		"mine completed": {codeOK, "same", "same"}, "mine completed otherwise": {codeFinished, "same", "same"}, "mine failed": {codeFinished, "same", "same"},
		"mine released": {codeStale, "same", "same"}, "other live": {codeStale, "same", "same"}, "other lapsed": {codeStale, "same", "same"},
		"other released": {codeStale, "same", "same"}, "other completed": {codeStale, "same", "same"}, "other tombstone": {codeStale, "same", "same"},
	},
	"complete after the end": {"absent": {codeLost, gone, "same"}, "mine lapsed": {codeOK, "done c", "cleared"}},
	"fail": {
		"absent": {codeRestored, "done f", "cleared"}, "mine bare": {codeOK, "done f", "cleared"}, "mine live": {codeOK, "done f", "cleared"}, "mine lapsed": {codeOK, "done f", "cleared"},
		"mine failed": {codeOK, "same", "same"}, "mine completed": {codeFinished, "same", "same"}, "mine released": {codeStale, "same", "same"},
		"other live": {codeStale, "same", "same"}, "other completed": {codeStale, "same", "same"},
	},
	"release": {
		"absent": {codeOK, gone, "same"}, "mine live": {codeOK, "released", "cleared"}, "mine lapsed": {codeOK, "released", "cleared"},
		"mine completed": {codeOK, "same", "same"}, "mine failed": {codeOK, "same", "same"}, "mine released": {codeOK, "same", "same"},
		"other live": {codeOK, "same", "same"}, "other lapsed": {codeOK, "same", "same"}, "other completed": {codeOK, "same", "same"},
		"other released": {codeOK, "same", "same"}, "other tombstone": {codeOK, "same", "same"},
	},
	"give back": {
		"absent": {codeOK, "tombstone", "cleared"}, "mine live": {codeOK, "released", "cleared"}, "mine lapsed": {codeOK, "released", "cleared"},
		"mine completed": {codeOK, "same", "same"}, "mine failed": {codeOK, "same", "same"}, "mine released": {codeOK, "same", "same"},
		"mine tombstone": {codeOK, "same", "same"}, "other live": {codeOK, "same", "same"}, "other lapsed": {codeOK, "same", "same"},
		"other released": {codeOK, "same", "same"}, "other completed": {codeOK, "same", "same"}, "other tombstone": {codeOK, "same", "same"},
	},
	"give back uncounted": {"mine live": {codeOK, "uncounted", "cleared"}, "absent": {codeOK, "tombstone", "cleared"}},
	"expire": {
		"absent": {codeOK, "tombstone", "cleared"}, "mine live": {codeOK, "tombstone", "cleared"}, "mine lapsed": {codeOK, "tombstone", "cleared"},
		"mine completed": {codeOK, "tombstone", "cleared"}, "mine failed": {codeOK, "tombstone", "cleared"}, "mine released": {codeOK, "tombstone", "cleared"},
		"other live": {codeOK, "same", "same"}, "other lapsed": {codeOK, "same", "same"}, "other completed": {codeOK, "same", "same"},
		"other released": {codeOK, "same", "same"}, "other tombstone": {codeOK, "same", "same"},
	},
	"resolve to rerun": {
		"absent": {codeAbsent, gone, "same"}, "mine live": {codeInProgress, "same", "same"}, "mine lapsed": {codeOK, "settled r", "cleared"},
		"mine completed": {codeFinished, "same", "same"}, "mine failed": {codeFinished, "same", "same"}, "mine released": {codeOK, "same", "same"},
		"other live": {codeInProgress, "same", "same"}, "other lapsed": {codeMovedOn, "same", "same"}, "other released": {codeOK, "same", "same"},
		"other completed": {codeFinished, "same", "same"}, "other tombstone": {codeOK, "same", "same"},
	},
	"resolve to result": {
		"absent": {codeAbsent, gone, "same"}, "mine live": {codeInProgress, "same", "same"}, "mine lapsed": {codeOK, "settled c", "cleared"},
		"mine completed": {codeOK, "same", "same"}, "mine completed otherwise": {codeFinished, "same", "same"}, "mine failed": {codeFinished, "same", "same"},
		"mine released": {codeAbsent, "same", "same"}, "other live": {codeInProgress, "same", "same"}, "other lapsed": {codeMovedOn, "same", "same"},
		"other released": {codeAbsent, "same", "same"}, "other completed": {codeOK, "same", "same"}, "other tombstone": {codeAbsent, "same", "same"},
	},
	"mark": {
		"absent": {codeMovedOn, gone, "same"}, "mine live": {codeInProgress, "marked", "same"}, "mine lapsed": {codeMovedOn, "same", "same"},
		"mine completed": {codeMovedOn, "same", "same"}, "mine released": {codeMovedOn, "same", "same"}, "other live": {codeInProgress, "marked", "same"},
		"other lapsed": {codeMovedOn, "same", "same"}, "other tombstone": {codeMovedOn, "same", "same"},
	},
	"fence": {
		"absent": {codeStale, gone, ""}, "mine live": {codeOK, "same", ""}, "mine lapsed": {codeOK, "same", ""}, "mine completed": {codeStale, "same", ""},
		"mine failed": {codeStale, "same", ""}, "mine released": {codeStale, "same", ""}, "other live": {codeStale, "same", ""},
		"other lapsed": {codeStale, "same", ""}, "other completed": {codeStale, "same", ""}, "other tombstone": {codeStale, "same", ""},
	},
	"inspect": {
		"absent": {codeAbsent, gone, "same"}, "mine live": {codeOK, "same", "same"}, "mine lapsed": {codeOK, "same", "same"},
		"mine completed": {codeOK, "same", "same"}, "mine released": {codeOK, "same", "same"}, "other tombstone": {codeOK, "same", "same"},
	},
}

// withResource has what a fence changes: "record state / fence state" of each verb. "mine" holder verbs need the fence's pair too.
var withResource = map[string]map[string]expectation{
	"claim": {
		"absent / other stepped": {codeBlocked, gone, "cut"},
		"absent / other":         {codeBlocked, gone, "same"}, "absent / other lapsed": {codeOK, "grant 1", "held"}, "absent / other cleared": {codeOK, "grant 1", "held"},
		"absent / gone": {codeOK, "grant 1", "held"}, "absent / mine": {codeOK, "grant 1", "held"},
		"other lapsed / other": {codeBlocked, "same", "same"}, "other released / other": {codeBlocked, "same", "same"},
		"other completed / other": {codeFinished, "same", "same"}, "other live / other": {codeInProgress, "same", "same"},
		"mine live / gone": {codeOver, "same", "gone"}, "mine live / other": {codeOver, "same", "same"}, "mine live / mine cleared": {codeOver, "same", "same"},
		"other tombstone / other": {codeBlocked, "same", "same"}, "other lapsed / gone": {codeOK, "grant 3", "held"},
	},
	"renew": {
		"mine live / gone": {codeLost, "same", "gone"}, "mine live / other": {codeStale, "same", "same"}, "mine live / mine cleared": {codeStale, "same", "same"},
		"mine live / other lapsed": {codeStale, "same", "same"},
	},
	"checkpoint": {"mine live / gone": {codeLost, "same", "gone"}, "mine live / other": {codeStale, "same", "same"}},
	"complete": {
		"absent / other": {codeStale, gone, "same"}, "absent / mine cleared": {codeStale, gone, "same"}, "absent / gone": {codeLost, gone, "gone"},
		"mine live / gone":  {codeLost, "same", "gone"},
		"mine live / other": {codeStale, "same", "same"}, "mine lapsed / other lapsed": {codeStale, "same", "same"}, "mine completed / other": {codeOK, "same", "same"},
	},
	"fail":      {"absent / gone": {codeLost, gone, "gone"}, "mine live / other": {codeStale, "same", "same"}},
	"release":   {"mine live / gone": {codeOK, "same", "gone"}, "mine live / other": {codeOK, "same", "same"}},
	"give back": {"mine live / gone": {codeOK, "same", "gone"}, "mine live / other": {codeOK, "same", "same"}, "absent / other": {codeOK, "tombstone", "same"}, "absent / gone": {codeOK, "tombstone", "gone"}},
	"expire": {
		"mine live / other": {codeOK, "tombstone", "same"}, "mine live / gone": {codeOK, "tombstone", "gone"},
		"mine live / mine cleared": {codeOK, "tombstone", "same"}, "absent / other": {codeOK, "tombstone", "same"},
	},
	"resolve to result": {"mine lapsed / other": {codeOK, "settled c", "same"}, "mine lapsed / gone": {codeOK, "settled c", "gone"}},
	"resolve to rerun":  {"mine lapsed / other": {codeOK, "settled r", "same"}},
	"fence": {
		"mine live / gone": {codeStale, "same", "gone"}, "mine live / other": {codeStale, "same", "same"}, "mine live / mine cleared": {codeStale, "same", "same"},
		"absent / mine": {codeOK, gone, "same"}, "mine live / mine lapsed": {codeOK, "same", "same"},
	},
}

func TestVerbs(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		for verb, rows := range table {
			for state, want := range rows {
				t.Run(verb+"/"+state, func(t *testing.T) {
					setUp(t, rdb, "").judge(verb, state, "", want)
				})
				fence := fenceOf(state)
				if verb == "fence" {
					continue // the fence decides: below
				}
				if fence == "mine" && verb == "claim" && state == "absent" {
					fence = "gone"
				}
				t.Run(verb+" with a resource/"+state, func(t *testing.T) {
					setUp(t, rdb, "r"+fmt.Sprint(keyNumber.Add(1))).judge(verb, state, fence, want)
				})
			}
		}
		for verb, rows := range withResource {
			for states, want := range rows {
				t.Run(verb+" with a resource/"+strings.ReplaceAll(states, " / ", ", fence "), func(t *testing.T) {
					state, fence, _ := strings.Cut(states, " / ")
					setUp(t, rdb, "r"+fmt.Sprint(keyNumber.Add(1))).judge(verb, state, fence, want)
				})
			}
		}
	})
}

// fenceOf is the fence that belongs to a record's state when nothing went wrong.
func fenceOf(state string) string {
	switch {
	case state == "absent" || strings.HasPrefix(state, "mine l"):
		return map[string]string{"absent": "mine", "mine live": "mine", "mine lapsed": "mine lapsed"}[state]
	case state == "mine bare":
		return "mine"
	case state == "mine stepped":
		return "mine stepped"
	case state == "other live":
		return "as the record's"
	case state == "other stepped":
		return "as the record's, stepped"
	case strings.HasPrefix(state, "mine"):
		return "mine cleared"
	case state == "other lapsed":
		return "other lapsed"
	}
	return "other cleared"
}

// judge sets the states up, runs the verb and holds what it left against what is wanted. Then the verb's
// request runs again, late: whatever it answers, it must leave what is there as it is, but for what P5 names.
func (s *setting) judge(verb, state, fence string, want expectation) {
	t := s.t
	t.Helper()
	before, exists := stand(state, s.now)
	s.put(s.names.Record, before, exists)
	var fenceBefore record
	if s.names.Fence != "" {
		var there bool
		fenceBefore, there = standFence(fence, s.now, s.names)
		s.put(s.names.Fence, fenceBefore, there)
	}
	recordWas, fenceWas := s.get(s.names.Record), ""
	if s.names.Fence != "" {
		fenceWas = s.get(s.names.Fence)
	}

	k := verbs[verb](s)
	if got := s.send(k).code; got != want.reply {
		t.Fatalf("replied %d, want %d", got, want.reply)
	}
	s.left("record", s.names.Record, recordWas, before, want.record, max(before.token, fenceBefore.token))
	if s.names.Fence != "" && want.fence != "" {
		s.left("fence", s.names.Fence, fenceWas, fenceBefore, want.fence, max(before.token, fenceBefore.token))
	}
	recordIs := s.get(s.names.Record)
	again := verbs[verb](s)
	s.send(again)
	if now := s.get(s.names.Record); now != recordIs && verb != "renew" {
		t.Errorf("a copy of the request changed the record\nfrom %q\nto   %q", recordIs, now)
	}
}

// left checks one Redis key after a verb.
func (s *setting) left(what, name, was string, before record, want string, highest Token) {
	t := s.t
	t.Helper()
	is := s.get(name)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: want %q: %s\nwas %q\nis  %q", what, want, fmt.Sprintf(format, args...), was, is)
	}
	if want == "cleared" && before.state == stateReleased {
		want = "same" // it was before
	}
	if want == "same" || want == gone || want == "gone" {
		if want != "same" && is != "" {
			fail("something is there")
		} else if is != was {
			fail("it changed")
		}
		return
	}
	after, err := decodeRecord(is, true)
	if err != nil {
		fail("%v", err)
		return
	}
	ttl := s.rdb.PTTL(t.Context(), name).Val()
	least := kept
	near := func(got, want time.Duration) bool { return got > want-2*time.Second && got < want+2*time.Second }
	expect := before // what must be there, field by field
	expect.mark = after.mark
	if expect.mark == 0 {
		expect.mark = '0'
	}
	wantMark := byte('0')
	verb, arg, _ := strings.Cut(want, " ")
	switch verb {
	case "grant", "held":
		if after.token <= highest || after.token < Token(s.now.Microseconds()) {
			fail("the token is not above %d and the clock", highest)
		}
		if !near(after.end-s.now, lent) || after.length != lent || !near(after.maximum-s.now, time.Hour) {
			fail("the lease is not a whole one")
		}
		expect.state, expect.owner, expect.bound = stateInProgress, mine, true
		expect.token, expect.end, expect.length, expect.maximum = after.token, after.end, after.length, after.maximum
		if verb == "held" {
			expect.attempt, expect.fingerprint, expect.data, expect.checkpointed = 0, nil, []byte(s.names.Record), true
		} else {
			fmt.Sscan(arg, &expect.attempt)
			expect.fingerprint = after.fingerprint
		}
		least += lent
	case "cut":
		if !near(after.end-s.now, lent) || after.end-s.now > lent+time.Second {
			fail("the end is %v away, the lease has %v", after.end-s.now, lent)
		}
		expect.end, expect.length, least = after.end, after.length, 0
	case "renewed":
		if !near(after.end-s.now, lent) || after.length > lent || after.length <= lent-2*time.Second {
			fail("the end is %v away, the length %v", after.end-s.now, after.length)
		}
		expect.end, expect.length = after.end, after.length
		least += lent
	case "saved":
		expect.data, expect.sequence, least = []byte("further"), 4, 0
	case "done":
		expect = record{state: arg[0], owner: mine, token: minted, mark: '0', attempt: 2, bound: true, fingerprint: []byte("fp"), end: after.end, data: []byte("result")}
		if !near(after.end, s.now) {
			fail("finished at %v, it is %v", after.end, s.now)
		}
	case "released", "uncounted":
		expect.state = stateReleased
		if verb == "uncounted" {
			expect.attempt--
		}
	case "cleared":
		expect.state = stateReleased
	case "tombstone":
		if after.token <= highest {
			fail("the token was not raised over %d", highest)
		}
		owner := before.owner
		if owner == "" {
			owner = mine
		}
		expect = record{state: stateReleased, owner: owner, token: after.token, mark: '0', end: after.end}
		least = buried
	case "settled":
		if after.token <= highest {
			fail("the token was not raised over %d", highest)
		}
		expect.token, expect.state = after.token, arg[0]
		if arg == "c" {
			expect.end, expect.length, expect.maximum = after.end, 0, 0
			expect.data, expect.sequence, expect.checkpointed = []byte("result"), 0, false
		}
	case "marked":
		wantMark, least = '2', 0
	default:
		t.Fatalf("no such expectation: %q", want)
	}
	if after.mark != wantMark {
		fail("the mark is %c, not %c", after.mark, wantMark)
	}
	if expect.encode() != is {
		fail("it should be\n    %q", expect.encode())
	}
	if least == 0 {
		if !near(ttl, time.Hour) {
			fail("the TTL changed to %v", ttl)
		}
	} else if !near(ttl, least) {
		fail("the TTL is %v, not %v", ttl, least)
	}
}

func TestEveryVerbIsInTheTable(t *testing.T) {
	for verb := range verbs {
		if len(table[verb]) == 0 {
			t.Errorf("%q has no rows", verb)
		}
	}
	for _, s := range scripts.All() {
		found := s == scripts.Confirm // no verb of the table: it only saves work
		for _, build := range verbs {
			c, _ := New(redis.NewClient(&redis.Options{}))
			n := &setting{t: t, c: c, key: Key{ID: "x"}, names: keyname.Namer{Prefix: "p"}.Names("", "x", "")}
			found = found || build(n).script == s
		}
		if !found {
			t.Errorf("script %s is in no verb of the table", s.Verb)
		}
	}
}
