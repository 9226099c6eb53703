package model

// Run executes a request on what stands there; now is in units of tokens.
func (p *Protocol) Run(s Slot, now int64, q *Request) (Slot, Reply) {
	switch q.Verb {
	case Claim:
		return p.Claim(s, now, q)
	case Renew:
		return p.Renew(s, now, q)
	case Checkpoint:
		return p.Checkpoint(s, now, q)
	case Complete:
		return p.Complete(s, now, q)
	case Release:
		return p.Release(s, now, q)
	case GiveBack:
		return p.GiveBack(s, now, q)
	case Expire:
		return p.Expire(s, now, q)
	case Resolve:
		return p.Resolve(s, now, q)
	case Mark:
		return p.Mark(s, now, q)
	case Confirm:
		return p.Confirm(s, q)
	case Inspect:
		return s, p.Inspect(s, now)
	default:
		return s, p.FenceCheck(s, q)
	}
}

// Claim grants the key, or says what there is instead. It reads Owner, Print, Length, Lifetime, Retention,
// Quarantine, Floor and Issued.
func (p *Protocol) Claim(s Slot, now int64, q *Request) (Slot, Reply) {
	r, f, ms := &s.Record, &s.Fence, p.millis(now)
	if r.there() && r.Print != Unbound && r.Print != q.Print && !p.Without.Fingerprint {
		return s, Reply{Code: Mismatch}
	}
	if r.finished() {
		return s, Reply{Code: Finished, Record: *r}
	}
	if r.there() && r.Owner == q.Owner {
		mine := p.live(&s, ms) && (!s.Shared || s.held())
		if mine && !p.Without.OwnGrant {
			p.cut(&s, ms)
			return s, Reply{Code: OK, Record: *r, Now: ms}
		}
		if !mine && !p.Without.OwnEnd {
			return s, Reply{Code: Over}
		}
	}
	if r.State == InProgress {
		if p.live(&s, ms) {
			p.cut(&s, ms)
			return s, Reply{Code: Busy, Record: *r, Now: ms}
		}
		if q.Quarantine {
			return s, Reply{Code: Uncertain}
		}
	}
	if stop := p.endOf(&f.Record, ms); f.State == InProgress && ms < stop && f.Owner != q.Owner && !p.Without.FenceBlock {
		f.endAt(stop, ms)
		return s, Reply{Code: Blocked, Record: f.Record, Now: ms, Attempt: r.Attempt}
	}
	if q.Floor > ms*p.PerMilli+p.FarAhead {
		return s, Reply{Code: Ahead, Which: 5}
	}
	if q.Issued != 0 {
		if q.Issued-ms > p.Early {
			return s, Reply{Code: Ahead, Which: 3}
		}
		back := r.State == Released && r.Max == GivenBack && !p.Without.GivenBack
		if (!r.there() || back) && q.Issued+q.Retention < ms {
			return s, Reply{Code: KeyExpired}
		}
	}
	last := max(r.Token, q.Floor)
	if s.Shared && !p.Without.FenceToken {
		last = max(last, f.Token)
	}
	token := p.mint(now, last)
	if token >= p.Tokens {
		return s, Reply{Code: Spent}
	}
	expiry := p.expiry(q.Length+q.Retention, token, ms)
	*r = Record{
		State: InProgress, Owner: q.Owner, Token: token, Mark: r.Mark, Attempt: min(r.Attempt+1, 99_999_999), Print: q.Print,
		End: ms + q.Length, Length: q.Length, Max: ms + q.Lifetime, Expiry: expiry,
		Saved: r.Saved, Sequence: r.Sequence, Data: r.Data,
	}
	if s.Shared {
		f.Record = Record{
			State: InProgress, Owner: q.Owner, Token: token, Mark: f.Mark, End: r.End, Length: r.Length, Max: r.Max,
			Expiry: expiry, Saved: true, Data: q.Key,
		}
	}
	return s, Reply{Code: OK, Record: *r, Now: ms}
}

// Renew prolongs the lease. It reads the grant, Length and Retention.
func (p *Protocol) Renew(s Slot, now int64, q *Request) (Slot, Reply) {
	if reply, ok := p.held(&s, q); !ok {
		return s, reply
	}
	r, f, ms := &s.Record, &s.Fence, p.millis(now)
	stop := p.leaseEnd(&s, ms)
	if ms >= stop && !p.Without.LapseCheck {
		return s, Reply{Code: Lost}
	}
	stop = max(stop, ms+q.Length)
	if !p.Without.LifetimeLimit {
		stop = min(stop, r.Max)
	}
	expiry := p.expiry(stop-ms+q.Retention, r.Token, ms)
	prolong := func(r *Record) {
		if stop != r.End {
			r.End, r.Length = stop, stop-ms
		}
		r.Expiry = max(r.Expiry, expiry)
	}
	prolong(r)
	if s.Shared {
		prolong(&f.Record)
	}
	return s, Reply{Code: OK, Record: *r, Now: ms}
}

// Checkpoint saves progress for the next attempt. It reads the grant, Sequence and Data.
func (p *Protocol) Checkpoint(s Slot, _ int64, q *Request) (Slot, Reply) {
	if reply, ok := p.held(&s, q); !ok {
		return s, reply
	}
	r := &s.Record
	switch {
	case r.Saved && r.Sequence == q.Sequence && r.Data == q.Data:
		return s, Reply{Code: OK}
	case r.Saved && r.Sequence >= q.Sequence && !p.Without.Sequence:
		return s, Reply{Code: Stale, Record: *r}
	}
	r.Saved, r.Sequence, r.Data = true, q.Sequence, q.Data
	return s, Reply{Code: OK}
}

// Complete stores the outcome. It reads the grant, Outcome, Data, Retention, Attempt, Print, End, Within and Finish.
func (p *Protocol) Complete(s Slot, now int64, q *Request) (Slot, Reply) {
	r, ms := &s.Record, p.millis(now)
	if r.finished() && r.Token == q.Token && (r.Owner == q.Owner || p.Without.OwnerCheck) {
		if r.State == q.Outcome && r.Data == q.Data || p.Without.SameOutcome {
			return s, Reply{Code: OK, Now: r.End}
		}
		return s, Reply{Code: Finished, Record: *r}
	}
	restored := !r.there()
	switch {
	case !restored:
		if reply, ok := p.held(&s, q); !ok {
			return s, reply
		}
	case s.Shared && !p.Without.FenceOfRestoring: // the record is lost, but the fence may still be this grant's
		if reply, ok := p.holdsFence(&s, q); !ok {
			return s, reply
		}
	}
	if restored && ms >= q.End && !p.Without.EndOfRestoring {
		return s, Reply{Code: Lost}
	}
	finished, expiry := ms, p.expiry(q.Retention, q.Token, ms)
	if q.asClaimed(&s) { // the key keeps its time, and no clock is asked
		finished, expiry = q.Finish, r.Expiry
	}
	*r = Record{
		State: q.Outcome, Owner: q.Owner, Token: q.Token, Attempt: q.Attempt, Print: q.Print, End: finished, Data: q.Data,
		Expiry: expiry,
	}
	if s.Shared {
		p.clear(&s.Fence, q.Retention, ms)
	}
	if restored {
		return s, Reply{Code: Restored, Now: ms}
	}
	return s, Reply{Code: OK, Now: finished}
}

// asClaimed says whether a completion by a holder within its lease finds the record as it knows it, with nobody waiting.
func (q *Request) asClaimed(s *Slot) bool {
	r := &s.Record
	return q.Within && !s.Shared && r.State == InProgress && r.Owner == q.Owner && r.Token == q.Token &&
		r.Attempt == q.Attempt && r.Print == q.Print && r.Mark == 0 && !r.Saved && r.End == q.End
}

// Release gives the key up. It reads the grant and Retention.
func (p *Protocol) Release(s Slot, now int64, q *Request) (Slot, Reply) {
	if _, ok := p.held(&s, q); !ok {
		return s, Reply{Code: OK}
	}
	r, ms := &s.Record, p.millis(now)
	r.State, r.Mark = Released, 0
	r.Expiry = p.expiry(q.Retention, r.Token, ms)
	if s.Shared {
		p.clear(&s.Fence, q.Retention, ms)
	}
	return s, Reply{Code: OK}
}

// GiveBack ends the claim of an owner, granted or not. It reads Owner, Retention and Burial.
func (p *Protocol) GiveBack(s Slot, now int64, q *Request) (Slot, Reply) {
	r, f, ms := &s.Record, &s.Fence, p.millis(now)
	if r.there() && (r.State != InProgress || r.Owner != q.Owner) {
		return s, Reply{Code: OK}
	}
	holds := s.Shared && f.State == InProgress && f.Owner == q.Owner && (!r.there() || f.Token == r.Token)
	if r.there() {
		if s.Shared && !holds {
			return s, Reply{Code: OK}
		}
		r.State, r.Mark = Released, 0
		if r.Attempt > 0 {
			r.Attempt--
		}
		r.Expiry = p.expiry(q.Retention, r.Token, ms)
	} else if !p.Without.GiveBackTombstone {
		token := p.mint(now, f.Token)
		if token >= p.Tokens {
			return s, Reply{Code: Spent}
		}
		*r = p.tombstone(q.Owner, token, q.Burial, ms)
		r.Max = GivenBack
	}
	if holds {
		p.clear(f, q.Retention, ms)
	}
	return s, Reply{Code: OK}
}

// Expire fences out what was read. It reads Read, Token, Owner, Burial and Retention.
func (p *Protocol) Expire(s Slot, now int64, q *Request) (Slot, Reply) {
	r, f, ms := &s.Record, &s.Fence, p.millis(now)
	owner := q.Owner
	if r.there() {
		if !p.asRead(r, q) && !p.Without.ExpireCondition {
			return s, Reply{Code: OK}
		}
		owner = r.Owner
	}
	token := p.mint(now, max(r.Token, f.Token))
	if p.Without.ExpireRaise {
		token = r.Token
	}
	if token >= p.Tokens {
		return s, Reply{Code: Spent}
	}
	*r = p.tombstone(owner, token, q.Burial, ms)
	if f.State == InProgress && f.Data == q.Key {
		p.clear(f, q.Retention, ms)
	}
	return s, Reply{Code: OK}
}

// Resolve settles a lapsed key. It reads Read, Token, Outcome, Data and Retention.
func (p *Protocol) Resolve(s Slot, now int64, q *Request) (Slot, Reply) {
	r, f, ms := &s.Record, &s.Fence, p.millis(now)
	switch {
	case !r.there():
		return s, Reply{Code: NotThere}
	case r.State == Released && q.Outcome == Released:
		return s, Reply{Code: OK}
	case r.State == Released:
		return s, Reply{Code: NotThere}
	case r.finished() && r.State == q.Outcome && r.Data == q.Data:
		return s, Reply{Code: OK}
	case r.finished():
		return s, Reply{Code: Finished, Record: *r}
	case p.live(&s, ms) && !p.Without.ResolveLapsed:
		return s, Reply{Code: Busy, Record: *r, Now: ms}
	case !p.asRead(r, q) && !p.Without.ResolveCondition:
		return s, Reply{Code: MovedOn}
	}
	token := p.mint(now, max(r.Token, f.Token))
	if token >= p.Tokens {
		return s, Reply{Code: Spent}
	}
	r.State, r.Token, r.Mark = q.Outcome, token, 0
	r.Expiry = p.expiry(q.Retention, token, ms)
	if q.Outcome != Released {
		r.End, r.Length, r.Max = ms, 0, 0
		r.Saved, r.Sequence, r.Data = false, 0, q.Data
	}
	if f.State == InProgress && f.Data == q.Key {
		p.clear(f, q.Retention, ms)
	}
	return s, Reply{Code: OK}
}

// Mark notes on the record that somebody waits. It reads Listen.
func (p *Protocol) Mark(s Slot, now int64, q *Request) (Slot, Reply) {
	r, ms := &s.Record, p.millis(now)
	if r.State != InProgress || ms >= p.endOf(r, ms) {
		return s, Reply{Code: MovedOn}
	}
	reply := Reply{Code: Busy, Record: *r, Now: ms} // as it was
	r.Mark |= q.Listen
	return s, reply
}

// FenceCheck says whether a grant may write behind the fence: the resource's, or else the key's own record.
func (p *Protocol) FenceCheck(s Slot, q *Request) Reply {
	guard := &s.Record
	if s.Shared {
		guard = &s.Fence.Record
	}
	if p.grants(guard, q.Token, q.Owner) {
		return Reply{Code: OK}
	}
	return Reply{Code: Stale, Record: *guard}
}

// Confirm notes that replicas hold a finished record. It reads the grant.
func (p *Protocol) Confirm(s Slot, q *Request) (Slot, Reply) {
	if r := &s.Record; r.finished() && r.Token == q.Token && r.Owner == q.Owner {
		r.Mark = 1
	}
	return s, Reply{Code: OK}
}

// Inspect says what there is.
func (p *Protocol) Inspect(s Slot, now int64) Reply {
	if !s.Record.there() {
		return Reply{Code: NotThere}
	}
	return Reply{Code: OK, Record: s.Record, Now: p.millis(now)}
}
