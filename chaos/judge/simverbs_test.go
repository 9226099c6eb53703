package judge

import (
	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/model"
)

// look notes whether the lease's context lives.
func (c *simCaller) look(l *simLeaseOf) {
	if l.held.Ended != 0 {
		return
	}
	switch {
	case l.finished:
		l.held.Ended, l.held.Cause = c.now, "finished"
	case l.lost, c.now >= l.deadline:
		l.lost = true
		l.held.Ended, l.held.Cause = min(c.now, max(l.deadline, l.held.Alive)), "lease_lost"
	default:
		l.held.Alive = c.now
	}
}

// hold lets time pass, with renewals in the background.
func (c *simCaller) hold(l *simLeaseOf, ns int64) {
	for until := c.now + ns; c.now < until; c.look(l) {
		c.sleep(min(until-c.now, 2*ms))
		if !l.manual && !l.lost && !l.finished && c.now-l.renewed > simLease/3 && c.now < l.deadline {
			c.renew(l, false)
		}
	}
}

func (c *simCaller) holding(op history.Op, l *simLeaseOf) *history.Event {
	c.look(l)
	e := c.begin(op, l.key)
	e.Owner, e.Token = ownerOf(l.owner), l.token
	return e
}

// refused ends the event of a holder's call that was told that its grant is over.
func (c *simCaller) refused(e *history.Event, l *simLeaseOf, r model.Reply) {
	l.lost = true
	if r.Code == model.Lost {
		c.end(e, history.LeaseLost)
		return
	}
	e.Current = r.Record.Token
	c.end(e, history.Stale)
}

func (c *simCaller) renew(l *simLeaseOf, asked bool) {
	e := c.holding(history.Renew, l)
	if l.lost {
		if asked {
			c.end(e, history.LeaseLost)
		}
		return
	}
	r, unconfirmed, ok, sent := c.send(c.sleep, c.request(model.Renew, l), "", !asked)
	end := func(outcome history.Outcome) {
		if asked {
			c.end(e, outcome)
		}
	}
	switch {
	case !ok:
		end(history.Unknown)
	case r.Code == model.OK && unconfirmed && c.with.replicas > 0:
		end(history.NotReplicated)
	case r.Code == model.OK:
		l.deadline, l.end, l.renewed = sent+min(simLease, (r.Record.End-r.Now)*ms-simGrace), r.Record.End, c.now
		end(history.OK)
	case asked:
		c.refused(e, l, r)
	default:
		l.lost = true
	}
	c.look(l)
}

func (c *simCaller) checkpoint(l *simLeaseOf) {
	e := c.holding(history.Checkpoint, l)
	l.sequence++
	q := c.request(model.Checkpoint, l)
	q.Sequence, q.Data = l.sequence, c.text()
	e.Data = dataOf(q.Data)
	r, _, ok, _ := c.send(c.sleep, q, "", false)
	switch {
	case !ok:
		c.end(e, history.Unknown)
	case r.Code == model.OK:
		c.end(e, history.OK)
	default:
		c.refused(e, l, r)
	}
}

func (c *simCaller) write(l *simLeaseOf) {
	e := c.holding(history.Write, l)
	e.Data = SinkLine(l.token, e.Owner, dataOf(c.text()))
	q := c.request(model.FenceCheck, l)
	r, _, ok, _ := c.send(c.sleep, q, e.Data, true)
	switch {
	case !ok:
		c.end(e, history.Unknown)
	case r.Code == model.OK:
		c.end(e, history.OK)
	default:
		e.Current = r.Record.Token
		c.end(e, history.Stale)
	}
}

// insert writes to the table, some a while after they were to; now and then the commit is lost, or only its answer.
func (c *simCaller) insert(l *simLeaseOf) {
	e := c.holding(history.Insert, l)
	e.Data = SinkLine(l.token, e.Owner, dataOf(c.text()))
	c.sleep(c.between(ms/20, 4*ms))
	if c.chance(25) {
		c.sleep(c.between(0, 2*simLease))
	}
	lost := c.with.drops && c.chance(10)
	if lost && c.chance(50) {
		c.end(e, history.Unknown)
		return
	}
	seen, ok := c.sim.insert(l.token, l.owner, e.Data)
	c.sleep(c.between(ms/20, 4*ms))
	switch {
	case !ok:
		e.Current = seen
		c.end(e, history.Stale)
	case lost:
		c.end(e, history.Unknown)
	default:
		c.end(e, history.OK)
	}
}

func (c *simCaller) finish(l *simLeaseOf) {
	if l.result == 0 || c.chance(20) {
		l.result, l.failed = c.text(), c.chance(20)
	}
	for range 3 {
		e := c.holding(history.Complete, l)
		q := c.request(model.Complete, l)
		q.Within, q.Finish = c.chance(80), l.end
		if q.Outcome = model.Completed; l.failed {
			e.Op, q.Outcome = history.Fail, model.Failed
		}
		q.Data, e.Data = l.result, dataOf(l.result)
		r, unconfirmed, ok, _ := c.send(c.sleep, q, "", false)
		if ok {
			switch r.Code {
			case model.OK, model.Restored:
				l.finished, l.done = true, true
				if unconfirmed && c.with.replicas > 0 {
					c.end(e, history.NotReplicated)
				} else {
					c.end(e, history.OK)
				}
			case model.Finished:
				l.finished = true
				e.Found, e.Failed = dataOf(r.Record.Data), r.Record.State == model.Failed
				c.end(e, history.Replayed)
			default:
				c.refused(e, l, r)
			}
			c.look(l)
			return
		}
		if c.end(e, history.Unknown); c.killed {
			return
		}
	}
}

func (c *simCaller) release(l *simLeaseOf) {
	e := c.holding(history.Release, l)
	if l.finished = true; l.done {
		c.end(e, history.OK)
		return
	}
	c.look(l)
	_, _, ok, _ := c.send(c.sleep, c.request(model.Release, l), "", false)
	c.end(e, okOrUnknown(ok))
}

func (c *simCaller) read(key int32) (model.Record, bool) {
	r, _, ok, _ := c.send(c.sleep, model.Request{Verb: model.Inspect, Key: key}, "", false)
	return r.Record, ok
}

func (c *simCaller) expire(key int32) {
	e := c.begin(history.Expire, key)
	rec, ok := c.read(key)
	if !ok {
		c.end(e, history.Unknown)
		return
	}
	c.owners++
	_, _, ok, _ = c.send(c.sleep, model.Request{
		Verb: model.Expire, Key: key, Read: rec.Owner, Token: rec.Token, Owner: c.owners, Burial: 100 * simLease / ms, Retention: 86_400_000,
	}, "", false)
	c.end(e, okOrUnknown(ok))
}

func (c *simCaller) resolve(key int32) {
	e := c.begin(history.Resolve, key)
	q := model.Request{Verb: model.Resolve, Key: key, Retention: 86_400_000, Outcome: model.Released}
	if e.Rerun = c.chance(50); !e.Rerun {
		q.Outcome, q.Data = model.Completed, c.text()
		if c.chance(30) {
			q.Outcome, e.Failed = model.Failed, true
		}
		e.Data = dataOf(q.Data)
	}
	rec, ok := c.read(key)
	if !ok {
		c.end(e, history.Unknown)
		return
	}
	q.Read, q.Token = rec.Owner, rec.Token
	r, _, ok, _ := c.send(c.sleep, q, "", false)
	switch {
	case !ok:
		c.end(e, history.Unknown)
	case r.Code == model.OK:
		c.end(e, history.OK)
	case r.Code == model.NotThere:
		c.end(e, history.NotFound)
	case r.Code == model.Finished:
		e.Found, e.Failed = dataOf(r.Record.Data), r.Record.State == model.Failed
		c.end(e, history.Replayed)
	default:
		if e.Attempt = int(r.Record.Attempt); r.Code == model.MovedOn {
			e.Attempt = 0
		}
		c.end(e, history.InProgress)
	}
}

func (c *simCaller) result(key int32) {
	e := c.begin(history.Result, key)
	print := 1 + c.Int32N(2)
	e.Fingerprint = printOf(print)
	r, ok := c.read(key)
	switch {
	case !ok:
		c.end(e, history.Unknown)
	case r.State == model.Absent:
		c.end(e, history.NotFound)
	case r.Print != model.Unbound && r.Print != print:
		c.end(e, history.Mismatch)
	case r.State == model.Completed || r.State == model.Failed:
		e.Found, e.Failed = dataOf(r.Data), r.State == model.Failed
		c.end(e, history.OK)
	case r.State == model.Released:
		c.end(e, history.NotFound)
	default:
		e.Attempt = int(r.Attempt)
		c.end(e, history.InProgress)
	}
}
