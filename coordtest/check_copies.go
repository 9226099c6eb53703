package coordtest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
)

func copyChecks() []check {
	return []check{
		{"P5", "copies of requests that arrive late change nothing", func(t *trial) {
			for kind, key := range t.kinds() {
				l := &life{trial: t, kind: kind, key: key}
				l.run()
				if l.copies < 100 {
					t.Errorf("%s: only %d copies were sent; is the client's hook called?", kind, l.copies)
				}
			}
		}},
		{"P5", "a claim asked again by its owner is the same claim", sameClaim},
		{"P5", "a late copy of what an operator did tells equal tokens apart", operatorsLate},
		{"P7", "a call whose context has ended does nothing", endedContext},
	}
}

// life is the whole life of one key. After each step every script that was sent so far is sent again.
type life struct {
	*trial
	kind   string
	key    coordinator.Key
	lease  *coordinator.Lease
	from   int // requests of lives before this one
	copies int
}

func (l *life) run() {
	l.from = len(l.log.requests())
	claim := func(opts ...coordinator.ClaimOption) func() error {
		return func() (err error) {
			l.lease, err = l.c.Claim(l.ctx, l.key, append(opts, coordinator.ManualRenewal())...)
			return err
		}
	}
	save := func(data string) func() error {
		return func() error { return l.lease.SaveCheckpoint(l.ctx, []byte(data)) }
	}
	lapse := func() error { l.lapsed(l.key); return nil }
	const known = "00000000000000000000000000000abc"
	for _, step := range []struct {
		what string
		do   func() error
		soon bool // its lease may lapse on the way: copies wait for the next step
	}{
		{"claim", claim(), false},
		{"renew", func() error { return l.lease.Renew(l.ctx) }, false},
		{"checkpoint", save("one"), false},
		{"another checkpoint", save("two"), false},
		{"release", func() error { return l.lease.Release(l.ctx) }, false},
		{"claim again", claim(coordinator.LeaseFor(short)), true},
		{"a third checkpoint", save("three"), true},
		{"lapse", lapse, false},
		{"take over", claim(coordinator.LeaseFor(short)), true},
		{"lapse again", lapse, false},
		{"resolve", func() error { return l.c.Resolve(l.ctx, l.key, coordinator.Resolution{Rerun: true}) }, false},
		{"claim, to give back", claim(coordinator.Owner(known)), false},
		{"give back", func() error { return l.c.GiveBack(l.ctx, l.key, known) }, false},
		{"claim after that", claim(), false},
		{"expire", func() error { return l.c.Expire(l.ctx, l.key) }, false},
		{"claim after expire", claim(), false},
		{"fail", func() error { return l.lease.Fail(l.ctx, []byte("no")) }, false},
		{"expire the failure", func() error { return l.c.Expire(l.ctx, l.key) }, false},
		{"claim for the last time", claim(), false},
		{"complete", func() error { return l.lease.Complete(l.ctx, []byte("yes")) }, false},
	} {
		if err := step.do(); err != nil {
			l.Fatalf("%s: %s: %v", l.kind, step.what, err)
		}
		if !step.soon {
			l.resend(step.what)
		}
	}
}

// resend sends a copy of everything and puts back what a copy may change, so that the next one finds the same.
func (l *life) resend(step string) {
	before := l.raw(l.key)
	was := l.inspect(l.key)
	for _, r := range l.log.requests()[l.from:] {
		l.copies++
		if err := l.rdb.Do(l.ctx, r.args...).Err(); err != nil && !errors.Is(err, redis.Nil) {
			l.Fatalf("%s: after %s, a copy of %s: %v", l.kind, step, r, err)
		}
		is := l.inspect(l.key)
		if is.RetentionRemaining < was.RetentionRemaining-10*time.Second {
			l.Errorf("%s: after %s, a copy of %s shortened the TTL from %v to %v", l.kind, step, r, was.RetentionRemaining, is.RetentionRemaining)
		}
		after := l.raw(l.key)
		if maps.Equal(before, after) {
			continue
		}
		open := was.State == coordinator.StateReleased || was.State == coordinator.StateLapsed
		switch {
		case r.op == "claim" && open && is.Token > was.Token:
			// Granted, and nobody works under it.
		case r.op == "renew" && was.State == coordinator.StateInProgress && is.Token == was.Token && is.LeaseRemaining <= long+long/10:
			// Prolonged by one lease.
		default:
			l.Errorf("%s: after %s, a copy of %s changed what is there\nfrom %q\nto   %q", l.kind, step, r, before, after)
		}
		for name, text := range before {
			if text == "" {
				l.ok("DEL", l.rdb.Del(l.ctx, name).Err())
			} else {
				l.ok("SET", l.rdb.Set(l.ctx, name, text, redis.KeepTTL).Err())
			}
		}
	}
}

func sameClaim(t *trial) {
	const owner = "0123456789abcdef0123456789abcdef"
	for kind, key := range t.kinds() {
		first := t.claim(t.c, key, coordinator.Owner(owner))
		before := t.raw(key)
		for range 3 {
			again := t.claim(t.c, key, coordinator.Owner(owner))
			if again.Grant() != first.Grant() || again.Attempt() != 1 {
				t.Errorf("%s: asked again, token %d, attempt %d; it was %d", kind, again.Token(), again.Attempt(), first.Token())
			}
		}
		if !maps.Equal(before, t.raw(key)) {
			t.Errorf("%s: asking again changed the record", kind)
		}
		t.ok("give back", t.c.GiveBack(t.ctx, key, owner))
		t.ok("give back again", t.c.GiveBack(t.ctx, key, owner))
		t.state(kind, key, coordinator.StateReleased)
		early := t.key()
		early.Resource = key.Resource
		t.ok("give back before the claim", t.c.GiveBack(t.ctx, early, owner))
		l := t.claim(t.c, early, coordinator.Owner(owner))
		if l.Grant().Owner == owner {
			t.Errorf("%s: a claim that was given up before it arrived was granted", kind)
		}
	}
}

// operatorsLate puts another owner's grant in the place of the one that an operator has ended, under the same token, as clocks
// that are apart can do in a failover; then it sends a copy of what the operator sent.
func operatorsLate(t *trial) {
	for what, act := range map[string]func(key coordinator.Key) error{
		"expire":  func(key coordinator.Key) error { return t.c.Expire(t.ctx, key) },
		"resolve": func(key coordinator.Key) error { return t.c.Resolve(t.ctx, key, coordinator.Resolution{Rerun: true}) },
	} {
		for kind, key := range t.kinds() {
			l := t.claim(t.c, key, coordinator.LeaseFor(short), coordinator.ManualRenewal())
			t.lapsed(key)
			grant := t.raw(key)
			t.ok(what, act(key))
			sent := t.log.requests()
			for name, text := range grant {
				text = strings.ReplaceAll(text, l.Grant().Owner, strings.Repeat("0", 32))
				t.ok("SET", t.rdb.Set(t.ctx, name, text, redis.KeepTTL).Err())
			}
			before := t.raw(key)
			t.ok("a copy of "+what, t.rdb.Do(t.ctx, sent[len(sent)-1].args...).Err())
			if after := t.raw(key); !maps.Equal(before, after) {
				t.Errorf("%s: a late copy of %s changed what another owner has under an equal token\nfrom %q\nto   %q", kind, what, before, after)
			}
		}
	}
}

func endedContext(t *trial) {
	key := t.key()
	l := t.claim(t.c, key)
	before := t.raw(key)
	ctx, cancel := context.WithCancel(t.ctx)
	cancel()
	_, claimed := t.c.Claim(ctx, t.key())
	for what, err := range map[string]error{
		"claim": claimed, "renew": l.Renew(ctx), "checkpoint": l.SaveCheckpoint(ctx, nil), "complete": l.Complete(ctx, nil),
		"expire": t.c.Expire(ctx, key), "give back": t.c.GiveBack(ctx, key, l.Grant().Owner),
	} {
		if !errors.Is(err, coordinator.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !maps.Equal(before, t.raw(key)) {
		t.Errorf("it changed what is there")
	}
}
