package model

import "fmt"

// Situations that an exploration should meet.
const (
	metTakeover         = "takeover"
	metFailoverTakeover = "takeover after a failover"
	metLostGrant        = "grant after a failover lost one"
	metReplacedGrant    = "grant beside one of a replaced master"
	metEqualTokens      = "equal tokens of two owners"
	metLateCopy         = "late copy after a takeover after a failover"
	metReplay           = "replay"
	metRestored         = "result written anew"
	metExpired          = "expired"
	metResolved         = "resolved"
	metTombstone        = "tombstone of a claim given back"
	metOldKey           = "old key refused over such a tombstone"
)

// situations counts what an exploration must have met to be worth its name.
func (v *visit) situations(current *grant) {
	w := v.w
	if current != nil && current.owner != int8(v.q.Owner) {
		v.note(metTakeover)
	}
	if w.phase == replaced {
		for i := range w.granted {
			g := &w.grants[i]
			lost := v.n.made>>i&1 == 0 && v.n.domain(g.key) == v.n.domain(v.key)
			if lost && !g.stale {
				v.note(metLostGrant)
			}
			if lost && g.stale {
				v.note(metReplacedGrant)
			}
			if lost && g.token == v.reply.Record.Token && g.owner != int8(v.q.Owner) {
				v.note(metEqualTokens)
			}
		}
		if current != nil && current.node == 0 {
			v.note(metFailoverTakeover)
			v.n.takenOver = true
		}
	}
}

// judge checks what must hold in every state.
func (x *explorer) judge(w *world) string {
	n := &w.nodes[w.serving()]
	ms := x.p.millis(n.Clock)
	for k := range x.Keys {
		if a := &n.answer[k]; a.state != Absent && (n.Records[k].State != a.state || n.Records[k].Data != a.data) {
			return fmt.Sprintf("P4: the result of %c, kept until %d, is gone at %d", 'a'+k, a.until, ms)
		}
	}
	for i := range w.granted {
		g := &w.grants[i]
		if c := n.current[n.domain(g.key)]; c > 0 {
			h := &w.grants[c-1]
			if h.token == g.token && h.owner == g.owner && h.key == g.key {
				continue
			}
		}
		slot := Slot{Record: n.Records[g.key], Fence: n.Fence, Shared: n.Shared}
		q := Request{
			Key: int32(g.key), Owner: int32(g.owner), Token: g.token, Length: x.Length, Retention: x.Retention,
			Sequence: 100, Data: 99, Outcome: Failed,
		}
		if n.Shared {
			q.End = ms + 1 // apart from a resource, what is lost may be written anew by whom it was granted to
		}
		for _, q.Verb = range [...]Verb{FenceCheck, Renew, Checkpoint, Complete, Release} {
			if after, reply := x.p.Run(slot, n.Clock, &q); after != slot || q.Verb == FenceCheck && reply.Code == OK {
				return fmt.Sprintf("P1, P3: the grant of caller %d with token %d is not the current one, and its %s would go through", g.owner+1, g.token, q.Verb)
			}
		}
	}
	return ""
}

// admit lets a sink outside Redis judge a grant by the highest it has admitted.
func (x *explorer) admit(w *world, i int8) {
	c, s := &w.callers[i], &w.sink
	d := w.nodes[0].domain(c.key)
	if c.token < s.token[d] || c.token == s.token[d] && s.owner[d] != i+1 {
		return // refused
	}
	var g int8
	for j := range w.granted {
		if w.grants[j].owner == i && w.grants[j].token == c.token {
			g = j + 1
		}
	}
	if newer := s.grant[d]; newer > g && g > 0 {
		a, b := &w.grants[g-1], &w.grants[newer-1]
		limits := a.stale || b.stale || w.stepped&steppedBack != 0 || a.node != b.node && b.at-a.at <= a.offset-b.offset
		if !limits {
			x.broken = fmt.Sprintf("P3: a sink that had admitted token %d admits the older grant with token %d", b.token, a.token)
		}
	}
	s.token[d], s.owner[d], s.grant[d] = c.token, i+1, g
	x.done(w, "caller %d writes to the sink elsewhere with token %d", i+1, c.token)
}
