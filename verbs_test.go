package coordinator

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/model"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/scripts"
)

// The table of states and verbs, cell by cell, with and without a resource, on miniredis and on a real
// server: the reply, the record and the fence afterwards, and what is left of their TTLs.

const (
	mine   = "11111111111111111111111111111111"
	theirs = "22222222222222222222222222222222"
	minted = 1_700_000_000_000_000 // an older token of ours: below any clock
	later  = minted + 5            // theirs
	lent   = time.Minute           // a lease with its grace
	kept   = 24 * time.Hour
	buried = 2 * time.Hour // what a tombstone stays
)

// granted is the head of a record that is mine.
var granted = protocol.Head(mine, minted)

// stand makes the record of a state as of the server's clock.
func stand(state string, now time.Duration) (protocol.Record, bool) {
	r := protocol.Record{
		State: protocol.StateInProgress, Owner: mine, Token: minted, Attempt: 2, Bound: true, Fingerprint: []byte("fp"),
		End: now + 30*time.Second, Length: lent, Maximum: now + time.Hour, Data: []byte("so far"), Sequence: 3, Checkpointed: true,
	}
	finish := func(state byte, payload string) {
		r.State, r.End, r.Length, r.Maximum = state, now-time.Second, 0, 0
		r.Data, r.Sequence, r.Checkpointed = []byte(payload), 0, false
	}
	who, what, _ := strings.Cut(state, " ")
	switch who {
	case "other":
		r.Owner, r.Token = theirs, later
	case "equal": // after a failover, by clocks apart
		r.Owner = theirs
	}
	switch what {
	case "live":
	case "bare": // as the claim left it
		r.Data, r.Sequence, r.Checkpointed = nil, 0, false
	case "stepped": // the clock was stepped back by an hour
		r.End, r.Maximum = r.End+time.Hour, r.Maximum+time.Hour
	case "lapsed":
		r.End = now - time.Second
	case "released":
		r.State = protocol.StateReleased
	case "tombstone", "given back": // of expire, of a give back where there was nothing
		r.State, r.Attempt, r.Bound, r.Fingerprint = protocol.StateReleased, 0, false, nil
		r.End, r.Length, r.Maximum = now, 0, 0
		r.Data, r.Sequence, r.Checkpointed = nil, 0, false
		if what == "given back" {
			r.Maximum = ms(model.GivenBack)
		}
	case "completed":
		finish(protocol.StateCompleted, "result")
	case "completed otherwise":
		finish(protocol.StateCompleted, "another result")
	case "failed":
		finish(protocol.StateFailed, "result")
	default:
		return protocol.Record{}, false
	}
	return r, true
}

// standFence makes the fence of a state; it names the record that holds it.
func standFence(state string, now time.Duration, n keyname.Names) (protocol.Record, bool) {
	r := protocol.Record{
		State: protocol.StateInProgress, Owner: mine, Token: minted, Bound: true, End: now + 30*time.Second, Length: lent,
		Maximum: now + time.Hour, Data: []byte(n.Record), Checkpointed: true,
	}
	if strings.HasPrefix(state, "other") {
		r.Owner, r.Token, r.Data = theirs, later+1, []byte(n.Record+"x")
	}
	switch state {
	case "mine", "other":
	case "mine stepped", "other stepped":
		r.End, r.Maximum = r.End+time.Hour, r.Maximum+time.Hour
	case "mine lapsed", "other lapsed":
		r.End = now - time.Second
	case "mine cleared", "other cleared":
		r.State = protocol.StateReleased
	case "as the record's": // the other one of the record holds it
		r.Owner, r.Token = theirs, later
	case "as the record's, stepped":
		r.Owner, r.Token = theirs, later
		r.End, r.Maximum = r.End+time.Hour, r.Maximum+time.Hour
	default:
		return protocol.Record{}, false
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

func (s *setting) put(name string, r protocol.Record, exists bool) {
	s.t.Helper()
	if !exists {
		s.rdb.Del(s.t.Context(), name)
		return
	}
	if err := s.rdb.Set(s.t.Context(), name, r.Encode(), time.Hour).Err(); err != nil {
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

func (s *setting) send(k *call) *protocol.Reply {
	s.t.Helper()
	s.c.run(s.t.Context(), k)
	if k.Err != nil {
		s.t.Fatalf("%s: %v", k.Script.Verb, k.Err)
	}
	return &k.Reply
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
	"claim of an old key": func(s *setting) *call {
		old := time.UnixMilli((s.now - kept).Milliseconds() - 1)
		return s.c.claimCall(&claim{key: s.key, names: s.names, request: request{owner: mine, fingerprint: []byte("fp"), issuedAt: old, lease: 50 * time.Second, grace: 10 * time.Second, lifetime: time.Hour}})
	},
	"renew": func(s *setting) *call { return s.lease().renewCall(true) },
	"checkpoint": func(s *setting) *call {
		return s.held(protocol.Checkpoint(s.names, granted, 4, []byte("further")))
	},
	"checkpoint again": func(s *setting) *call {
		return s.held(protocol.Checkpoint(s.names, granted, 3, []byte("so far")))
	},
	"checkpoint too late": func(s *setting) *call {
		return s.held(protocol.Checkpoint(s.names, granted, 3, []byte("further")))
	},
	"complete":               func(s *setting) *call { return s.complete('c', s.now+30*time.Second) },
	"complete after the end": func(s *setting) *call { return s.complete('c', s.now-time.Second) },
	"fail":                   func(s *setting) *call { return s.complete('f', s.now+30*time.Second) },
	"release":                func(s *setting) *call { return s.held(protocol.Release(s.names, granted, kept)) },
	"give back":              func(s *setting) *call { return s.held(protocol.GiveBack(s.names, mine, kept, buried)) },
	"expire": func(s *setting) *call {
		return s.held(protocol.Expire(s.names, &protocol.Record{Owner: mine, Token: minted}, mine, buried, kept))
	},
	"resolve to rerun":  func(s *setting) *call { return s.resolve('r', "") },
	"resolve to result": func(s *setting) *call { return s.resolve('c', "result") },
	"mark": func(s *setting) *call {
		return s.held(protocol.Mark(s.names.Record, '2'))
	},
	"fence": func(s *setting) *call {
		return s.held(protocol.Fenced(scripts.FenceDo, granted, []string{s.names.Guard(), "v{" + s.names.Tag + "}"}, []any{"set", "written"}))
	},
	"inspect": func(s *setting) *call {
		return s.held(protocol.Inspect(s.names, true))
	},
	"confirm": func(s *setting) *call {
		return s.held(protocol.Confirm(s.names, &protocol.Record{Owner: mine, Token: minted}))
	},
}

func (s *setting) lease() *Lease {
	g := Grant{minted, mine}
	return &Lease{c: s.c, key: s.key, names: s.names, grant: g, head: g.head(), attempt: 2, lease: 50 * time.Second, grace: 10 * time.Second}
}

func (s *setting) held(q protocol.Request) *call { return newCall(s.key, mine, q) }

func (s *setting) complete(outcome byte, end time.Duration) *call {
	return s.held(protocol.Complete(s.names, protocol.CompleteArgs{
		Record: protocol.Record{
			State: outcome, Owner: mine, Token: minted, Attempt: 2, Bound: true, Fingerprint: []byte("fp"), End: end - time.Second, Data: []byte("result"),
		},
		Retention: kept, End: end,
	}))
}

func (s *setting) resolve(to byte, payload string) *call {
	return s.held(protocol.Resolve(s.names, &protocol.Record{Owner: mine, Token: minted}, to, []byte(payload), kept))
}

// What a verb leaves, in few words. "same" is byte for byte.
//
//	grant N      in progress under "mine" with a token above all, attempt N, a whole lease
//	renewed      the same grant with a later end
//	saved        the same with the new checkpoint
//	done c/f     finished by "mine" under its own token
//	released     the same record, released
//	tombstone    released, attempt 0, bound to nothing, token raised; "of a give back" says so
//	settled r/c  as resolve leaves it: token raised
//	marked       the same with the mark
//	confirmed    the same with the note that replicas have it
type expectation struct {
	reply  protocol.Code
	record string
	fence  string // with a resource and its fence as in the row
}

const gone = ""

// table has a line for each verb and state: the reply and what is left. Rows that a resource changes stand in
// withResource.
var table = map[string]map[string]expectation{
	"claim": {
		"absent": {protocol.OK, "grant 1", "held"}, "mine live": {protocol.OK, "same", "same"}, "mine lapsed": {protocol.Over, "same", "same"},
		"mine stepped": {protocol.OK, "cut", "cut"}, "other stepped": {protocol.InProgress, "cut", "cut"},
		"mine completed": {protocol.Finished, "same", "same"}, "mine failed": {protocol.Finished, "same", "same"}, "mine released": {protocol.Over, "same", "same"},
		"other live": {protocol.InProgress, "same", "same"}, "other lapsed": {protocol.OK, "grant 3", "held"}, "other released": {protocol.OK, "grant 3", "held"},
		"other completed": {protocol.Finished, "same", "same"}, "other failed": {protocol.Finished, "same", "same"}, "other tombstone": {protocol.OK, "grant 1", "held"},
		"mine tombstone": {protocol.Over, "same", "same"}, "other given back": {protocol.OK, "grant 1", "held"}, "mine given back": {protocol.Over, "same", "same"},
	},
	"claim of an old key": {
		"absent": {protocol.KeyExpired, gone, "same"}, "mine live": {protocol.OK, "same", "same"}, "mine lapsed": {protocol.Over, "same", "same"},
		"mine completed": {protocol.Finished, "same", "same"}, "mine failed": {protocol.Finished, "same", "same"}, "mine released": {protocol.Over, "same", "same"},
		"mine tombstone": {protocol.Over, "same", "same"}, "mine given back": {protocol.Over, "same", "same"}, "other live": {protocol.InProgress, "same", "same"},
		"other lapsed": {protocol.OK, "grant 3", "held"}, "other released": {protocol.OK, "grant 3", "held"}, "other completed": {protocol.Finished, "same", "same"},
		"other failed": {protocol.Finished, "same", "same"}, "other tombstone": {protocol.OK, "grant 1", "held"}, "other given back": {protocol.KeyExpired, "same", "same"},
	},
	"claim with another fingerprint": {
		"absent": {protocol.OK, "grant 1", "held"}, "mine live": {protocol.Mismatch, "same", "same"}, "mine lapsed": {protocol.Mismatch, "same", "same"},
		"other live": {protocol.Mismatch, "same", "same"}, "other lapsed": {protocol.Mismatch, "same", "same"}, "other released": {protocol.Mismatch, "same", "same"},
		"other completed": {protocol.Mismatch, "same", "same"}, "other failed": {protocol.Mismatch, "same", "same"}, "other tombstone": {protocol.OK, "grant 1", "held"},
	},
	"claim in quarantine": {
		"absent": {protocol.OK, "grant 1", "held"}, "other live": {protocol.InProgress, "same", "same"}, "other lapsed": {protocol.Uncertain, "same", "same"},
		"mine lapsed": {protocol.Over, "same", "same"}, "other released": {protocol.OK, "grant 3", "held"}, "other completed": {protocol.Finished, "same", "same"},
	},
	"renew": {
		"absent": {protocol.Lost, gone, "same"}, "mine live": {protocol.OK, "renewed", "renewed"}, "mine stepped": {protocol.OK, "renewed", "renewed"},
		"mine lapsed": {protocol.Lost, "same", "same"}, "mine completed": {protocol.Stale, "same", "same"}, "mine failed": {protocol.Stale, "same", "same"},
		"mine released": {protocol.Stale, "same", "same"}, "other live": {protocol.Stale, "same", "same"}, "other lapsed": {protocol.Stale, "same", "same"},
		"other released": {protocol.Stale, "same", "same"}, "other completed": {protocol.Stale, "same", "same"}, "other tombstone": {protocol.Stale, "same", "same"},
	},
	"checkpoint": {
		"absent": {protocol.Lost, gone, "same"}, "mine live": {protocol.OK, "saved", "same"}, "mine lapsed": {protocol.OK, "saved", "same"},
		"mine completed": {protocol.Stale, "same", "same"}, "mine released": {protocol.Stale, "same", "same"}, "other live": {protocol.Stale, "same", "same"},
		"other lapsed": {protocol.Stale, "same", "same"}, "other tombstone": {protocol.Stale, "same", "same"}, "other completed": {protocol.Stale, "same", "same"},
	},
	"checkpoint again":    {"mine live": {protocol.OK, "same", "same"}, "mine lapsed": {protocol.OK, "same", "same"}},
	"checkpoint too late": {"mine live": {protocol.Stale, "same", "same"}, "mine lapsed": {protocol.Stale, "same", "same"}},
	"complete": {
		"absent": {protocol.Restored, "done c", "cleared"}, "mine bare": {protocol.OK, "done c", "cleared"}, "mine live": {protocol.OK, "done c", "cleared"}, "mine lapsed": {protocol.OK, "done c", "cleared"},
		"mine completed": {protocol.OK, "same", "same"}, "mine completed otherwise": {protocol.Finished, "same", "same"}, "mine failed": {protocol.Finished, "same", "same"},
		"mine released": {protocol.Stale, "same", "same"}, "other live": {protocol.Stale, "same", "same"}, "other lapsed": {protocol.Stale, "same", "same"},
		"other released": {protocol.Stale, "same", "same"}, "other completed": {protocol.Stale, "same", "same"}, "other tombstone": {protocol.Stale, "same", "same"},
	},
	"complete after the end": {"absent": {protocol.Lost, gone, "same"}, "mine lapsed": {protocol.OK, "done c", "cleared"}},
	"fail": {
		"absent": {protocol.Restored, "done f", "cleared"}, "mine bare": {protocol.OK, "done f", "cleared"}, "mine live": {protocol.OK, "done f", "cleared"}, "mine lapsed": {protocol.OK, "done f", "cleared"},
		"mine failed": {protocol.OK, "same", "same"}, "mine completed": {protocol.Finished, "same", "same"}, "mine released": {protocol.Stale, "same", "same"},
		"other live": {protocol.Stale, "same", "same"}, "other completed": {protocol.Stale, "same", "same"},
	},
	"release": {
		"absent": {protocol.OK, gone, "same"}, "mine live": {protocol.OK, "released", "cleared"}, "mine lapsed": {protocol.OK, "released", "cleared"},
		"mine completed": {protocol.OK, "same", "same"}, "mine failed": {protocol.OK, "same", "same"}, "mine released": {protocol.OK, "same", "same"},
		"other live": {protocol.OK, "same", "same"}, "other lapsed": {protocol.OK, "same", "same"}, "other completed": {protocol.OK, "same", "same"},
		"other released": {protocol.OK, "same", "same"}, "other tombstone": {protocol.OK, "same", "same"},
	},
	"give back": {
		"absent": {protocol.OK, "tombstone of a give back", "cleared"}, "mine live": {protocol.OK, "uncounted", "cleared"}, "mine lapsed": {protocol.OK, "uncounted", "cleared"},
		"mine completed": {protocol.OK, "same", "same"}, "mine failed": {protocol.OK, "same", "same"}, "mine released": {protocol.OK, "same", "same"},
		"mine given back": {protocol.OK, "same", "same"}, "other given back": {protocol.OK, "same", "same"},
		"mine tombstone": {protocol.OK, "same", "same"}, "other live": {protocol.OK, "same", "same"}, "other lapsed": {protocol.OK, "same", "same"},
		"other released": {protocol.OK, "same", "same"}, "other completed": {protocol.OK, "same", "same"}, "other tombstone": {protocol.OK, "same", "same"},
	},
	"expire": {
		"absent": {protocol.OK, "tombstone", "cleared"}, "mine live": {protocol.OK, "tombstone", "cleared"}, "mine lapsed": {protocol.OK, "tombstone", "cleared"},
		"mine completed": {protocol.OK, "tombstone", "cleared"}, "mine failed": {protocol.OK, "tombstone", "cleared"}, "mine released": {protocol.OK, "tombstone", "cleared"},
		"other live": {protocol.OK, "same", "same"}, "other lapsed": {protocol.OK, "same", "same"}, "other completed": {protocol.OK, "same", "same"},
		"other released": {protocol.OK, "same", "same"}, "other tombstone": {protocol.OK, "same", "same"},
		"equal live": {protocol.OK, "same", "same"}, "equal lapsed": {protocol.OK, "same", "same"}, "equal completed": {protocol.OK, "same", "same"},
		"equal released": {protocol.OK, "same", "same"}, "equal tombstone": {protocol.OK, "same", "same"}, "mine given back": {protocol.OK, "tombstone", "cleared"},
	},
	"resolve to rerun": {
		"absent": {protocol.Absent, gone, "same"}, "mine live": {protocol.InProgress, "same", "same"}, "mine lapsed": {protocol.OK, "settled r", "cleared"},
		"mine completed": {protocol.Finished, "same", "same"}, "mine failed": {protocol.Finished, "same", "same"}, "mine released": {protocol.OK, "same", "same"},
		"other live": {protocol.InProgress, "same", "same"}, "other lapsed": {protocol.MovedOn, "same", "same"}, "other released": {protocol.OK, "same", "same"},
		"other completed": {protocol.Finished, "same", "same"}, "other tombstone": {protocol.OK, "same", "same"}, "equal lapsed": {protocol.MovedOn, "same", "same"},
	},
	"resolve to result": {
		"absent": {protocol.Absent, gone, "same"}, "mine live": {protocol.InProgress, "same", "same"}, "mine lapsed": {protocol.OK, "settled c", "cleared"},
		"mine completed": {protocol.OK, "same", "same"}, "mine completed otherwise": {protocol.Finished, "same", "same"}, "mine failed": {protocol.Finished, "same", "same"},
		"mine released": {protocol.Absent, "same", "same"}, "other live": {protocol.InProgress, "same", "same"}, "other lapsed": {protocol.MovedOn, "same", "same"},
		"other released": {protocol.Absent, "same", "same"}, "other completed": {protocol.OK, "same", "same"}, "other tombstone": {protocol.Absent, "same", "same"},
		"equal lapsed": {protocol.MovedOn, "same", "same"},
	},
	"mark": {
		"absent": {protocol.MovedOn, gone, "same"}, "mine live": {protocol.InProgress, "marked", "same"}, "mine lapsed": {protocol.MovedOn, "same", "same"},
		"mine completed": {protocol.MovedOn, "same", "same"}, "mine released": {protocol.MovedOn, "same", "same"}, "other live": {protocol.InProgress, "marked", "same"},
		"other lapsed": {protocol.MovedOn, "same", "same"}, "other tombstone": {protocol.MovedOn, "same", "same"},
	},
	"fence": {
		"absent": {protocol.Stale, gone, ""}, "mine live": {protocol.OK, "same", ""}, "mine lapsed": {protocol.OK, "same", ""}, "mine completed": {protocol.Stale, "same", ""},
		"mine failed": {protocol.Stale, "same", ""}, "mine released": {protocol.Stale, "same", ""}, "other live": {protocol.Stale, "same", ""},
		"other lapsed": {protocol.Stale, "same", ""}, "other completed": {protocol.Stale, "same", ""}, "other tombstone": {protocol.Stale, "same", ""},
	},
	"inspect": {
		"absent": {protocol.Absent, gone, "same"}, "mine live": {protocol.OK, "same", "same"}, "mine lapsed": {protocol.OK, "same", "same"},
		"mine completed": {protocol.OK, "same", "same"}, "mine released": {protocol.OK, "same", "same"}, "other tombstone": {protocol.OK, "same", "same"},
	},
	"confirm": {
		"absent": {protocol.OK, gone, "same"}, "mine live": {protocol.OK, "same", "same"}, "mine released": {protocol.OK, "same", "same"},
		"mine completed": {protocol.OK, "confirmed", "same"}, "mine failed": {protocol.OK, "confirmed", "same"}, "other completed": {protocol.OK, "same", "same"},
	},
}

// withResource has what a fence changes: "record state / fence state" of each verb. "mine" holder verbs need the fence's pair too.
var withResource = map[string]map[string]expectation{
	"claim": {
		"absent / other stepped": {protocol.Blocked, gone, "cut"},
		"absent / other":         {protocol.Blocked, gone, "same"}, "absent / other lapsed": {protocol.OK, "grant 1", "held"}, "absent / other cleared": {protocol.OK, "grant 1", "held"},
		"absent / gone": {protocol.OK, "grant 1", "held"}, "absent / mine": {protocol.OK, "grant 1", "held"},
		"other lapsed / other": {protocol.Blocked, "same", "same"}, "other released / other": {protocol.Blocked, "same", "same"},
		"other completed / other": {protocol.Finished, "same", "same"}, "other live / other": {protocol.InProgress, "same", "same"},
		"mine live / gone": {protocol.Over, "same", "gone"}, "mine live / other": {protocol.Over, "same", "same"}, "mine live / mine cleared": {protocol.Over, "same", "same"},
		"other tombstone / other": {protocol.Blocked, "same", "same"}, "other lapsed / gone": {protocol.OK, "grant 3", "held"},
		"other given back / other": {protocol.Blocked, "same", "same"},
	},
	"claim of an old key": {
		"absent / gone": {protocol.KeyExpired, gone, "gone"}, "absent / other": {protocol.Blocked, gone, "same"}, "absent / other cleared": {protocol.KeyExpired, gone, "same"},
		"other given back / gone": {protocol.KeyExpired, "same", "gone"}, "other given back / other": {protocol.Blocked, "same", "same"},
		"other given back / other lapsed": {protocol.KeyExpired, "same", "same"}, "other tombstone / gone": {protocol.OK, "grant 1", "held"},
	},
	"renew": {
		"mine live / gone": {protocol.Lost, "same", "gone"}, "mine live / other": {protocol.Stale, "same", "same"}, "mine live / mine cleared": {protocol.Stale, "same", "same"},
		"mine live / other lapsed": {protocol.Stale, "same", "same"},
	},
	"checkpoint": {"mine live / gone": {protocol.Lost, "same", "gone"}, "mine live / other": {protocol.Stale, "same", "same"}},
	"complete": {
		"absent / other": {protocol.Stale, gone, "same"}, "absent / mine cleared": {protocol.Stale, gone, "same"}, "absent / gone": {protocol.Lost, gone, "gone"},
		"mine live / gone":  {protocol.Lost, "same", "gone"},
		"mine live / other": {protocol.Stale, "same", "same"}, "mine lapsed / other lapsed": {protocol.Stale, "same", "same"}, "mine completed / other": {protocol.OK, "same", "same"},
	},
	"fail":      {"absent / gone": {protocol.Lost, gone, "gone"}, "mine live / other": {protocol.Stale, "same", "same"}},
	"release":   {"mine live / gone": {protocol.OK, "same", "gone"}, "mine live / other": {protocol.OK, "same", "same"}},
	"give back": {"mine live / gone": {protocol.OK, "same", "gone"}, "mine live / other": {protocol.OK, "same", "same"}, "absent / other": {protocol.OK, "tombstone of a give back", "same"}, "absent / gone": {protocol.OK, "tombstone of a give back", "gone"}},
	"expire": {
		"mine live / other": {protocol.OK, "tombstone", "same"}, "mine live / gone": {protocol.OK, "tombstone", "gone"},
		"mine live / mine cleared": {protocol.OK, "tombstone", "same"}, "absent / other": {protocol.OK, "tombstone", "same"},
	},
	"resolve to result": {"mine lapsed / other": {protocol.OK, "settled c", "same"}, "mine lapsed / gone": {protocol.OK, "settled c", "gone"}},
	"resolve to rerun":  {"mine lapsed / other": {protocol.OK, "settled r", "same"}},
	"fence": {
		"mine live / gone": {protocol.Stale, "same", "gone"}, "mine live / other": {protocol.Stale, "same", "same"}, "mine live / mine cleared": {protocol.Stale, "same", "same"},
		"absent / mine": {protocol.OK, gone, "same"}, "mine live / mine lapsed": {protocol.OK, "same", "same"},
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
	var fenceBefore protocol.Record
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
	if got := s.send(k).Code; got != want.reply {
		t.Fatalf("replied %d, want %d", got, want.reply)
	}
	s.left("record", s.names.Record, recordWas, before, want.record, max(before.Token, fenceBefore.Token))
	if s.names.Fence != "" && want.fence != "" {
		s.left("fence", s.names.Fence, fenceWas, fenceBefore, want.fence, max(before.Token, fenceBefore.Token))
	}
	recordIs := s.get(s.names.Record)
	again := verbs[verb](s)
	s.send(again)
	if now := s.get(s.names.Record); now != recordIs && verb != "renew" {
		t.Errorf("a copy of the request changed the record\nfrom %q\nto   %q", recordIs, now)
	}
}

// left checks one Redis key after a verb.
func (s *setting) left(what, name, was string, before protocol.Record, want string, highest int64) {
	t := s.t
	t.Helper()
	is := s.get(name)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: want %q: %s\nwas %q\nis  %q", what, want, fmt.Sprintf(format, args...), was, is)
	}
	if want == "cleared" && before.State == protocol.StateReleased {
		want = "same" // it was before
	}
	ttl := s.rdb.PTTL(t.Context(), name).Val()
	near := func(got, want time.Duration) bool { return got > want-2*time.Second && got < want+2*time.Second }
	if want == "same" || want == gone || want == "gone" {
		if want != "same" && is != "" {
			fail("something is there")
		} else if is != was {
			fail("it changed")
		} else if is != "" && !near(ttl, time.Hour) {
			fail("the TTL changed to %v", ttl)
		}
		return
	}
	after, err := protocol.DecodeRecord(is, true)
	if err != nil {
		fail("%v", err)
		return
	}
	least := kept
	expect := before // what must be there, field by field
	expect.Mark = after.Mark
	if expect.Mark == 0 {
		expect.Mark = '0'
	}
	wantMark := byte('0')
	verb, arg, _ := strings.Cut(want, " ")
	switch verb {
	case "grant", "held":
		if after.Token <= highest || after.Token < s.now.Microseconds() {
			fail("the token is not above %d and the clock", highest)
		}
		if !near(after.End-s.now, lent) || after.Length != lent || !near(after.Maximum-s.now, time.Hour) {
			fail("the lease is not a whole one")
		}
		expect.State, expect.Owner, expect.Bound = protocol.StateInProgress, mine, true
		expect.Token, expect.End, expect.Length, expect.Maximum = after.Token, after.End, after.Length, after.Maximum
		if verb == "held" {
			expect.Attempt, expect.Fingerprint, expect.Data, expect.Checkpointed = 0, nil, []byte(s.names.Record), true
		} else {
			fmt.Sscan(arg, &expect.Attempt)
			expect.Fingerprint = after.Fingerprint
		}
		least += lent
	case "cut":
		if !near(after.End-s.now, lent) || after.End-s.now > lent+time.Second {
			fail("the end is %v away, the lease has %v", after.End-s.now, lent)
		}
		expect.End, expect.Length, least = after.End, after.Length, 0
	case "renewed":
		if !near(after.End-s.now, lent) || after.Length > lent || after.Length <= lent-2*time.Second {
			fail("the end is %v away, the length %v", after.End-s.now, after.Length)
		}
		expect.End, expect.Length = after.End, after.Length
		least += lent
	case "saved":
		expect.Data, expect.Sequence, least = []byte("further"), 4, 0
	case "done":
		expect = protocol.Record{State: arg[0], Owner: mine, Token: minted, Mark: '0', Attempt: 2, Bound: true, Fingerprint: []byte("fp"), End: after.End, Data: []byte("result")}
		if !near(after.End, s.now) {
			fail("finished at %v, it is %v", after.End, s.now)
		}
	case "released", "uncounted":
		expect.State = protocol.StateReleased
		if verb == "uncounted" {
			expect.Attempt--
		}
	case "cleared":
		expect.State = protocol.StateReleased
	case "tombstone":
		if after.Token <= highest {
			fail("the token was not raised over %d", highest)
		}
		owner := before.Owner
		if owner == "" {
			owner = mine
		}
		expect = protocol.Record{State: protocol.StateReleased, Owner: owner, Token: after.Token, Mark: '0', End: after.End}
		if arg != "" {
			expect.Maximum = ms(model.GivenBack)
		}
		least = buried
	case "settled":
		if after.Token <= highest {
			fail("the token was not raised over %d", highest)
		}
		expect.Token, expect.State = after.Token, arg[0]
		if arg == "c" {
			expect.End, expect.Length, expect.Maximum = after.End, 0, 0
			expect.Data, expect.Sequence, expect.Checkpointed = []byte("result"), 0, false
		}
	case "marked":
		wantMark, least = '2', 0
	case "confirmed":
		wantMark, least = '1', 0
	default:
		t.Fatalf("no such expectation: %q", want)
	}
	if after.Mark != wantMark {
		fail("the mark is %c, not %c", after.Mark, wantMark)
	}
	if expect.Encode() != is {
		fail("it should be\n    %q", expect.Encode())
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
		found := false
		for _, build := range verbs {
			c, _ := New(redis.NewClient(&redis.Options{}))
			n := &setting{t: t, c: c, key: Key{ID: "x"}, names: keyname.Namer{Prefix: "p"}.Names("", "x", "")}
			found = found || build(n).Script == s
		}
		if !found {
			t.Errorf("script %s is in no verb of the table", s.Verb)
		}
	}
}
