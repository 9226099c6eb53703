package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
)

// Every request of a whole life of a key is recorded and sent again after each later step: P5 says what such
// a copy may change, and nothing else may change.
func TestLateCopiesChangeNothing(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		for _, resource := range []string{"", "account"} {
			t.Run("resource="+resource, func(t *testing.T) {
				log := &recorder{}
				rdb.AddHook(log)
				c := open(t, rdb, WithLease(time.Minute))
				key := newKey(t)
				if resource != "" {
					key.Resource = key.ID
				}
				n := c.names(key)
				life := &lifetime{t: t, c: c, rdb: rdb, key: key, n: n, log: log}
				life.run()
				if life.copies < 200 {
					t.Errorf("only %d copies were sent", life.copies)
				}
				for _, verb := range []string{"claim", "renew"} {
					if life.allowed[verb] == 0 {
						t.Errorf("no copy of %s used what P5 allows: the test does not see what it should", verb)
					}
				}
			})
		}
	})
}

type lifetime struct {
	t       *testing.T
	c       *Coordinator
	rdb     redis.UniversalClient
	key     Key
	n       keyname.Names
	log     *recorder
	copies  int
	allowed map[string]int
}

func (l *lifetime) run() {
	ctx := context.Background()
	t, c, key := l.t, l.c, l.key
	l.allowed = map[string]int{}
	var lease *Lease
	claim := func(opts ...ClaimOption) func() error {
		return func() (err error) {
			lease, err = c.Claim(ctx, key, append(opts, ManualRenewal())...)
			return err
		}
	}
	lost, early := "00000000000000000000000000000abc", "00000000000000000000000000000def"
	steps := []struct {
		name string
		do   func() error
	}{
		{"give back before the claim", func() error { return c.GiveBack(ctx, key, early) }},
		{"claim of an old key", func() error {
			if err := claim(IssuedAt(time.Now().Add(-2*kept)), Owner(early))(); !errors.Is(err, ErrKeyExpired) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		}},
		{"claim", claim()},
		{"fenced write", func() error {
			f := c.Fence(key)
			return f.Do(ctx, lease.Grant(), "set", "v"+f.Tag(), "1").Err()
		}},
		{"renew", func() error { return lease.Renew(ctx) }},
		{"checkpoint", func() error { return lease.SaveCheckpoint(ctx, []byte("one")) }},
		{"checkpoint 2", func() error { return lease.SaveCheckpoint(ctx, []byte("two")) }},
		{"release", func() error { return lease.Release(ctx) }},
		{"claim again", claim()},
		{"checkpoint 3", func() error { return lease.SaveCheckpoint(ctx, []byte("three")) }},
		{"lapse", func() error { l.lapse(); return nil }},
		{"take over", claim()},
		{"renew 2", func() error { return lease.Renew(ctx) }},
		{"lapse 2", func() error { l.lapse(); return nil }},
		{"resolve", func() error { return c.Resolve(ctx, key, Resolution{Rerun: true}) }},
		{"claim and give back", func() error {
			if err := claim(Owner(lost))(); err != nil {
				return err
			}
			return c.GiveBack(ctx, key, lost)
		}},
		{"claim 4", claim()},
		{"expire", func() error { return c.Expire(ctx, key) }},
		{"claim 5", claim()},
		{"fail", func() error { return lease.Fail(ctx, []byte("no")) }},
		{"expire 2", func() error { return c.Expire(ctx, key) }},
		{"claim 6", claim()},
		{"complete", func() error { return lease.Complete(ctx, []byte("yes")) }},
		{"release after all", func() error { return lease.Release(ctx) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		l.replay(step.name)
	}
}

func (l *lifetime) lapse() {
	names := []string{l.n.Record}
	if l.n.Fence != "" {
		names = append(names, l.n.Fence)
	}
	lapse(l.t, l.rdb, names...)
}

// state is what stands in Redis, values and TTLs.
func (l *lifetime) state() map[string]string {
	all := map[string]string{}
	for _, name := range l.n.Keys() {
		all[name] = l.rdb.Get(context.Background(), name).Val()
	}
	return all
}

func (l *lifetime) restore(state map[string]string) {
	for name, value := range state {
		if value != "" {
			l.rdb.Set(context.Background(), name, value, redis.KeepTTL)
		}
	}
}

func (l *lifetime) replay(step string) {
	ctx := context.Background()
	l.log.mu.Lock()
	requests := l.log.sent
	l.log.sent = nil
	l.log.mu.Unlock()
	before := l.state()
	ttl := map[string]time.Duration{}
	for _, name := range l.n.Keys() {
		if ttl[name] = l.rdb.PTTL(ctx, name).Val(); before[name] != "" && ttl[name] <= 0 {
			l.t.Errorf("after %s, %s has the TTL %v", step, name, ttl[name]) // P8
		}
	}
	current, err := protocol.DecodeRecord(before[l.n.Record], true)
	if err != nil {
		l.t.Fatalf("after %s: %v", step, err)
	}
	for _, args := range requests {
		verb := verbOf(args)
		if verb == "fence_do" {
			continue // sent once, says P5
		}
		l.copies++
		if err := l.rdb.Do(ctx, args...).Err(); err != nil {
			l.t.Fatalf("after %s, a copy of %s: %v", step, verb, err)
		}
		for _, name := range l.n.Keys() {
			if now := l.rdb.PTTL(ctx, name).Val(); now < ttl[name]-time.Second {
				l.t.Errorf("after %s, a copy of %s shortened the TTL of %s from %v to %v", step, verb, name, ttl[name], now)
			}
		}
		after := l.state()
		if fmt.Sprint(after) == fmt.Sprint(before) {
			continue
		}
		changed, err := protocol.DecodeRecord(after[l.n.Record], true)
		if err != nil {
			l.t.Fatalf("after %s, a copy of %s left: %v", step, verb, err)
		}
		switch {
		case verb == "claim" && changed.Owner != current.Owner && changed.Token > current.Token && givenUp(current):
			l.allowed[verb]++ // granted, and nobody works under it
		case verb == "renew" && changed.Token == current.Token && current.State == protocol.StateInProgress && changed.End > current.End:
			l.allowed[verb]++ // prolonged by one lease at most
			if changed.End-current.End > time.Minute+6*time.Second {
				l.t.Errorf("after %s a copy of renew prolonged by %v", step, changed.End-current.End)
			}
		default:
			l.t.Errorf("after %s, a copy of %s changed\n%q\n%q", step, verb, before, after)
		}
		l.restore(before)
	}
	l.log.mu.Lock()
	l.log.sent = requests // without the copies
	l.log.mu.Unlock()
}

// A claim that was given back before it came leaves a tombstone. Its key stays as old as it was: no copy of the claim is
// granted over it, and no other claim that says how old the key is.
func TestOldKeyIsRefusedAfterAGiveBack(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		for _, resource := range []string{"", "r" + fmt.Sprint(keyNumber.Add(1))} {
			log := &recorder{}
			rdb.AddHook(log)
			s := setUp(t, rdb, resource)
			old, young := IssuedAt(time.Now().Add(-kept-time.Minute)), IssuedAt(time.Now().Add(-kept+time.Minute))
			_, err := s.c.Claim(t.Context(), s.key, old, Owner(mine))
			wantError(t, err, ErrKeyExpired)
			late := log.sent[len(log.sent)-1]
			if err := s.c.GiveBack(t.Context(), s.key, mine); err != nil {
				t.Fatal(err)
			}
			standing := s.get(s.names.Record)
			if err := rdb.Do(t.Context(), late...).Err(); err != nil {
				t.Fatal(err)
			}
			for what, opts := range map[string][]ClaimOption{"another": {old}, "the same, asked again": {old, Owner(mine)}} {
				if _, err := s.c.Claim(t.Context(), s.key, opts...); !errors.Is(err, ErrKeyExpired) {
					t.Errorf("resource %q: %s: %v", resource, what, err)
				}
			}
			if is := s.get(s.names.Record); is != standing {
				t.Errorf("resource %q: a claim that is too old changed\n%q\n%q", resource, standing, is)
			}
			record, err := s.c.Inspect(t.Context(), s.key)
			if err != nil || record.State != StateReleased || record.Attempt != 0 {
				t.Errorf("resource %q: %+v, %v", resource, record, err)
			}
			l := mustClaim(t, s.c, s.key, young)
			if l.Attempt() != 1 || l.Token() <= record.Token {
				t.Errorf("resource %q: attempt %d, token %d after %d", resource, l.Attempt(), l.Token(), record.Token)
			}
		}
	})
}

// Two grants can have equal tokens, by clocks apart across a failover. An operator's request is about the one that he
// read, and a late copy of it does nothing to the other.
func TestLateOperatorsTellEqualTokensApart(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		for verb, act := range map[string]func(s *setting) error{
			"expire": func(s *setting) error { return s.c.Expire(t.Context(), s.key) },
			"expire of nothing": func(s *setting) error {
				s.put(s.names.Record, protocol.Record{}, false)
				return s.c.Expire(t.Context(), s.key)
			},
			"resolve":           func(s *setting) error { return s.c.Resolve(t.Context(), s.key, Resolution{Rerun: true}) },
			"resolve to result": func(s *setting) error { return s.c.Resolve(t.Context(), s.key, Resolution{Payload: []byte("result")}) },
		} {
			for _, resource := range []string{"", "r" + fmt.Sprint(keyNumber.Add(1))} {
				log := &recorder{}
				rdb.AddHook(log)
				s := setUp(t, rdb, resource)
				was, _ := stand("mine lapsed", s.now)
				s.put(s.names.Record, was, true)
				if err := act(s); err != nil {
					t.Fatalf("%s: %v", verb, err)
				}
				late := log.sent[len(log.sent)-1]
				for _, state := range []string{"live", "lapsed", "released", "completed", "tombstone"} {
					standing, _ := stand("equal "+state, s.now)
					s.put(s.names.Record, standing, true)
					if resource != "" {
						fence, _ := standFence("as the record's", s.now, s.names)
						fence.Token = standing.Token
						s.put(s.names.Fence, fence, true)
					}
					var before, after []string
					for _, name := range s.names.Keys() {
						before = append(before, s.get(name))
					}
					if err := rdb.Do(t.Context(), late...).Err(); err != nil {
						t.Fatalf("a copy of %s: %v", verb, err)
					}
					for _, name := range s.names.Keys() {
						after = append(after, s.get(name))
					}
					if !slices.Equal(before, after) {
						t.Errorf("resource %q: a late copy of %s changed what another owner has, %s under an equal token\nfrom %q\nto   %q", resource, verb, state, before, after)
					}
				}
			}
		}
	})
}

// givenUp says whether the record's owner has released it, or has let it lapse.
func givenUp(r protocol.Record) bool {
	return r.State == protocol.StateReleased || r.State == protocol.StateInProgress && r.End < time.Duration(time.Now().UnixMilli())*time.Millisecond
}
