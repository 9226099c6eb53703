package judge

import (
	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/model"
)

// simCaller is one caller of a simulation: the coordinator's client and who uses it.
type simCaller struct {
	*sim
	number int
	sleep  sleeping
	leases []*simLeaseOf
	killed bool
}

type simLeaseOf struct {
	key, print     int32
	owner          int32
	token          int64
	attempt        int32
	sequence       int64
	end            int64 // by the server, ms
	deadline       int64
	renewed        int64 // when it was last confirmed
	manual         bool
	lost, finished bool
	done           bool // it knows that it has completed
	result         int32
	failed         bool
	held           history.Holding
}

func (c *simCaller) begin(op history.Op, key int32) *history.Event {
	c.last++
	return &history.Event{
		ID: c.last, Process: c.number/3 + 1, Caller: c.number, Domain: c.domain.Name, Key: c.domain.Keys[key], Op: op, Call: c.now + 1,
	}
}

// end writes the event down; now and then the process is killed before.
func (c *simCaller) end(e *history.Event, outcome history.Outcome) history.Outcome {
	if c.killed = c.with.drops && c.number != history.Final && c.IntN(400) == 0; !c.killed {
		e.Return, e.Outcome = max(c.now, e.Call+1), outcome
	} else if e.Op == history.Claim {
		e.Owner, e.Token, e.Attempt, e.Data = "", 0, 0, ""
	}
	c.h.Events = append(c.h.Events, *e)
	return outcome
}

func (c *simCaller) run(sleep sleeping) {
	c.sleep = sleep
	for range c.with.visits {
		if c.killed {
			break
		}
		sleep(c.between(0, 40*ms))
		key := c.Int32N(int32(c.with.keys))
		switch roll := c.IntN(100); {
		case roll < 6:
			c.result(key)
		case roll < 14:
			c.expire(key)
		case roll < 20:
			c.resolve(key)
		case roll < 30 && len(c.leases) > 0:
			c.use(c.leases[c.IntN(len(c.leases))])
		default:
			c.visit(key)
		}
	}
	for _, l := range c.leases {
		c.h.Holdings = append(c.h.Holdings, l.held)
	}
}

func (c *simCaller) visit(key int32) {
	print := int32(1)
	if c.chance(6) {
		print = c.Int32N(3)
	}
	l, owner := c.claim(key, print, 0, c.chance(20), c.chance(10))
	for range 2 {
		if l != nil || owner == 0 || c.killed {
			break
		}
		if c.chance(50) {
			l, owner = c.claim(key, print, owner, false, false)
		} else {
			e := c.begin(history.GiveBack, key)
			e.Owner = ownerOf(owner)
			_, _, ok, _ := c.send(c.sleep, c.giveBack(key, owner), "", false)
			if c.end(e, okOrUnknown(ok)); ok {
				owner = 0
			}
		}
	}
	if l == nil || c.killed {
		return
	}
	c.leases = append(c.leases, l)
	for range c.IntN(5) {
		if !c.killed {
			c.use(l)
		}
	}
	if c.chance(45) && !c.killed {
		c.finish(l)
	}
}

// use does something under a lease, or while nothing.
func (c *simCaller) use(l *simLeaseOf) {
	switch roll := c.IntN(100); {
	case roll < 18:
		c.write(l)
	case roll < 32:
		c.insert(l)
	case roll < 45:
		c.checkpoint(l)
	case roll < 55:
		c.renew(l, true)
	case roll < 60:
		c.release(l)
	case roll < 68:
		c.finish(l)
	default:
		c.hold(l, c.between(0, simLease))
	}
}

func okOrUnknown(ok bool) history.Outcome {
	if ok {
		return history.OK
	}
	return history.Unknown
}

func (c *simCaller) request(verb model.Verb, l *simLeaseOf) model.Request {
	return model.Request{
		Verb: verb, Key: l.key, Owner: l.owner, Token: l.token, Length: (simLease + simGrace) / ms, Retention: 86_400_000, Print: l.print, Attempt: l.attempt, End: l.end,
	}
}

func (c *simCaller) giveBack(key, owner int32) model.Request {
	return model.Request{Verb: model.GiveBack, Key: key, Owner: owner, Retention: 86_400_000, Burial: 100 * simLease / ms}
}

// claim asks for a key; of one whose outcome is unknown it returns the owner.
func (c *simCaller) claim(key, print, asked int32, quarantine, wait bool) (_ *simLeaseOf, unknown int32) {
	e := c.begin(history.Claim, key)
	e.Owner, e.Fingerprint, e.Quarantine, e.Wait = ownerOf(asked), printOf(print), quarantine, wait
	if c.chance(5) && len(c.leases) > 0 {
		e.MinToken = c.leases[0].token + c.Int64N(500)
	}
	owner := asked
	if owner == 0 {
		c.owners++
		owner = c.owners
	}
	for looks := c.IntN(4); ; {
		q := model.Request{
			Verb: model.Claim, Key: key, Owner: owner, Print: print, Length: (simLease + simGrace) / ms, Lifetime: 100 * simLease / ms,
			Retention: 86_400_000, Quarantine: quarantine, Floor: e.MinToken,
		}
		r, unconfirmed, ok, sent := c.send(c.sleep, q, "", false)
		if !ok {
			e.Owner = ownerOf(owner)
			c.end(e, history.Unknown)
			return nil, owner
		}
		switch r.Code {
		case model.OK:
			if unconfirmed && c.with.replicas > 0 {
				c.send(c.sleep, c.giveBack(key, owner), "", false)
				c.end(e, history.NotReplicated)
				return nil, 0
			}
			l := &simLeaseOf{
				key: key, print: print, owner: owner, token: r.Record.Token, attempt: r.Record.Attempt, sequence: r.Record.Sequence,
				end: r.Record.End, deadline: sent + min(simLease, (r.Record.End-r.Now)*ms-simGrace), renewed: c.now, manual: c.chance(50),
			}
			if c.now < l.deadline {
				e.Owner, e.Token, e.Attempt = ownerOf(owner), l.token, int(l.attempt)
				if r.Record.Saved {
					e.Data = dataOf(r.Record.Data)
				}
				outcome := history.Granted
				if r.Which == takeover {
					outcome = history.Takeover
				}
				c.end(e, outcome)
				l.held = history.Holding{
					Process: e.Process, Caller: e.Caller, Domain: e.Domain, Key: e.Key, Owner: e.Owner, Token: e.Token,
					Granted: e.Return, Alive: e.Return, Lease: simLease, Grace: simGrace, Auto: !l.manual,
				}
				return l, 0
			}
			fallthrough
		case model.Over:
			if _, _, ok, _ := c.send(c.sleep, c.giveBack(key, owner), "", false); !ok {
				e.Owner = ownerOf(owner)
				c.end(e, history.Unknown)
				return nil, owner
			}
			c.owners++
			owner = c.owners
			continue
		case model.Busy, model.Blocked:
			if wait && looks > 0 {
				looks--
				c.sleep(c.between(ms, simLease))
				continue
			}
			if e.Attempt = int(r.Record.Attempt); r.Code == model.Blocked {
				e.Attempt = int(r.Attempt)
			}
			c.end(e, history.InProgress)
		case model.Finished:
			if unconfirmed && c.with.replicas > 0 && r.Record.Mark == 0 {
				c.end(e, history.NotReplicated)
				return nil, 0
			}
			e.Found, e.Failed = dataOf(r.Record.Data), r.Record.State == model.Failed
			c.end(e, history.Replayed)
		case model.Mismatch:
			c.end(e, history.Mismatch)
		case model.Uncertain:
			c.end(e, history.Uncertain)
		default:
			panic(r.Code.String())
		}
		return nil, 0
	}
}

// final claims every key once more.
func (c *simCaller) final(sleep sleeping) {
	c.sleep = sleep
	for key := range c.domain.Keys {
		for print := range int32(3) {
			before := len(c.h.Events)
			l, _ := c.claim(int32(key), (print+1)%3, 0, false, false)
			if l != nil {
				c.release(l)
			}
			if c.h.Events[before].Outcome != history.Mismatch {
				break
			}
		}
	}
}
