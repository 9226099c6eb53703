package caller

import (
	"context"
	"errors"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/history"
)

// claim asks for a key, in one of the ways there are, and works under what it gets.
func (a *actor) claim(d *Domain, key coordinator.Key) {
	e := a.event(history.Claim, d, key)
	e.Fingerprint = a.fingerprint()
	e.Quarantine = d.Quarantine && !a.chance(10)
	e.Wait = a.chance(15)
	if a.chance(4) {
		for _, w := range a.old { // the protected resource's high-water mark
			if w.domain.Number == d.Number {
				e.MinToken = max(e.MinToken, int64(w.lease.Token())+int64(a.random.IntN(1000)))
			}
		}
	}
	manual := a.chance(50)
	length := a.between(a.lease[0], a.between(a.lease[0], a.lease[1])).Round(time.Millisecond) // more short ones than long
	options := []coordinator.ClaimOption{coordinator.LeaseFor(length), coordinator.MinToken(coordinator.Token(e.MinToken))}
	if e.Fingerprint != "" {
		options = append(options, coordinator.Fingerprint(print(e.Fingerprint)))
	}
	if e.Quarantine {
		options = append(options, coordinator.QuarantineLapsed())
	}
	if e.Wait {
		options = append(options, coordinator.WaitUpTo(a.between(50*time.Millisecond, 600*time.Millisecond)))
	}
	if manual {
		options = append(options, coordinator.ManualRenewal())
	} else if a.chance(20) {
		options = append(options, coordinator.MaxLifetime(length+length/2))
	}

	lease, unknown, retry := a.ask(e, length, manual, key, options)
	if retry > 0 && retry < a.lease[1] && a.chance(35) { // whoever is there when the lease in the way lapses takes over
		a.pause(retry + a.between(0, 20*time.Millisecond))
		lease, unknown, _ = a.ask(e, length, manual, key, options)
	}
	for again := 0; lease == nil && unknown != "" && again < 3; again++ {
		switch {
		case a.chance(60):
			e.Owner, e.Wait = unknown, false
			lease, unknown, _ = a.ask(e, length, manual, key, append(options, coordinator.Owner(unknown), coordinator.WaitUpTo(0)))
		case a.chance(60):
			unknown = a.giveBack(d, key, unknown)
		default:
			unknown = "" // it costs its lease
		}
	}
	if lease != nil {
		w := &work{actor: a, domain: d, key: key, lease: lease.Lease, held: lease.holding, manual: manual, length: length}
		w.run()
	} else {
		a.pause(a.between(10*time.Millisecond, 80*time.Millisecond))
	}
}

// granted is a lease that is followed.
type granted struct {
	*coordinator.Lease
	*holding
}

// ask sends one claim; of one whose outcome is unknown it returns the owner, of one that came too early when to try again.
func (a *actor) ask(e history.Event, length time.Duration, manual bool, key coordinator.Key, options []coordinator.ClaimOption) (_ *granted, unknown string, retry time.Duration) {
	ctx, cancel := a.bounded(context.Background())
	defer cancel()
	lease, step, err := a.rec.Claim(ctx, a.coord, e, key, options...)
	if err != nil {
		var u *coordinator.UnknownError
		if errors.As(err, &u) {
			return nil, u.Owner, 0
		}
		var busy *coordinator.InProgressError
		if errors.As(err, &busy) {
			return nil, "", busy.RetryAfter
		}
		return nil, "", 0
	}
	return &granted{lease, a.rec.hold(history.Holding{
		Caller: a.number, Domain: e.Domain, Key: e.Key, Owner: step.Owner, Token: step.Token, Granted: step.Return,
		Alive: step.Return, Lease: int64(length), Grace: int64(graceOf(length)), Auto: !manual,
	}, lease)}, "", 0
}

func (a *actor) giveBack(d *Domain, key coordinator.Key, owner string) (unknown string) {
	e := a.event(history.GiveBack, d, key)
	e.Owner = owner
	ctx, cancel := a.bounded(context.Background())
	defer cancel()
	step := a.rec.Begin(e)
	if err := a.coord.GiveBack(ctx, key, owner); step.End(err) == history.Unknown {
		return owner
	}
	return ""
}

// graceOf is the coordinator's default: a tenth of the claim's own lease, at least 20 ms.
func graceOf(lease time.Duration) time.Duration { return max(lease/10, 20*time.Millisecond) }
