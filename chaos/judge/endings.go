package judge

import "github.com/onceward/coordinator/chaos/history"

// The verbs that end a grant, and those that read and write beside it.

func (v *move) complete() {
	o, r, e := v.o, &v.r, v.o.event
	done := r.finished() && r.owner == o.owner && o.owner != nobody && r.mayHave(e.Token)
	equal := done && r.state == o.outcome && r.data == o.data
	switch o.said {
	case history.OK, history.NotReplicated:
		if equal {
			v.same()
		}
		_, fenceIsNot := v.grants(&v.f)
		restored := !r.there() && (!v.shared || !fenceIsNot || v.f.loose && v.f.owner == o.owner)
		if restored || v.current() {
			v.leave(rec{state: o.outcome, owner: o.owner, token: e.Token, print: o.print, data: o.data, attempt: max(r.attempt, 1)}, clear(v.learn(v.f)))
		}
	case history.Replayed:
		v.when(done && !equal && v.foundIt())
	case history.LeaseLost:
		v.when(v.lost() && v.unfenced())
	case history.Stale:
		if !r.there() {
			_, fenceIsNot := v.grants(&v.f)
			v.when(v.shared && v.f.there() && fenceIsNot && v.shows(&v.f))
			return
		}
		v.when(v.stale() && (!done || r.mayLack(e.Token)))
	}
}

// unfenced says whether a completion that finds no record may have been told so: with a resource whose fence is
// another's it is stale instead.
func (v *move) unfenced() bool {
	if v.r.there() || !v.shared || !v.f.there() {
		return true
	}
	may, _ := v.grants(&v.f)
	return may
}

func (v *move) release() {
	_, mayNot := v.grants(&v.r)
	if v.shared {
		_, fenceIsNot := v.grants(&v.f)
		mayNot = mayNot || fenceIsNot
	}
	if v.current() {
		r := v.learn(v.r)
		r.state, r.lapsed = released, false
		v.leave(r, clear(v.learn(v.f)))
	}
	v.when(mayNot)
}

func (v *move) giveBack() {
	o, r, f := v.o, v.r, v.f
	if r.there() && (r.state != inProgress || r.owner != o.owner) {
		v.same()
		return
	}
	holds := v.shared && f.state == inProgress && f.owner == o.owner && (!r.there() || v.held())
	fence := f
	if holds {
		fence = clear(f)
	}
	switch {
	case !r.there():
		v.leave(rec{state: released, owner: o.owner, print: unbound, token: raised(&r, &f), loose: true}, fence)
	case v.shared && !holds:
		v.same()
	default:
		r.state, r.lapsed = released, false
		if r.attempt > 0 {
			if r.attempt == v.greatest[o.key] { // or more
				v.leave(r, fence)
			}
			r.attempt--
		}
		v.leave(r, fence)
	}
}

// newer says whether what stands there was claimed after the operation had read the record that it is to act on.
func (v *move) newer() bool {
	c, known := v.claims[v.r.owner]
	return v.r.there() && known && c.call > v.o.read
}

func (v *move) expire() {
	o, r, f := v.o, v.r, v.f
	if v.misses[o.number] {
		v.same()
	}
	if v.newer() {
		return
	}
	if f.state == inProgress && f.data == int32(o.key) {
		f = clear(f)
	}
	v.leave(rec{state: released, owner: r.owner, print: unbound, token: raised(&r, &v.f), loose: true}, f)
}

func (v *move) resolve() {
	o, r, f := v.o, v.r, v.f
	rerun := o.outcome == released
	equal := r.state == released && rerun || r.finished() && r.state == o.outcome && r.data == o.data
	switch o.said {
	case history.OK:
		if equal {
			v.same()
			return
		}
		if r.state != inProgress || v.newer() {
			return
		}
		if f.state == inProgress && f.data == int32(o.key) {
			f = clear(f)
		}
		r.state, r.token, r.loose, r.lapsed = o.outcome, raised(&r, &v.f), true, false
		if !rerun {
			r.data, r.sequence = o.data, 0
		}
		v.leave(r, f)
	case history.NotFound:
		v.when(!r.there() || r.state == released && !rerun)
	case history.InProgress:
		v.when(r.state == inProgress && v.attempts())
	case history.Replayed:
		v.when(v.foundIt())
	}
}

func (v *move) result() {
	r := &v.r
	switch v.o.said {
	case history.OK:
		v.when(!v.otherPrint() && v.foundIt())
	case history.NotFound:
		v.when(!v.otherPrint() && (!r.there() || r.state == released))
	case history.InProgress:
		v.when(!v.otherPrint() && r.state == inProgress && v.attempts())
	case history.Mismatch:
		v.when(v.otherPrint())
	}
}

// write is a write behind the fence: the resource's, or else the record itself.
func (v *move) write() {
	guard := &v.r
	if v.shared {
		guard = &v.f
	}
	may, mayNot := v.grants(guard)
	switch v.o.said {
	case history.OK:
		if may {
			v.leave(v.learn(v.r), v.learn(v.f))
		}
	case history.Stale:
		v.when(mayNot && (v.o.event.Current == 0 || guard.there() && v.shows(guard)))
	}
}
