package model

import "fmt"

// explorer makes the moves of a world, each with what the promises say of it.
type explorer struct {
	Scope
	p       Protocol
	telling bool // moves are wanted in words
	seen    map[string]int
	broken  string // the promise that the move just made breaks

	from  *world
	next  world // the move being made
	yield func(next *world, text string)
}

// begin is the first state.
func (x *explorer) begin() world {
	w := world{time: dawn, left: x.budgets()}
	for i := range w.nodes {
		w.nodes[i] = x.empty()
	}
	x.clocks(&w)
	return w
}

func (x *explorer) clocks(w *world) {
	if broken := w.setClocks(&x.p); broken != "" && x.broken == "" {
		x.broken = broken
	}
}

// moves calls yield for every move from a world.
func (x *explorer) moves(w *world, yield func(next *world, text string)) {
	x.from, x.yield = w, yield
	x.time()
	x.replication()
	x.operators()
	for i := range int8(x.Callers) {
		switch w.callers[i].state {
		case idle, asked:
			x.claims(i)
		case holding:
			x.holds(i)
		}
	}
	x.network()
	x.losses()
}

// spend starts a move that costs one of a budget; nil when there is none left.
func (x *explorer) spend(b budget) *world {
	if x.from.left[b] == 0 {
		return nil
	}
	x.next = *x.from
	x.next.left[b]--
	return &x.next
}

// done ends a move.
func (x *explorer) done(w *world, format string, args ...any) {
	text := ""
	if x.telling {
		text = fmt.Sprintf(format, args...)
	}
	x.yield(w, text)
	x.broken = ""
}

func (x *explorer) time() {
	if w := x.spend(ticks); w != nil {
		w.time++
		w.nodes[0].minted, w.nodes[1].minted = 0, 0
		x.clocks(w)
		x.done(w, "time goes on: %d", w.time)
	}
	for _, by := range x.StepBy {
		w := x.spend(steps)
		if w == nil {
			break
		}
		n := &w.nodes[w.serving()]
		n.offset += by
		n.minted = 0
		n.looked = [MaxKeys]int64{}
		if by < 0 {
			w.stepped |= steppedBack
		}
		x.clocks(w)
		x.done(w, "the clock of node %c steps by %+d", name(w.serving()), by)
	}
}

func name(node int) byte { return "AB"[node] }

func (x *explorer) replication() {
	if x.from.phase == whole {
		if w := x.spend(cuts); w != nil {
			w.phase = parted
			x.copyTo(w)
			x.done(w, "replication stops: what A writes from now on will be lost")
		}
	}
	if x.from.phase == replaced {
		return
	}
	for _, skew := range x.Skew {
		w := x.spend(promotions)
		if w == nil {
			return
		}
		if w.phase == whole {
			x.copyTo(w)
		}
		w.phase = replaced
		w.nodes[1].offset = w.nodes[0].offset + skew
		for k := range w.nodes[1].events {
			w.nodes[1].events[k] += elsewhere // what happens here from now on did not happen on the other
		}
		w.nodes[1].minted = 0
		x.clocks(w)
		x.done(w, "B is promoted, its clock is %+d", skew)
	}
}

// copyTo gives the replica what the master has.
func (x *explorer) copyTo(w *world) {
	w.nodes[1] = w.nodes[0]
	w.nodes[1].looked = [MaxKeys]int64{}
	for i := range w.flying {
		w.flight[i].ran |= w.flight[i].ran & 1 << 1
	}
	x.clocks(w)
}

func (x *explorer) losses() {
	for k := range x.Keys {
		if w := x.spend(evictions); w != nil && w.nodes[w.serving()].Records[k].there() {
			n := &w.nodes[w.serving()]
			n.Records[k] = Record{}
			for i := range w.granted {
				if int(w.grants[i].key) == k {
					n.made &^= 1 << i
				}
			}
			n.forgotten(int8(k), w)
			x.done(w, "the record of %c is evicted", 'a'+k)
		}
	}
	if w := x.spend(evictions); w != nil && w.nodes[w.serving()].Fence.there() {
		n := &w.nodes[w.serving()]
		n.Fence = Fence{}
		n.current[0], n.made = 0, 0
		n.survive(w)
		x.done(w, "the fence is evicted")
	}
}

// claims lets a caller claim, again if it has claimed before, or give up on its claim.
func (x *explorer) claims(i int8) {
	c := &x.from.callers[i]
	if c.state == idle && i > 0 && x.from.callers[i-1].state == idle {
		return // they are alike until they have claimed
	}
	for key := range int8(x.Keys) {
		switch {
		case c.state == asked && c.key != key:
			continue
		case x.Settled && i == 0 && key != 0, x.Parted && int(key) != int(i)%x.Keys:
			continue
		}
		l := letter{caller: i, sent: x.from.time, Request: Request{Verb: Claim, Key: int32(key), Owner: int32(i)}}
		if x.Floor != 0 && int(i) == x.Callers-1 {
			l.Floor = (dawn + x.Floor) * perTick
		}
		x.send(claims, &l, func(w *world) { w.callers[i].state, w.callers[i].key = asked, key })
	}
	if c.state == asked {
		l := letter{caller: i, sent: x.from.time, Request: Request{Verb: GiveBack, Key: int32(c.key), Owner: int32(i)}}
		x.send(giveBacks, &l, func(w *world) { w.callers[i].state = done })
	}
}

// holds lets a caller who was granted a lease use it, whether it still holds it or not.
func (x *explorer) holds(i int8) {
	c := &x.from.callers[i]
	l := letter{caller: i, sent: x.from.time, Request: Request{Key: int32(c.key), Owner: int32(i), Token: c.token}}
	asIs := func(*world) {}
	send := func(b budget, v Verb) {
		l.Verb = v
		x.send(b, &l, asIs)
	}
	send(renewals, Renew)
	send(releases, Release)
	send(writes, FenceCheck)
	l.Attempt, l.End, l.Within, l.Finish = c.attempt, c.end, x.from.time < c.believes, c.end
	for _, l.Outcome = range [...]State{Completed, Failed} {
		send(completes, Complete)
	}
	l.Attempt, l.End, l.Outcome, l.Within, l.Finish = 0, 0, Absent, false, 0
	l.Sequence = c.saved + 1
	l.Verb = Checkpoint
	x.send(saves, &l, func(w *world) { w.callers[i].saved++ })
	if w := x.spend(admits); w != nil {
		x.admit(w, i)
	}
}

// operators read a key and then expire or resolve it.
func (x *explorer) operators() {
	n := &x.from.nodes[x.from.serving()]
	for key := range int8(x.Keys) {
		if !x.Operate[key] {
			continue
		}
		l := letter{caller: -1, sent: x.from.time, version: n.version[key], Request: Request{Verb: Expire, Key: int32(key), Owner: 9}}
		l.Token, l.Read = n.Records[key].Token, n.Records[key].Owner
		asIs := func(*world) {}
		x.send(expires, &l, asIs)
		l.Verb, l.Outcome = Resolve, Released
		x.send(resolves, &l, asIs)
		l.Outcome = Completed
		x.send(resolves, &l, asIs)
	}
}

// send makes the moves that a new request allows: it runs at once on one of the nodes that answer, its reply may
// be lost, a copy may stay on its way, or all of it does.
func (x *explorer) send(b budget, l *letter, then func(*world)) {
	if x.from.left[b] == 0 {
		return
	}
	for n := range 2 {
		for _, heard := range []bool{true, false} {
			for _, copied := range []bool{false, true} {
				if x.may(l, n, heard, copied) {
					w := x.spend(b)
					then(w)
					x.arrive(w, *l, n, heard, copied, "sends")
				}
			}
		}
	}
	if x.from.left[lates] > 0 && int(x.from.flying) < x.InFlight {
		w := x.spend(b)
		then(w)
		w.left[lates]--
		w.fly(*l)
		x.done(w, "%s, which stays on its way", x.text(l, "sends"))
	}
}

const onItsWay = "sent, late,"

// network delivers what is on its way.
func (x *explorer) network() {
	for i := range x.from.flying {
		if i > 0 && x.from.flight[i] == x.from.flight[i-1] {
			continue
		}
		for n := range 2 {
			for _, heard := range []bool{true, false} {
				for _, copied := range []bool{false, true} {
					l := x.from.flight[i]
					if !x.may(&l, n, heard, copied) {
						continue
					}
					x.next = *x.from
					w := &x.next
					copy(w.flight[i:], w.flight[i+1:w.flying])
					w.flying--
					w.flight[w.flying] = letter{}
					x.arrive(w, l, n, heard, copied, onItsWay)
				}
			}
		}
	}
}

// may says whether a request can run on a node, and have its reply lost or a copy of it left on its way.
func (x *explorer) may(l *letter, n int, heard, copied bool) bool {
	w := x.from
	listens := x.listens(l)
	switch {
	case n == 1 && w.phase != replaced, n == 0 && w.phase == replaced && w.left[answers] == 0:
		return false
	case !heard && (!listens || w.left[losses] == 0):
		return false
	case copied && (w.left[lates] == 0 || int(w.flying) >= x.InFlight || l.Verb == FenceCheck):
		return false
	}
	return true
}

// listens says whether the sender does something with the reply.
func (x *explorer) listens(l *letter) bool {
	return l.Verb == Claim && x.from.callers[l.caller].state <= asked || l.Verb == Renew
}

// arrive runs a request on a node.
func (x *explorer) arrive(w *world, l letter, n int, heard, copied bool, how string) {
	if n == 0 && w.phase == replaced {
		w.left[answers]--
	}
	if !heard {
		w.left[losses]--
	}
	if copied {
		w.left[lates]--
	}
	reply := x.run(w, &l, n, how)
	l.ran |= 1 << n
	if copied {
		w.fly(l)
	}
	if heard && x.listens(&l) {
		x.hear(w, &l, &reply, copied)
	}
	if x.telling {
		text := fmt.Sprintf("%s to %c: %s", x.text(&l, how), name(n), reply.Code)
		if reply.Code == OK && l.Verb == Claim {
			text += fmt.Sprintf(", token %d until %d", reply.Record.Token, reply.Record.End)
		}
		if !heard {
			text += "; the reply is lost"
		}
		if copied {
			text += "; a copy stays on its way"
		}
		x.done(w, "%s", text)
		return
	}
	x.done(w, "")
}

func (x *explorer) text(l *letter, how string) string {
	if !x.telling {
		return ""
	}
	who := "an operator"
	if l.caller >= 0 {
		who = fmt.Sprintf("caller %d", l.caller+1)
	}
	verb := l.Verb.String()
	switch {
	case l.Verb == Complete && l.Outcome == Failed:
		verb = "fail"
	case l.Verb == Resolve && l.Outcome == Released:
		verb = "resolve to rerun"
	}
	text := fmt.Sprintf("%s %s %s %c", who, how, verb, 'a'+l.Key)
	if l.Token != 0 {
		text += fmt.Sprintf(" with token %d", l.Token)
	}
	return text
}

// fly puts a request on its way; the order of those on their way does not matter.
func (w *world) fly(l letter) {
	i := w.flying
	for i > 0 && l.before(&w.flight[i-1]) {
		w.flight[i] = w.flight[i-1]
		i--
	}
	w.flight[i] = l
	w.flying++
}

func (l *letter) before(o *letter) bool {
	for _, d := range [...]int64{
		int64(l.Verb) - int64(o.Verb), int64(l.caller) - int64(o.caller), int64(l.Key - o.Key), l.Token - o.Token, l.sent - o.sent,
		l.Sequence - o.Sequence, l.End - o.End, l.Floor - o.Floor, int64(l.Outcome) - int64(o.Outcome), int64(l.ran) - int64(o.ran),
		int64(l.version) - int64(o.version), int64(l.Attempt - o.Attempt), int64(l.Read - o.Read),
	} {
		if d != 0 {
			return d < 0
		}
	}
	return false
}

// hear gives a caller the reply it listens for.
func (x *explorer) hear(w *world, l *letter, r *Reply, copied bool) {
	c := &w.callers[l.caller]
	switch {
	case l.Verb == Claim && r.Code == OK:
		*c = caller{state: holding, key: c.key, token: r.Record.Token, attempt: r.Record.Attempt, saved: r.Record.Sequence}
	case l.Verb == Claim && (r.Code == Busy || r.Code == Blocked || r.Code == Uncertain):
		if x.from.callers[l.caller].state == idle && !copied {
			*c = caller{} // it may ask again, as if it had not asked
		}
		return
	case l.Verb == Claim:
		c.state = done
		return
	case r.Code != OK || c.state != holding || c.token != l.Token:
		return
	}
	// P6: from the sending, a grace before the stored end, and never more than a lease.
	c.end = r.Record.End
	c.believes = max(c.believes, l.sent+min(x.Length-grace, r.Record.End-r.Now-grace))
}
