package coordinator

import (
	"context"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Tokens and clocks: which clock a token is of, and what becomes of one that is ahead of it.

// P2. A token is the server's time, whatever the client's clock says: two clients' clocks are apart, and only the
// server's have a limit named.
func TestTokensAreOfTheServersClock(t *testing.T) {
	m := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
	defer rdb.Close()
	c := open(t, rdb)
	for _, apart := range []time.Duration{-time.Hour, time.Hour} {
		now := time.Now().Add(apart).Truncate(time.Microsecond)
		m.SetTime(now)
		for what, opts := range map[string][]ClaimOption{"the short way": nil, "the whole script": {QuarantineLapsed()}} {
			if l := mustClaim(t, c, newKey(t), opts...); int64(l.Token()) != now.UnixMicro() {
				t.Errorf("%s: the token is %d, the server's time %d", what, l.Token(), now.UnixMicro())
			}
		}
	}
}

// P2. The tokens of a resource's keys rise together, also where the clock does not see to it.
func TestTokensOfAResourceRiseTogether(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		one, two := newKey(t), newKey(t)
		one.Resource, two.Resource = one.ID, one.ID
		last := Token(time.Now().Add(time.Hour).UnixMicro())
		for i, key := range []Key{one, two, one} {
			l := mustClaim(t, c, key, MinToken(last*Token(1-min(i, 1)))) // the first is ahead of the clock
			if l.Token() <= last {
				t.Errorf("claim %d: after %d came %d", i, last, l.Token())
			}
			last = l.Token()
			if err := l.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// P2. Were a record with a token ahead of the clock forgotten before the clock has passed it, the next one would be lower.
func TestTokenAheadOfTheClockIsKept(t *testing.T) {
	const ahead = 12 * time.Hour
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb, WithRetention(2*time.Hour))
		ctx := t.Context()
		for what, act := range map[string]func(l *Lease) error{
			"claim":     func(*Lease) error { return nil },
			"renew":     func(l *Lease) error { return l.Renew(ctx) },
			"complete":  func(l *Lease) error { return l.Complete(ctx, nil) },
			"release":   func(l *Lease) error { return l.Release(ctx) },
			"give back": func(l *Lease) error { return c.GiveBack(ctx, l.Key(), l.Grant().Owner) },
			"expire":    func(l *Lease) error { return c.Expire(ctx, l.Key()) },
			"resolve": func(l *Lease) error {
				lapse(t, rdb, l.names.Keys()...)
				return c.Resolve(ctx, l.Key(), Resolution{Rerun: true})
			},
		} {
			for _, resource := range []bool{false, true} {
				key := newKey(t)
				if resource {
					key.Resource = key.ID
				}
				l := mustClaim(t, c, key, ManualRenewal(), MinToken(Token(time.Now().Add(ahead).UnixMicro())))
				if err := act(l); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				for _, name := range l.names.Keys() {
					if ttl := rdb.PTTL(ctx, name).Val(); ttl < ahead-time.Minute {
						t.Errorf("after %s, %s with a token %v ahead is kept for %v", what, name, ahead, ttl)
					}
				}
			}
		}
	})
}

// P8. A server whose clock was stepped back would let renewals go on for longer; the holder's own clock does not.
func TestMaximumLifetimeInSpiteOfAClockSteppedBack(t *testing.T) {
	inBubble(t, func(t *testing.T, m *miniredis.Miniredis, rdb *redis.Client) {
		const most, grace = 5 * time.Minute, 3 * time.Second
		c := open(t, rdb, WithLease(30*time.Second), WithMaxLifetime(most))
		began := time.Now()
		l := mustClaim(t, c, newKey(t))
		ended := make(chan time.Time, 1)
		context.AfterFunc(l.Context(), func() { ended <- time.Now() })
		for l.Context().Err() == nil && time.Since(began) < 2*most {
			m.SetTime(time.Now().Add(-time.Hour)) // it goes on from there
			time.Sleep(time.Second)               // the fake clock's
		}
		_ = c.Close()
		if off := (<-ended).Sub(began) - (most - grace); off < -time.Millisecond || off > time.Millisecond {
			t.Errorf("it ended %v off its maximum lifetime, less the grace", off)
		}
		wantError(t, context.Cause(l.Context()), ErrLeaseLost)
	})
}
