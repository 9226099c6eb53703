package model

import "fmt"

// run executes a request on a node and, where that is the master now serving, holds what it did against the promises.
func (x *explorer) run(w *world, l *letter, at int, how string) Reply {
	n := &w.nodes[at]
	q := l.Request
	q.Length, q.Lifetime, q.Retention, q.Burial = x.Length, x.Lifetime, x.Retention, x.Burial
	switch q.Verb {
	case Claim:
		q.Print = x.Prints[l.caller]
		last := int(l.caller) == x.Callers-1
		q.Quarantine = x.Quarantine && last
		if x.Old && last {
			q.Issued = -x.Retention
		}
	case Complete:
		q.Print, q.Data = x.Prints[l.caller], int32(l.caller)+1
	case Resolve:
		if q.Outcome == Completed {
			q.Data = 7
		}
	case Checkpoint:
		q.Data = int32(l.caller) + 1
	}
	was := n.Server
	reply := n.Run(&x.p, &q)
	v := visit{x: x, w: w, n: n, l: l, q: &q, reply: &reply, was: &was, key: int8(q.Key), ms: x.p.millis(n.Clock), judged: at == w.serving()}
	v.changed = was.Records != n.Records || was.Fence != n.Fence
	if late := how == onItsWay && n.takenOver; late {
		v.note(metLateCopy)
	}
	v.follow()
	if v.minted {
		if n.minted++; n.minted == perTick {
			panic("a tick has room for more")
		}
		n.Clock++
	}
	if v.wrong != "" && x.broken == "" {
		x.broken = v.wrong
	}
	return reply
}

// visit is one request's execution as the witness sees it.
type visit struct {
	x       *explorer
	w       *world
	n       *node
	l       *letter
	q       *Request
	reply   *Reply
	was     *Server
	key     int8
	ms      int64
	judged  bool // on the master now serving
	changed bool
	minted  bool
	wrong   string
}

func (v *visit) fail(format string, args ...any) {
	if v.judged && v.wrong == "" {
		v.wrong = fmt.Sprintf(format, args...)
	}
}

func (v *visit) note(what string) {
	if v.judged {
		v.x.seen[what]++
	}
}

// current is the grant of the key's domain that nothing has ended; nil when there is none.
func (v *visit) current() *grant {
	if i := v.n.current[v.n.domain(v.key)]; i > 0 {
		return &v.w.grants[i-1]
	}
	return nil
}

func (v *visit) is(g *grant) bool {
	return g != nil && g.token == v.q.Token && g.owner == int8(v.q.Owner) && g.key == v.key
}

func (v *visit) before() *Record { return &v.was.Records[v.key] }

func (v *visit) follow() {
	switch v.q.Verb {
	case Claim:
		v.claim()
	case Renew, Checkpoint, Complete, Release:
		v.holder()
	case FenceCheck:
		if v.reply.Code == OK && !v.is(v.current()) {
			v.fail("P3: a grant that is not the current one passes the fence")
		}
	case GiveBack:
		v.giveBack()
	case Expire, Resolve:
		v.operator()
	}
}

// end notes that the current grant of the domain is over, by something done to its key.
func (v *visit) end() {
	if g := v.current(); g != nil && g.key == v.key {
		v.n.closed[v.key] = g.owner + 1
		v.n.current[v.n.domain(v.key)] = 0
	}
}

func (v *visit) claim() {
	n, before := v.n, v.before()
	print := v.q.Print
	answer := n.answer[v.key]
	// P4, from what was stored and what the key was bound to, whatever the record says.
	switch bound := n.bound[v.key]; {
	case bound != Unbound && bound != print:
		if v.reply.Code != Mismatch {
			v.fail("P4: a claim with another fingerprint is answered %q", v.reply.Code)
		}
		return
	case v.reply.Code == Mismatch:
		v.fail("P4: a claim with the same fingerprint is a mismatch")
		return
	case answer.state != Absent:
		if v.reply.Code != Finished || v.reply.Record.State != answer.state || v.reply.Record.Data != answer.data {
			v.fail("P4: a result is stored, and a claim is answered %q with %d", v.reply.Code, v.reply.Record.Data)
		}
		v.note(metReplay)
		return
	case v.reply.Code == Finished:
		v.fail("P4: a claim is answered with a result that nothing stored")
		return
	}
	if v.reply.Code == KeyExpired {
		if n.ran[v.key] {
			v.fail("P8: a claim is refused for the age of its key, which has a record")
		}
		if before.there() {
			v.note(metOldKey)
		}
	}
	current := v.current()
	own := current != nil && current.owner == int8(v.q.Owner) && current.key == v.key
	if v.reply.Code == Busy || v.reply.Code == Blocked {
		if v.reply.Record.End-v.ms > v.x.Length {
			v.fail("P8: a lease has %d to go, its length is %d", v.reply.Record.End-v.ms, v.x.Length)
		}
		if until := &n.looked[n.domain(v.key)]; *until == 0 {
			*until = v.w.time + v.x.Length
		} else if *until <= v.w.time {
			v.fail("P8: a lease that nobody renewed should have been over at %d", *until)
		}
	}
	guard := before
	if n.Shared {
		guard = &v.was.Fence.Record
	}
	if own && before.there() && guard.End > v.ms && before.End > v.ms {
		if v.reply.Code != OK || v.reply.Record.Token != current.token {
			v.fail("P5: a copy of the claim that holds the lease is answered %q", v.reply.Code)
		}
		return
	}
	if v.reply.Code != OK || own && before.there() && v.reply.Record.Token == before.Token {
		return
	}
	v.granted(current, guard)
}

// granted judges a new grant.
func (v *visit) granted(current *grant, guard *Record) {
	n, w := v.n, v.w
	token := v.reply.Record.Token
	v.minted = true
	if v.judged {
		if v.q.Issued != 0 && !n.ran[v.key] {
			v.fail("P8: a key that is older than the retention is granted, and nothing is known of it")
		}
		if n.closed[v.key] == int8(v.q.Owner)+1 {
			v.fail("P5: a late copy of a claim is granted though its own grant is over")
		}
		if current != nil && current.owner != int8(v.q.Owner) && guard.End > v.ms {
			v.fail("P1: granted while the lease of caller %d goes on until %d", current.owner+1, guard.End)
		}
		for i := range w.granted {
			v.rises(int(i), token)
		}
		for i := range w.callers {
			c := &w.callers[i]
			if current != nil && int(current.owner) == i && int(v.q.Owner) != i && c.state == holding && c.token == current.token &&
				w.time < c.believes && n.offset-current.offset < grace {
				v.fail("P6: granted while caller %d rightly believes to hold the lease until %d", i+1, c.believes)
			}
		}
		v.situations(current)
	}
	if w.granted == maxGrant {
		panic("a scope grants too often")
	}
	i := w.granted
	w.grants[i] = grant{
		owner: int8(v.q.Owner), key: v.key, token: token, at: w.time, offset: n.offset, node: int8(w.nodeOf(n)),
		stale: !v.judged, ahead: token > n.Clock,
	}
	w.granted++
	n.made |= 1 << i
	n.tokens |= 1 << i
	n.current[n.domain(v.key)] = i + 1
	n.looked[n.domain(v.key)] = 0
	n.happens(v.key)
	w.grants[i].version = n.version[v.key]
	n.closed[v.key] = 0
	n.bound[v.key] = v.q.Print
	n.ran[v.key] = true
}

func (w *world) nodeOf(n *node) int {
	if n == &w.nodes[1] {
		return 1
	}
	return 0
}

// rises holds a new token against an older grant (P2).
func (v *visit) rises(i int, token int64) {
	g, n := &v.w.grants[i], v.n
	if n.domain(g.key) != n.domain(v.key) || token > g.token {
		return
	}
	switch {
	case n.tokens>>i&1 == 1:
		v.fail("P2: token %d is granted after %d, which is still known", token, g.token)
	case g.stale: // counts as not made
	case v.w.stepped&steppedBack != 0: // a stated limit: the clock stepped back
	case n.made>>i&1 == 1:
		v.fail("P2: token %d is granted after %d, which was forgotten in its time", token, g.token)
	case g.ahead: // a stated limit: it was ahead of the clock
	case int(g.node) != v.w.nodeOf(n) && v.w.time-g.at <= g.offset-n.offset: // a stated limit: clocks apart by more than that time
	default:
		v.fail("P2: token %d is granted after %d, which was lost", token, g.token)
	}
}

// holder judges what a holder's verb did.
func (v *visit) holder() {
	n, before := v.n, v.before()
	current := v.is(v.current())
	restored := !before.there() && v.q.Verb == Complete
	switch {
	case !v.changed:
	case restored && (current || !n.Shared):
		for i := range v.w.granted {
			if v.is(&v.w.grants[i]) && n.made>>i&1 == 1 {
				v.fail("P5: a late copy of complete writes anew what had ended in its time")
			}
		}
		v.note(metRestored)
	case !current:
		v.fail("P3: %s of a grant that is not the current one changes what is stored", v.q.Verb)
	case v.q.Verb == Renew:
		after := &n.Records[v.key]
		if before.End <= v.ms {
			v.fail("P5: renewed after the lease had ended, when somebody may have been told that it is free")
		}
		if after.End > v.ms+v.x.Length && after.End > before.End || after.End > before.Max {
			v.fail("P8: renewed until %d", after.End)
		}
	}
	if v.q.Verb == Checkpoint && v.changed && before.Sequence >= v.q.Sequence {
		v.fail("P5: an older checkpoint overwrites a newer")
	}
	if r := &n.Records[v.key]; v.q.Verb == Complete && v.reply.Code == OK && (r.State != v.q.Outcome || r.Data != v.q.Data) {
		v.fail("P4: complete says that it stored what it did not")
	}
	if !v.changed {
		return
	}
	switch v.q.Verb {
	case Renew:
		n.looked[n.domain(v.key)] = 0
	case Release:
		v.end()
	case Complete:
		v.end()
		from := v.ms
		if v.q.asClaimed(&Slot{Record: *before, Shared: n.Shared}) { // a late copy's result stays as long as the holder's would have
			from = min(from, before.End)
		}
		n.answer[v.key] = outcome{state: v.q.Outcome, data: v.q.Data, until: from + v.q.Retention}
		if restored {
			for i := range v.w.granted {
				if v.is(&v.w.grants[i]) {
					n.version[v.key] = v.w.grants[i].version
				}
			}
			n.bound[v.key] = v.q.Print
			n.ran[v.key] = true
		}
	}
}

func (v *visit) giveBack() {
	if !v.changed && v.before().there() {
		return
	}
	n := v.n
	current := v.current()
	own := current != nil && current.owner == int8(v.q.Owner) && current.key == v.key
	if current != nil && !own && n.Fence != v.was.Fence {
		v.fail("P3: a claim given back ends another's grant")
	}
	if v.before().there() && !own {
		v.fail("P5: giving back changes a record that is not the claim's own")
	}
	if own {
		v.end()
	}
	n.closed[v.key] = int8(v.q.Owner) + 1
	if !v.before().there() {
		v.minted = true
		n.happens(v.key)
		v.note(metTombstone)
	}
}

// operator judges expire and resolve, which act on what was read.
func (v *visit) operator() {
	if !v.changed {
		return
	}
	n := v.n
	v.minted = true
	// One owner can have one token on either side of a failover, a stated limit.
	alike := v.w.phase == replaced && v.before().Token == v.q.Token && v.before().Owner == v.q.Read
	if n.version[v.key] != v.l.version && (v.before().there() || n.Fence != v.was.Fence) && !alike {
		v.fail("P5: a late copy of %s undoes what came after it was sent", v.q.Verb)
	}
	slot := Slot{Record: *v.before(), Fence: v.was.Fence, Shared: n.Shared}
	if v.q.Verb == Resolve && slot.Record.End > v.ms && !(slot.held() && slot.Fence.End <= v.ms) {
		v.fail("P1: resolve ends a lease that goes on")
	}
	if current := v.current(); current != nil && current.key != v.key && n.Fence != v.was.Fence {
		v.fail("P3: %s ends the grant of another key", v.q.Verb)
	}
	v.end()
	n.happens(v.key)
	n.ran[v.key] = true
	n.closed[v.key] = int8(n.Records[v.key].Owner) + 1
	if v.q.Verb == Expire {
		n.bound[v.key], n.answer[v.key] = Unbound, outcome{}
		v.note(metExpired)
	} else if v.q.Outcome != Released {
		n.answer[v.key] = outcome{state: v.q.Outcome, data: v.q.Data, until: v.ms + v.q.Retention}
		v.note(metResolved)
	}
}
