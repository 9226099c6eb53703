package caller

import (
	"context"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/chaos/judge"
)

// work is what a caller does under one lease.
type work struct {
	*actor
	domain *Domain
	key    coordinator.Key
	lease  *coordinator.Lease
	held   *holding
	manual bool
	length time.Duration

	stored string // what a completion was called with
	failed bool   // the completion was a failure
}

// mostOld is how many leases a caller keeps for late calls.
const mostOld = 4

// run works under the lease and ends it, in one of the ways there are. What may still come late is kept.
func (w *work) run() {
	for range w.random.IntN(5) {
		w.held.seen()
		w.held.note()
		switch roll := w.random.IntN(100); {
		case roll < 50:
			w.write()
		case roll < 65:
			w.save()
		case roll < 75:
			w.renew()
		default:
			w.rest(w.between(5*time.Millisecond, w.length/3))
		}
	}
	switch roll := w.random.IntN(100); {
	case w.manual && roll < 30: // paused past the lease, and writing as if nothing had happened
		w.rest(w.length + w.between(0, w.length/2))
		w.writeBoth()
		w.finish()
	case w.manual && roll < 60: // left to lapse
	case !w.manual && roll < 15: // renewed in the background
		w.rest(w.length + w.between(0, w.length/2))
		w.writeBoth()
		w.finish()
	case roll < 80:
		w.finish()
	default:
		w.release()
	}
	if !w.manual && w.held.seen() {
		w.release() // it would be renewed for as long as the lifetime allows
	}
	w.held.seen()
	w.held.note()
	w.old = append(w.old, w)
	if len(w.old) > mostOld {
		w.old = w.old[1:]
	}
}

// rest does nothing for some time but look at the lease.
func (w *work) rest(d time.Duration) {
	const look = 10 * time.Millisecond
	for begun := time.Now(); time.Since(begun) < d && !w.ending(); {
		w.pause(min(look, d))
		w.held.seen()
	}
	w.held.note()
}

// late is what the holder of an old lease does that does not know, or does not care.
func (a *actor) late(w *work) {
	w.held.seen()
	switch roll := a.random.IntN(100); {
	case roll < 50:
		w.writeBoth()
	case roll < 75:
		w.finish()
	case roll < 85:
		w.save()
	case roll < 95:
		w.renew()
	default:
		w.release()
	}
}

func (w *work) event(op history.Op) history.Event {
	e := w.actor.event(op, w.domain, w.key)
	e.Owner, e.Token = w.lease.Grant().Owner, int64(w.lease.Token())
	return e
}

// write adds a line to one of the two sinks.
func (w *work) write() {
	if w.chance(50) {
		w.insert()
	} else {
		w.push()
	}
}

func (w *work) writeBoth() {
	w.insert()
	w.push()
}

func (w *work) push() {
	e := w.event(history.Write)
	e.Data = judge.SinkLine(e.Token, e.Owner, w.rec.text("w"))
	ctx, cancel := w.bounded(context.Background())
	defer cancel()
	fence := w.coord.Fence(w.key)
	step := w.rec.Begin(e)
	step.End(fence.Do(ctx, w.lease.Grant(), "RPUSH", w.domain.Sink(), e.Data).Err())
}

func (w *work) insert() {
	e := w.event(history.Insert)
	e.Data = judge.SinkLine(e.Token, e.Owner, w.rec.text("w"))
	ctx, cancel := w.bounded(context.Background())
	defer cancel()
	step := w.rec.Begin(e)
	step.End(w.table.insert(ctx, e.Domain, w.lease.Grant(), e.Data))
}

func (w *work) save() {
	e := w.event(history.Checkpoint)
	e.Data = w.rec.text("c")
	ctx, cancel := w.bounded(context.Background())
	defer cancel()
	step := w.rec.Begin(e)
	step.End(w.lease.SaveCheckpoint(ctx, []byte(e.Data)))
}

func (w *work) renew() {
	ctx, cancel := w.bounded(context.Background())
	defer cancel()
	step := w.rec.Begin(w.event(history.Renew))
	step.End(w.lease.Renew(ctx))
}

func (w *work) release() {
	ctx, cancel := w.bounded(context.Background())
	defer cancel()
	step := w.rec.Begin(w.event(history.Release))
	step.End(w.lease.Release(ctx))
}

// finish completes or fails, asks again while the outcome is not known, and now and then says something else afterwards.
func (w *work) finish() {
	if w.stored == "" || w.chance(20) {
		w.stored, w.failed = w.rec.text("r"), w.chance(20)
	}
	for range 4 {
		e, call := w.event(history.Complete), w.lease.Complete
		if w.failed {
			e.Op, call = history.Fail, w.lease.Fail
		}
		e.Data = w.stored
		ctx, cancel := w.bounded(context.Background())
		step := w.rec.Begin(e)
		outcome := step.End(call(ctx, []byte(e.Data)))
		cancel()
		again := (outcome == history.Unknown || outcome == history.NotReplicated || outcome == history.Unavailable) && w.chance(80)
		if !again && !w.chance(8) {
			return
		}
	}
}
