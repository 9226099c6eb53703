package judge

import "github.com/onceward/coordinator/chaos/history"

// move is one operation on one branch: what it may leave, if the branch can give its answer.
type move struct {
	*search
	o   *op
	b   *branch
	r   rec // the key's record
	f   rec // the resource's fence
	out []int32
}

// apply returns the branches that an operation may leave of one; none where its answer cannot come from it. The rules
// are those of the table of states and verbs, without the times: a lease in progress may have lapsed at any time.
func (s *search) apply(o *op, id int32) []int32 {
	at := uint64(o.number)<<32 | uint64(uint32(id))
	if out, ok := s.applied[at]; ok {
		return out
	}
	s.spend(1)
	b := s.branches.all[id]
	v := &move{search: s, o: o, b: b, r: b.recs[o.key], f: b.fence}
	switch o.do {
	case history.Claim:
		v.claim()
	case history.Renew:
		v.renew()
	case history.Checkpoint:
		v.checkpoint()
	case history.Complete, history.Fail:
		v.complete()
	case history.Release:
		v.release()
	case history.GiveBack:
		v.giveBack()
	case history.Expire:
		v.expire()
	case history.Resolve:
		v.resolve()
	case history.Result:
		v.result()
	case history.Write:
		v.write()
	}
	s.applied[at] = v.out
	return v.out
}

// leave notes what the operation may leave.
func (v *move) leave(r, f rec) { v.out = append(v.out, v.branches.put(v.b, v.o.key, r, f)) }

// same notes that it may leave all as it is.
func (v *move) same() { v.out = append(v.out, v.b.id) }

// when keeps all as it is, if the answer can be given.
func (v *move) when(answer bool) {
	if answer {
		v.same()
	}
}

// otherPrint says whether the key is bound to another fingerprint than the operation's.
func (v *move) otherPrint() bool {
	return v.r.there() && v.r.print != unbound && v.r.print != v.o.print
}

// grants says whether a record or fence may be that of the operation's grant in progress, and whether it may not.
func (v *move) grants(r *rec) (may, mayNot bool) {
	own := r.state == inProgress && r.owner == v.o.owner && r.owner != nobody
	may = own && r.mayHave(v.o.event.Token)
	return may, !may || r.mayLack(v.o.event.Token)
}

// learn notes the token that an operation has shown.
func (v *move) learn(r rec) rec {
	if r.state == inProgress && r.owner == v.o.owner && r.loose && r.mayHave(v.o.event.Token) {
		r.token, r.loose = v.o.event.Token, false
	}
	return r
}

// held says whether the fence is held by the record's grant.
func (v *move) held() bool {
	return v.f.state == inProgress && v.f.owner == v.r.owner && (v.f.token == v.r.token || v.f.loose || v.r.loose)
}

// current says whether the operation's grant may be the current one.
func (v *move) current() bool {
	may, _ := v.grants(&v.r)
	if !may || !v.shared {
		return may
	}
	may, _ = v.grants(&v.f)
	return may
}

// lost says whether the operation may have been told that nothing is there.
func (v *move) lost() bool {
	may, _ := v.grants(&v.r)
	return !v.r.there() || may && v.shared && !v.f.there()
}

// stale says whether the operation may have been told that its grant is not the current one, with this token there.
func (v *move) stale() bool {
	may, mayNot := v.grants(&v.r)
	if v.r.there() && mayNot && v.shows(&v.r) {
		return true
	}
	if !may || !v.shared || !v.f.there() {
		return false
	}
	_, mayNot = v.grants(&v.f)
	return mayNot && v.shows(&v.f)
}

// shows says whether the token that a refusal named can be that of r; 0 is none that was written down.
func (v *move) shows(r *rec) bool {
	return v.o.event.Current == 0 || r.mayHave(v.o.event.Current)
}

// foundIt says whether the stored result is the one that was answered.
func (v *move) foundIt() bool {
	return v.r.finished() && v.r.data == v.o.found && (v.r.state == failed) == v.o.event.Failed
}

// clear ends a resource's holding; the token stays.
func clear(f rec) rec {
	if f.there() {
		f.state = released
	}
	return f
}

// raised is a token over everything that is there; only the server knows which.
func raised(r, f *rec) int64 {
	last := max(r.token, f.token)
	if r.loose || f.loose {
		return last // a bound that does not grow keeps the number of branches small
	}
	return last + 1
}

func (v *move) attempts() bool {
	return v.o.event.Attempt == 0 || int32(v.o.event.Attempt) == v.r.attempt
}

func (v *move) claim() {
	o, r := v.o, &v.r
	switch o.said {
	case history.Granted, history.Takeover:
		v.grant()
	case history.Replayed:
		v.when(!v.otherPrint() && v.foundIt())
	case history.Mismatch:
		v.when(v.otherPrint())
	case history.Uncertain:
		if o.event.Quarantine && r.state == inProgress && !v.otherPrint() {
			r.lapsed = !v.steps // with a clock that is stepped back it may live again
			v.leave(*r, v.f)
		}
	case history.InProgress:
		if v.otherPrint() || r.finished() || !v.attempts() {
			return
		}
		// Its own lease does not stand in a claim's way, unless its fence is lost to others.
		own := r.there() && r.owner == o.owner && o.owner != nobody
		record := r.state == inProgress && !r.lapsed && (!own || v.shared && !v.held())
		fence := v.shared && v.f.state == inProgress && (v.f.owner != o.owner || o.owner == nobody)
		v.when(record || fence)
	}
}

func (v *move) grant() {
	o, r, e := v.o, v.r, v.o.event
	if v.otherPrint() || r.finished() {
		return
	}
	if r.there() && r.owner == o.owner && o.owner != nobody {
		live := r.state == inProgress && !r.lapsed && (!v.shared || v.held())
		if !o.hidden && live && o.said == history.Granted && r.mayHave(e.Token) && int32(e.Attempt) == r.attempt && o.data == r.data {
			v.leave(v.learn(r), v.learn(v.f)) // the same grant
		}
		return // its grant is over: a copy of the claim is granted nothing
	}
	if r.state == inProgress {
		// The answer to the copy that took over may have been lost; then the next one's names no takeover.
		named := o.hidden || o.said == history.Takeover || o.repeated && v.stage >= repeats
		if e.Quarantine || !named {
			return
		}
	} else if o.said == history.Takeover {
		return
	}
	next := rec{
		state: inProgress, owner: o.owner, print: o.print, attempt: min(r.attempt+1, v.greatest[o.key]), data: r.data, token: e.Token,
	}
	last := max(r.token, v.f.token, e.MinToken)
	if o.hidden {
		next.loose, next.token = true, last+1
		if r.loose || v.f.loose {
			next.token = last
		}
	} else if e.Token <= last || int32(e.Attempt) != r.attempt+1 || o.data != r.data {
		return
	}
	fence := v.f
	if v.shared {
		fence = rec{state: inProgress, owner: next.owner, token: next.token, loose: next.loose, data: int32(o.key)}
	}
	v.leave(next, fence)
}

func (v *move) renew() {
	switch v.o.said {
	case history.OK:
		if v.current() && !v.r.lapsed {
			v.leave(v.learn(v.r), v.learn(v.f))
		}
	case history.LeaseLost:
		v.same() // the lease's own clock may have said so
	case history.Stale:
		v.when(v.stale())
	}
}

func (v *move) checkpoint() {
	o, r := v.o, v.learn(v.r)
	newer := o.sequence == 0 || o.sequence > r.sequence
	switch o.said {
	case history.OK:
		if !v.current() {
			return
		}
		if newer {
			r.data, r.sequence = o.data, o.sequence
		} else if o.sequence < r.sequence || r.data != o.data {
			return
		}
		v.leave(r, v.learn(v.f))
	case history.LeaseLost:
		v.when(v.lost())
	case history.Stale:
		v.when(v.stale() || v.current() && (!newer || o.sequence == 0) && v.shows(&v.r))
	}
}
