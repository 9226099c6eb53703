package coordtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
)

func lateChecks() []check {
	return []check{
		{"P3", "a fence lets only the current grant write", fenceWrites},
		{"P3", "an equal token of another owner is refused", equalToken},
		{"P3", "a fence passes on what a command answers", fenceAnswers},
		{"P3", "a lease that lapsed may still finish, until it is taken over", lateFinish},
	}
}

// fenceWrites lets a grant end in every way; from then on its writes are refused, while its successor's pass.
func fenceWrites(t *trial) {
	for kind, key := range t.kinds() {
		f := t.c.Fence(key)
		name := t.own(f)
		ends := map[string]func(l *coordinator.Lease) error{
			"a release": func(l *coordinator.Lease) error { return l.Release(t.ctx) },
			"giving back": func(l *coordinator.Lease) error {
				return t.c.GiveBack(t.ctx, key, l.Grant().Owner)
			},
			"expire":   func(*coordinator.Lease) error { return t.c.Expire(t.ctx, key) },
			"a loss":   func(*coordinator.Lease) error { t.lose(key); return nil },
			"a result": func(l *coordinator.Lease) error { return l.Complete(t.ctx, nil) },
		}
		for _, how := range []string{"a release", "giving back", "expire", "a loss", "a result"} {
			l := t.claim(t.c, key)
			t.ok("a write of the holder", f.Do(t.ctx, l.Grant(), "set", name, how, "px", 60000).Err())
			t.ok(how, ends[how](l))
			refused := func(when string) {
				t.Helper()
				t.want(kind+": Do "+when, f.Do(t.ctx, l.Grant(), "set", name, "late").Err(), coordinator.ErrStaleToken)
				t.want(kind+": Eval "+when, f.Eval(t.ctx, l.Grant(), "return redis.call('set', KEYS[1], ARGV[1])", []string{name}, "late").Err(), coordinator.ErrStaleToken)
				if v := t.rdb.Get(t.ctx, name).Val(); v != how {
					t.Errorf("%s: %s the value is %q, not %q", kind, when, v, how)
				}
			}
			refused("after " + how)
			if how == "a result" {
				continue
			}
			next := t.claim(t.open(), key)
			refused("after " + how + " and another grant")
			t.ok("a write of the successor", f.Do(t.ctx, next.Grant(), "set", name, how, "px", 60000).Err())
			t.ok("release", next.Release(t.ctx))
		}
	}
}

func equalToken(t *trial) {
	for kind, key := range t.kinds() {
		l := t.claim(t.c, key)
		f := t.c.Fence(key)
		before := t.raw(key)
		for what, g := range map[string]coordinator.Grant{
			"another owner":    {Token: l.Token(), Owner: strings.Repeat("0", 32)},
			"an older token":   {Token: l.Token() - 1, Owner: l.Grant().Owner},
			"a token too high": {Token: l.Token() + 1, Owner: l.Grant().Owner},
		} {
			var stale *coordinator.StaleTokenError
			if err := f.Do(t.ctx, g, "set", t.own(f), "forged").Err(); !errors.As(err, &stale) || stale.Current != l.Token() {
				t.Errorf("%s: %s: %v", kind, what, err)
			}
			_, err := t.c.Resume(t.ctx, key, g)
			t.want(kind+": resume with "+what, err, coordinator.ErrStaleToken)
		}
		if !maps.Equal(before, t.raw(key)) {
			t.Errorf("%s: a forged grant changed the record", kind)
		}
		if n := t.rdb.Exists(t.ctx, t.own(f)).Val(); n != 0 {
			t.Errorf("%s: a forged grant wrote", kind)
		}
	}
}

func fenceAnswers(t *trial) {
	key := t.key()
	l := t.claim(t.c, key)
	f, g := t.c.Fence(key), l.Grant()
	name := t.own(f)
	for _, step := range []struct {
		want any
		args []any
	}{
		{int64(1), []any{"hset", name, "field", "1"}},
		{int64(6), []any{"hincrby", name, "field", 5}},
		{"6", []any{"hget", name, "field"}},
		{int64(1), []any{"pexpire", name, 60000}},
	} {
		if got, err := f.Do(t.ctx, g, step.args...).Result(); err != nil || got != step.want {
			t.Errorf("%v answers %v, %v; want %v", step.args, got, err, step.want)
		}
	}
	if err := f.Do(t.ctx, g, "hget", name, "nothing").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("a nil reply is %v", err)
	}
	if err := f.Do(t.ctx, g, "incr", name).Err(); err == nil || errors.Is(err, coordinator.ErrStaleToken) || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("a command's own error is %v", err)
	}
	if err := f.Do(t.ctx, g, "set", "elsewhere", 1).Err(); !errors.Is(err, coordinator.ErrInvalid) && t.rdb.Exists(t.ctx, "elsewhere").Val() == 0 {
		t.Errorf("a key outside of the fence's slot: %v", err)
	}
	const text = "return {KEYS[1], ARGV[1], #KEYS, #ARGV, redis.call('HLEN', KEYS[1])}"
	got, err := f.Eval(t.ctx, g, text, []string{name}, "argument\x00").Slice()
	if want := fmt.Sprint([]any{name, "argument\x00", int64(1), int64(1), int64(1)}); err != nil || fmt.Sprint(got) != want {
		t.Errorf("Eval answers %v, %v; want %v", got, err, want)
	}
	if _, err := f.Eval(context.WithoutCancel(t.ctx), g, "return redis.error_reply('MINE no')", nil).Result(); err == nil || err.Error() != "MINE no" {
		t.Errorf("a script's own error is %v", err)
	}
}

func lateFinish(t *trial) {
	for kind, key := range t.kinds() {
		l := t.claim(t.c, key, coordinator.ManualRenewal(), coordinator.LeaseFor(short))
		f := t.c.Fence(key)
		t.lapsed(key)
		t.ok(kind+": a fenced write", f.Do(t.ctx, l.Grant(), "set", t.own(f), "late, and alone", "px", 60000).Err())
		t.ok(kind+": a checkpoint", l.SaveCheckpoint(t.ctx, []byte("so far")))
		next := t.claim(t.open(), key, coordinator.ManualRenewal())
		if string(next.Checkpoint()) != "so far" || next.Attempt() != 2 {
			t.Errorf("%s: attempt %d found the checkpoint %q", kind, next.Attempt(), next.Checkpoint())
		}
		before := t.raw(key)
		t.want(kind+": a fenced write after the takeover", f.Do(t.ctx, l.Grant(), "set", t.own(f), "late").Err(), coordinator.ErrStaleToken)
		t.want(kind+": a checkpoint after it", l.SaveCheckpoint(t.ctx, []byte("late")), coordinator.ErrStaleToken)
		t.want(kind+": completing after it", l.Complete(t.ctx, []byte("late")), coordinator.ErrStaleToken)
		t.want(kind+": failing after it", l.Fail(t.ctx, []byte("late")), coordinator.ErrStaleToken)
		t.want(kind+": releasing after it", l.Release(t.ctx), nil)
		t.want(kind+": giving back after it", t.c.GiveBack(t.ctx, key, l.Grant().Owner), nil)
		if !maps.Equal(before, t.raw(key)) {
			t.Errorf("%s: a late worker changed the record", kind)
		}
		t.ok(kind+": the successor completes", next.Complete(t.ctx, []byte("done")))
	}
}
