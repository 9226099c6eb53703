package coordtest

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/onceward/coordinator"
)

func timeChecks() []check {
	return []check{
		{"P6", "a holder knows before its successor is let in", knows},
		{"P8", "a crash costs a lease and its grace", crash},
		{"P8", "a lease is renewed, up to its maximum lifetime", lifetime},
		{"P8", "everything has a TTL, and a result stays its retention", ttls},
		{"P8", "a key older than the retention is refused", issuedAt},
	}
}

func knows(t *trial) {
	there := t.open()
	for kind, key := range t.kinds() {
		for range 3 {
			l := t.claim(t.c, key, coordinator.ManualRenewal(), coordinator.LeaseFor(short))
			next := t.claim(there, key, coordinator.WaitUpTo(10*time.Second))
			if l.Context().Err() == nil {
				t.Errorf("%s: the key was granted while its holder believed that it had it", kind)
			}
			t.ok("release", next.Release(t.ctx))
		}
	}
}

func crash(t *trial) {
	there := t.open()
	for kind, key := range t.kinds() {
		crashed := t.open()
		t.claim(crashed, key, coordinator.LeaseFor(short))
		began := time.Now()
		_ = crashed.Close()
		l := t.claim(there, key, coordinator.WaitUpTo(10*time.Second))
		if took := time.Since(began); took > 2*time.Second+short+grace {
			t.Errorf("%s: it took %v to take over a lease of %v", kind, took, short)
		}
		if l.Attempt() != 2 {
			t.Errorf("%s: the takeover is attempt %d", kind, l.Attempt())
		}
	}
}

func lifetime(t *trial) {
	var both sync.WaitGroup
	for kind, key := range t.kinds() {
		manual := t.key()
		if key.Resource != "" {
			manual.Resource = "of " + manual.ID
		}
		renewed := t.claim(t.c, key, coordinator.LeaseFor(middling), coordinator.MaxLifetime(most))
		byHand := t.claim(t.c, manual, coordinator.LeaseFor(middling), coordinator.MaxLifetime(most), coordinator.ManualRenewal())
		both.Go(func() { t.outlived(kind, time.Now(), renewed, byHand) })
	}
	both.Wait()
}

const (
	middling = 600 * time.Millisecond  // a lease that is renewed a few times
	most     = 1500 * time.Millisecond // and its maximum lifetime
)

func (t *trial) outlived(kind string, began time.Time, renewed, byHand *coordinator.Lease) {
	for time.Since(began) < most-middling/2 {
		if err := byHand.Renew(t.ctx); err != nil && time.Since(began) < most/2 {
			t.Errorf("%s: renewing by hand after %v: %v", kind, time.Since(began), err)
		}
		so := time.Since(began) // at the least: it began before, and the look comes later
		if left := t.inspect(byHand.Key()).LeaseRemaining; so+left > most+10*time.Millisecond {
			t.Errorf("%s: %v after the claim its lease goes on for %v, its maximum lifetime is %v", kind, so, left, most)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if so := time.Since(began); so < most-middling/4 && renewed.Context().Err() != nil {
		t.Errorf("%s: after %v of %v: %v", kind, so, most, context.Cause(renewed.Context()))
	}
	for _, lease := range []*coordinator.Lease{renewed, byHand} {
		select {
		case <-lease.Context().Done():
			t.want(kind+": the cause", context.Cause(lease.Context()), coordinator.ErrLeaseLost)
		case <-time.After(5 * time.Second):
			t.Errorf("%s: a lease outlives its maximum lifetime", kind)
		}
		t.lapsed(lease.Key())
	}
	if lived := time.Since(began); lived > most+2*time.Second {
		t.Errorf("%s: they lapsed after %v", kind, lived)
	}
}

func ttls(t *trial) {
	const retention = 3 * time.Hour
	c := t.open(coordinator.WithRetention(retention), coordinator.WithMaxLifetime(time.Hour))
	for kind, key := range t.kinds() {
		about := func(what string, want time.Duration) {
			t.Helper()
			if left := t.inspect(key).RetentionRemaining; left > want || left < want-20*time.Second {
				t.Errorf("%s: after %s the record stays for %v, not %v", kind, what, left, want)
			}
			for _, name := range t.names(key) {
				if ttl := t.rdb.PTTL(t.ctx, name).Val(); ttl <= 0 || ttl > retention+2*long {
					t.Errorf("%s: after %s %s has the TTL %v", kind, what, name, ttl)
				}
			}
		}
		const lent = long + long/10
		l := t.claim(c, key, coordinator.ManualRenewal())
		about("a claim", retention+lent)
		t.ok("renew", l.Renew(t.ctx))
		about("a renewal", retention+lent)
		t.ok("checkpoint", l.SaveCheckpoint(t.ctx, []byte("so far")))
		about("a checkpoint", retention+lent)
		t.ok("release", l.Release(t.ctx))
		about("a release", retention)
		l = t.claim(c, key)
		t.ok("complete", l.Complete(t.ctx, nil))
		about("a result", retention)
		t.ok("expire", c.Expire(t.ctx, key))
		about("expire", time.Hour+6*time.Minute)
		l = t.claim(c, key)
		t.ok("fail", l.Fail(t.ctx, nil, coordinator.RetainFor(2*time.Hour)))
		about("a failure with a retention of its own", 2*time.Hour)
	}
}

func issuedAt(t *trial) {
	c := t.open(coordinator.WithRetention(3 * time.Hour))
	key := t.key()
	_, err := c.Claim(t.ctx, key, coordinator.IssuedAt(time.Now().Add(-5*time.Hour)))
	t.want("a key of five hours ago", err, coordinator.ErrKeyExpired)
	t.state("a key of five hours ago", key, coordinator.StateAbsent)
	_, err = c.Claim(t.ctx, key, coordinator.IssuedAt(time.Now().Add(3*time.Hour)))
	t.want("a key of three hours ahead", err, coordinator.ErrInvalid)
	l := t.claim(c, key, coordinator.IssuedAt(time.Now().Add(-time.Hour)))
	t.ok("complete", l.Complete(t.ctx, nil))
	_, err = c.Claim(t.ctx, key, coordinator.IssuedAt(time.Now().Add(-5*time.Hour)))
	t.want("an old key with a result", err, coordinator.ErrCompleted)

	// Who gives up a claim that never came leaves something there, which says nothing of the key.
	const owner = "0123456789abcdef0123456789abcdef"
	old := coordinator.IssuedAt(time.Now().Add(-5 * time.Hour))
	for kind, key := range t.kinds() {
		t.ok("give back", c.GiveBack(t.ctx, key, owner))
		before := t.raw(key)
		_, err := c.Claim(t.ctx, key, old)
		t.want(kind+", old, whose claim was given back", err, coordinator.ErrKeyExpired)
		_, err = c.Claim(t.ctx, key, old, coordinator.Owner(owner))
		t.want(kind+", old, asked for again after its give back", err, coordinator.ErrKeyExpired)
		if !maps.Equal(before, t.raw(key)) {
			t.Errorf("%s: a claim that was refused changed what is there", kind)
		}
		t.ok("release", t.claim(c, key, coordinator.IssuedAt(time.Now().Add(-time.Hour))).Release(t.ctx))
		t.claim(c, key, old)

		t.lose(key)
		t.ok("give back", c.GiveBack(t.ctx, key, owner))
		t.ok("expire", c.Expire(t.ctx, key))
		if l := t.claim(c, key, old); l.Attempt() != 1 {
			t.Errorf("%s: expired, it is attempt %d", kind, l.Attempt())
		}
	}
}
