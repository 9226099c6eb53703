package model

// Units says what times and tokens count.
type Units struct {
	PerMilli int64 // tokens in a unit of time: 1000 where times are ms and tokens µs
	Margin   int64 // how much longer than its token, read as a time, a key is kept
	FarAhead int64 // how far ahead of the clock MinToken may be, in tokens
	Early    int64 // how far ahead of the clock a time of issue may be
	Tokens   int64 // no token reaches this
}

// RealUnits are those of the scripts.
var RealUnits = Units{PerMilli: 1000, Margin: 1001, FarAhead: 86_400_000_000, Early: 3_600_000, Tokens: 1 << 53}

// Without names guards to leave out. The zero value leaves out none: that is the protocol.
type Without struct {
	OwnerCheck        bool // a grant is its token alone
	TimeFloor         bool // a token is one more than the last, whatever the clock says
	LastPlusOne       bool // a token is the clock, whatever was granted before
	ExpireCondition   bool // expire fences out whatever is there
	ExpireRaise       bool // a tombstone keeps the token that was there
	ReadOwner         bool // expire and resolve compare the token alone with what was read
	EndOfRestoring    bool // complete writes anew at any time
	LapseCheck        bool // renew revives a lapsed lease
	LifetimeLimit     bool // renewals pass the maximum lifetime
	EndedCheck        bool // release and complete act on an ended record too
	FenceClearing     bool // what ends a grant leaves the fence held
	FenceOfRestoring  bool // complete writes anew whoever has the fence
	FencePair         bool // holder verbs look at the record alone
	FenceBlock        bool // claim does not look at who holds the fence
	FenceToken        bool // claim does not look at the fence's token
	OwnGrant          bool // claim does not know its own live grant
	OwnEnd            bool // claim does not know that its own grant is over
	GiveBackTombstone bool // give back leaves nothing where there was nothing
	GivenBack         bool // claim takes the tombstone of a give back for a record, also of a key that is too old
	Fingerprint       bool // claim does not compare fingerprints
	SameOutcome       bool // a repeated complete does not compare what is stored
	ResolveLapsed     bool // resolve settles a live lease too
	ResolveCondition  bool // resolve settles whatever is there
	BothEnds          bool // a lease's end is what its record says, though its fence may say less
	ClockCut          bool // an end that a stepped clock left too far away stays
	TokenTime         bool // a key may go before the clock has passed its token
	Sequence          bool // an older checkpoint overwrites a newer
}

// Protocol is the state machine: each verb is a function of what stands, the time and the request.
type Protocol struct {
	Units
	Without Without
}

func (p *Protocol) millis(now int64) int64 { return now / p.PerMilli }

func (p *Protocol) mint(now, last int64) int64 {
	if p.Without.TimeFloor {
		return last + 1
	}
	if p.Without.LastPlusOne {
		return now
	}
	return max(now, last+1)
}

// expiry is when a key goes that is kept for ttl: not before the clock has passed its token.
func (p *Protocol) expiry(ttl, token, ms int64) int64 {
	if p.Without.TokenTime {
		return ms + ttl
	}
	return max(ms+ttl, token/p.PerMilli+p.Margin)
}

// endOf is the end of a lease; where the clock was stepped back behind its beginning, the end that keeps its length.
func (p *Protocol) endOf(r *Record, ms int64) int64 {
	if p.Without.ClockCut {
		return r.End
	}
	return min(r.End, ms+r.Length)
}

// leaseEnd is the end of a record's lease: with a resource the fence has one too, and a claim of another key may have
// cut that alone.
func (p *Protocol) leaseEnd(s *Slot, ms int64) int64 {
	stop := p.endOf(&s.Record, ms)
	if s.held() && !p.Without.BothEnds {
		stop = min(stop, p.endOf(&s.Fence.Record, ms))
	}
	return stop
}

// cut moves ends that are too far away to where they keep the lease's length.
func (p *Protocol) cut(s *Slot, ms int64) {
	stop := p.leaseEnd(s, ms)
	if s.Fence.State == InProgress {
		end := p.endOf(&s.Fence.Record, ms)
		if s.held() && !p.Without.BothEnds {
			end = stop
		}
		s.Fence.endAt(end, ms)
	}
	s.Record.endAt(stop, ms)
}

func (p *Protocol) live(s *Slot, ms int64) bool {
	return s.Record.State == InProgress && ms < p.leaseEnd(s, ms)
}

// grants says whether r is the record, or the fence, of this grant in progress.
func (p *Protocol) grants(r *Record, token int64, owner int32) bool {
	ended := r.State != InProgress && !p.Without.EndedCheck
	return !ended && r.Token == token && (r.Owner == owner || p.Without.OwnerCheck)
}

// asRead says whether r is what an operator's request has read.
func (p *Protocol) asRead(r *Record, q *Request) bool {
	return r.Token == q.Token && (r.Owner == q.Read || p.Without.ReadOwner)
}

// held says whether the grant of a holder's request is the current one; if not, the answer.
func (p *Protocol) held(s *Slot, q *Request) (Reply, bool) {
	if !s.Record.there() {
		return Reply{Code: Lost}, false
	}
	if !p.grants(&s.Record, q.Token, q.Owner) {
		return Reply{Code: Stale, Record: s.Record}, false
	}
	if s.Shared && !p.Without.FencePair {
		return p.holdsFence(s, q)
	}
	return Reply{}, true
}

func (p *Protocol) holdsFence(s *Slot, q *Request) (Reply, bool) {
	switch {
	case !s.Fence.there():
		return Reply{Code: Lost}, false
	case !p.grants(&s.Fence.Record, q.Token, q.Owner):
		return Reply{Code: Stale, Record: s.Fence.Record}, false
	}
	return Reply{}, true
}

// clear ends a resource's holding; its token stays.
func (p *Protocol) clear(f *Fence, ttl, ms int64) {
	if p.Without.FenceClearing {
		return
	}
	f.State, f.Mark = Released, 0
	f.Expiry = p.expiry(ttl, f.Token, ms)
}

// tombstone is a record that nobody holds, with a token over everything granted before.
func (p *Protocol) tombstone(owner int32, token, burial, ms int64) Record {
	return Record{State: Released, Owner: owner, Token: token, Print: Unbound, End: ms, Expiry: p.expiry(burial, token, ms)}
}
