package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/redistest"
)

func TestNewChecksItsOptions(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{})
	defer rdb.Close()
	for what, c := range map[string]struct {
		opt  Option
		word string
	}{
		"empty prefix":         {WithPrefix(""), "1 to 64"},
		"long prefix":          {WithPrefix(strings.Repeat("x", 65)), "1 to 64"},
		"brace in prefix":      {WithPrefix("a{b}"), "A-Za-z0-9_.:-"},
		"slash in prefix":      {WithPrefix("a/b"), "A-Za-z0-9_.:-"},
		"short lease":          {WithLease(99 * time.Millisecond), "100ms"},
		"zero lease":           {WithLease(0), "100ms"},
		"negative lease":       {WithLease(-time.Second), "100ms"},
		"lease over lifetime":  {WithLease(2 * time.Hour), "maximum lifetime"},
		"short grace":          {WithGrace(19 * time.Millisecond), "20ms"},
		"grace over lifetime":  {WithGrace(time.Hour), "grace"},
		"zero retention":       {WithRetention(0), "WithRetention"},
		"negative retention":   {WithRetention(-time.Hour), "WithRetention"},
		"lifetime > retention": {WithMaxLifetime(23 * time.Hour), "retention"},
		"zero lifetime":        {WithMaxLifetime(0), "WithMaxLifetime"},
		"no payload":           {WithMaxPayload(0), "WithMaxPayload"},
		"negative payload":     {WithMaxPayload(-1), "WithMaxPayload"},
		"zero timeout":         {WithTimeout(0), "WithTimeout"},
		"no replicas":          {WithReplicas(0, time.Second), "WithReplicas"},
		"negative replicas":    {WithReplicas(-1, time.Second), "WithReplicas"},
		"no wait for replicas": {WithReplicas(1, 0), "WithReplicas"},
		"no secret":            {WithHashedKeys(nil), "WithHashedKeys"},
		"no observer":          {WithObserver(nil), "WithObserver"},
		"small cache":          {WithReplayCache(64<<10-1, time.Second), "65536"},
		"cache of no age":      {WithReplayCache(1<<20, 0), "1ms"},
		"cache of long age":    {WithReplayCache(1<<20, time.Minute+1), "1m"},
		"nil option":           {nil, "nil"},
	} {
		_, err := New(rdb, c.opt)
		if err == nil {
			t.Errorf("%s is accepted", what)
			continue
		}
		wantError(t, err, ErrInvalid, c.word)
	}
	for what, opts := range map[string][]Option{
		"short retention": {WithRetention(time.Minute)}, "short lifetime": {WithMaxLifetime(time.Second)}, "longest retention": {WithRetention(longest)},
		"everything": {WithPrefix("a:b_c.d-e"), WithLease(time.Second), WithGrace(50 * time.Millisecond), WithRetention(time.Hour), WithMaxLifetime(time.Minute)},
	} {
		if _, err := New(rdb, opts...); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := New(nil)
	wantError(t, err, ErrInvalid, "nil")
	var typed *redis.Client
	_, err = New(typed)
	wantError(t, err, ErrInvalid, "nil")
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	_, err = New(ring)
	wantError(t, err, ErrInvalid, "*redis.Ring", "ClusterClient")
}

// Bad input gets an error that says what to do, and nothing is sent, let alone changed.
func TestBadInputChangesNothing(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb, WithMaxPayload(100), WithRetention(2*time.Hour))
		ctx := t.Context()
		key := newKey(t)
		lease := mustClaim(t, c, key, Fingerprint([]byte("fp")), ManualRenewal())
		fence := c.Fence(key)
		inside := "v" + fence.Tag()
		claim := func(opts ...ClaimOption) error { _, err := c.Claim(ctx, newKey(t), opts...); return err }
		do := func(args ...any) error { return fence.Do(ctx, lease.Grant(), args...).Err() }
		before := rdb.DBSize(ctx).Val()
		for what, c := range map[string]struct {
			err   error
			is    error
			words string
		}{
			"empty ID":               {second(c.Claim(ctx, Key{Scope: "s"})), ErrInvalid, "ID"},
			"long ID":                {second(c.Claim(ctx, Key{ID: strings.Repeat("x", 256)})), ErrInvalid, "255"},
			"empty ID to Inspect":    {second(c.Inspect(ctx, Key{})), ErrInvalid, "ID"},
			"empty ID to Result":     {second(c.Result(ctx, Key{}, nil)), ErrInvalid, "ID"},
			"empty ID to Await":      {second(c.Await(ctx, Key{}, nil)), ErrInvalid, "ID"},
			"empty ID to Expire":     {c.Expire(ctx, Key{}), ErrInvalid, "ID"},
			"empty ID to Resolve":    {c.Resolve(ctx, Key{}, Resolution{Rerun: true}), ErrInvalid, "ID"},
			"empty ID to a fence":    {c.Fence(Key{}).Do(ctx, lease.Grant(), "get", "x").Err(), ErrInvalid, "ID"},
			"empty fingerprint":      {claim(Fingerprint(nil)), ErrInvalid, "64"},
			"long fingerprint":       {claim(Fingerprint(make([]byte, 65))), ErrInvalid, "64"},
			"long to Result":         {second(c.Result(ctx, key, make([]byte, 65))), ErrInvalid, "64"},
			"short lease":            {claim(LeaseFor(99 * time.Millisecond)), ErrInvalid, "100ms"},
			"negative lease":         {claim(LeaseFor(-1)), ErrInvalid, "100ms"},
			"lease over lifetime":    {claim(LeaseFor(2 * time.Hour)), ErrInvalid, "lifetime"},
			"lease over its own":     {claim(LeaseFor(time.Minute), MaxLifetime(time.Second)), ErrInvalid, "lifetime"},
			"lifetime over ours":     {claim(MaxLifetime(2 * time.Hour)), ErrInvalid, "WithMaxLifetime"},
			"zero lifetime":          {claim(MaxLifetime(0)), ErrInvalid, "MaxLifetime"},
			"negative wait":          {claim(WaitUpTo(-1)), ErrInvalid, "WaitUpTo"},
			"negative token":         {claim(MinToken(-1)), ErrInvalid, "MinToken"},
			"token of 2^53":          {claim(MinToken(1 << 53)), ErrInvalid, "2^53"},
			"token far ahead":        {claim(MinToken(Token(time.Now().Add(25 * time.Hour).UnixMicro()))), ErrInvalid, "day"},
			"issued in the future":   {claim(IssuedAt(time.Now().Add(61 * time.Minute))), ErrInvalid, "hour"},
			"issued never":           {claim(IssuedAt(time.Time{})), ErrInvalid, "IssuedAt"},
			"issued long ago":        {claim(IssuedAt(time.Now().Add(-3 * time.Hour))), ErrKeyExpired, "new key"},
			"an owner of its own":    {claim(Owner("me")), ErrInvalid, "UnknownError.Owner"},
			"nil option":             {claim(nil), ErrInvalid, "nil"},
			"give back to nobody":    {c.GiveBack(ctx, key, "XYZ"), ErrInvalid, "UnknownError.Owner"},
			"large result":           {lease.Complete(ctx, make([]byte, 101)), ErrTooLarge, "WithMaxPayload"},
			"large failure":          {lease.Fail(ctx, make([]byte, 101)), ErrTooLarge, "WithMaxPayload"},
			"large checkpoint":       {lease.SaveCheckpoint(ctx, make([]byte, 101)), ErrTooLarge, "WithMaxPayload"},
			"large resolution":       {c.Resolve(ctx, key, Resolution{Payload: make([]byte, 101)}), ErrTooLarge, "WithMaxPayload"},
			"short RetainFor":        {lease.Complete(ctx, nil, RetainFor(time.Minute)), ErrInvalid, "RetainFor"},
			"negative RetainFor":     {lease.Complete(ctx, nil, RetainFor(-1)), ErrInvalid, "RetainFor"},
			"nil CompleteOption":     {lease.Complete(ctx, nil, nil), ErrInvalid, "nil"},
			"fenced EVAL":            {do("eval", inside), ErrInvalid, "Fence.Eval"},
			"fenced FLUSHALL":        {do("flushall", inside), ErrInvalid, "Fence.Eval"},
			"fenced MSET":            {do("mset", inside, 1), ErrInvalid, "Fence.Eval"},
			"fenced RENAME":          {do("rename", inside, inside), ErrInvalid, "Fence.Eval"},
			"fenced DEL of two":      {do("del", inside, inside+"x"), ErrInvalid, "one key"},
			"fenced PFCOUNT of two":  {do("pfcount", inside, inside+"x"), ErrInvalid, "one key"},
			"fenced nothing":         {do(), ErrInvalid, "command"},
			"fenced number":          {do(1, inside), ErrInvalid, "command"},
			"fenced key is a number": {do("get", 1), ErrInvalid, "string"},
			"too many arguments":     {do(append([]any{"sadd", inside}, make([]any, 7001)...)...), ErrInvalid, "7000"},
			"fenced struct":          {do("set", inside, "x", struct{}{}), ErrInvalid, "argument 3 is"},
			"struct to Eval":         {fence.Eval(ctx, lease.Grant(), "return 1", nil, "x", struct{}{}).Err(), ErrInvalid, "argument 2 is"},
			"lifetime to Resume":     {second(c.Resume(ctx, key, lease.Grant(), MaxLifetime(time.Minute))), ErrInvalid, "MaxLifetime"},
			"another slot":           {do("set", "elsewhere", 1), ErrInvalid, "Tag"},
			"our own key":            {do("del", c.names(key).Record), ErrInvalid, "prefix"},
			"another slot to Eval":   {fence.Eval(ctx, lease.Grant(), "return 1", []string{"elsewhere"}).Err(), ErrInvalid, "Tag"},
			"our own key to Eval":    {fence.Eval(ctx, lease.Grant(), "return 1", []string{c.names(key).Record}).Err(), ErrInvalid, "prefix"},
			"#! to Eval":             {fence.Eval(ctx, lease.Grant(), "#!lua\nreturn 1", nil).Err(), ErrInvalid, "#!"},
			"no grant":               {fence.Do(ctx, Grant{}, "get", inside).Err(), ErrInvalid, "grant"},
		} {
			if c.err == nil {
				t.Errorf("%s is accepted", what)
				continue
			}
			wantError(t, c.err, c.is, c.words)
		}
		if after := rdb.DBSize(ctx).Val(); after != before {
			t.Errorf("there were %d keys and now there are %d", before, after)
		}
		if err := lease.Complete(ctx, nil); err != nil {
			t.Errorf("the lease should be as it was: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestClaimManyGivesTheSameKeyOnce(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		key, done := newKey(t), newKey(t)
		if err := mustClaim(t, c, done).Complete(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		r := c.ClaimMany(t.Context(), []ClaimRequest{
			{Key: key}, {Key: Key{}}, {Key: key}, {Key: done}, {Key: newKey(t), Options: []ClaimOption{LeaseFor(1)}}, {Key: newKey(t)},
			{Key: key, Options: []ClaimOption{WaitUpTo(50 * time.Millisecond)}},
		})
		if len(r) != 7 || r[0].Err != nil || r[0].Lease.Key() != key || r[5].Err != nil {
			t.Fatalf("%+v", r)
		}
		for i, want := range map[int]error{1: ErrInvalid, 2: ErrInProgress, 3: ErrCompleted, 4: ErrInvalid, 6: ErrInProgress} {
			wantError(t, r[i].Err, want)
		}
		if got := c.ClaimMany(t.Context(), nil); len(got) != 0 {
			t.Error(got)
		}
	})
}

// What another program, or a newer version of this one, put under our key is never granted, never overwritten.
func TestForeignValues(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx := t.Context()
		for _, resource := range []bool{false, true} {
			c := open(t, rdb)
			key := newKey(t)
			if resource {
				key.Resource = key.ID
			}
			n := c.names(key)
			whole, _ := stand("other released", time.Duration(time.Now().UnixMilli())*time.Millisecond)
			good := whole.Encode()
			values := map[string]string{
				"empty": "", "text": "hello", "json": `{"status":"done"}`, "cut off": good[:60], "cut in the fingerprint": good[:100],
				"cut in the checkpoint": good[:len(good)-8], "newer": "2" + good[1:], "state": "1x" + good[2:], "letters for digits": good[:40] + "z" + good[41:],
				"owner": "1r" + strings.Repeat("Z", 32) + good[34:], "fingerprint of 65": good[:59] + "65" + good[61:] + strings.Repeat("x", 80),
				"spaces": good[:36] + " " + good[37:], "minus": good[:61] + "-" + good[62:], "NUL": strings.Repeat("\x00", 120),
			}
			ops := map[string]func() error{
				"claim":   func() error { _, err := c.Claim(ctx, key); return err },
				"wait":    func() error { _, err := c.Claim(ctx, key, WaitUpTo(time.Second)); return err },
				"result":  func() error { _, err := c.Result(ctx, key, nil); return err },
				"inspect": func() error { _, err := c.Inspect(ctx, key); return err },
				"expire":  func() error { return c.Expire(ctx, key) },
				"resolve": func() error { return c.Resolve(ctx, key, Resolution{Rerun: true}) },
				"give":    func() error { return c.GiveBack(ctx, key, mine) },
				"resume":  func() error { _, err := c.Resume(ctx, key, Grant{minted, mine}); return err },
				"fence":   func() error { f := c.Fence(key); return f.Do(ctx, Grant{minted, mine}, "set", "x"+f.Tag(), 1).Err() },
			}
			names := []string{n.Record}
			if resource {
				names = append(names, n.Fence)
			}
			for _, name := range names {
				for what, value := range values {
					rdb.Del(ctx, names...)
					rdb.Set(ctx, name, value, time.Hour)
					for op, call := range ops {
						reads := name == n.Record == (op != "fence" || !resource)
						switch {
						case name == n.Fence && op != "claim" && op != "wait" && op != "expire" && op != "give" && op != "fence":
							continue // these end at the absent record
						case !reads && name == n.Record:
							continue // the fence alone decides
						}
						err := call()
						words := []string{strconv.Quote(name)} // it names the key
						if what == "newer" {
							words = append(words, "version 2", "upgrade")
						}
						if !errors.Is(err, ErrCorrupt) {
							t.Errorf("%s: %s of %q: %v", what, op, name, err)
						} else {
							wantError(t, err, ErrCorrupt, words...)
						}
						if got := rdb.Get(ctx, name).Val(); got != value {
							t.Fatalf("%s: %s overwrote %q with %q", what, op, value, got)
						}
					}
				}
				rdb.Del(ctx, names...)
				rdb.HSet(ctx, name, "field", "value")
				for _, op := range []string{"claim", "expire", "give"} {
					wantError(t, ops[op](), ErrCorrupt, "another type")
				}
				if rdb.HGet(ctx, name, "field").Val() != "value" {
					t.Error("the hash is gone")
				}
				rdb.Del(ctx, names...)
			}
		}
	})
}

// The scripts and the decoder must agree on what a record is: else a script would write over what we cannot read.
func FuzzScriptsAndDecoderAgree(f *testing.F) {
	now := time.Duration(time.Now().UnixMilli()) * time.Millisecond
	for _, state := range []string{"mine live", "mine lapsed", "other released", "other tombstone", "other given back", "mine completed", "mine failed"} {
		r, _ := stand(state, now)
		f.Add(r.Encode())
		f.Add(r.Encode()[:74])
		f.Add(r.Encode()[:len(r.Encode())-1])
	}
	f.Add("")
	f.Add("2p")
	m := miniredis.RunT(f)
	rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
	c, err := New(rdb)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		ctx := context.Background()
		key := Key{ID: "fuzzed"}
		name := c.names(key).Record
		if err := rdb.Set(ctx, name, value, time.Hour).Err(); err != nil {
			t.Skip(err)
		}
		_, decodes := protocol.DecodeRecord(value, true)
		_, err := c.Inspect(ctx, key)
		if errors.Is(err, ErrCorrupt) != (decodes != nil) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: the decoder says %v, the script %v", value, decodes, err)
		}
	})
}

func TestErrorsShowNoSecrets(t *testing.T) {
	key := Key{Scope: "tenant", ID: "the-clients-id", Resource: "account"}
	secrets := []string{"the-clients-id", mine, "the payload"}
	for _, err := range []error{
		&InProgressError{Key: key}, &CompletedError{Key: key, Result: Result{Payload: []byte("the payload")}}, &StaleTokenError{Key: key, Token: 1},
		&UnknownError{Key: key, Owner: mine, Err: context.Canceled},
	} {
		var text, js bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "err", err)
		slog.New(slog.NewJSONHandler(&js, nil)).Info("x", "err", err)
		for _, shown := range []string{err.Error(), fmt.Sprintf("%v", err), fmt.Sprintf("%+v", err), fmt.Sprintf("%s", err), text.String(), js.String()} {
			for _, secret := range secrets {
				if strings.Contains(shown, secret) {
					t.Errorf("%T shows %q: %s", err, secret, shown)
				}
			}
			if !strings.Contains(shown, "tenant") || !strings.Contains(shown, "account") {
				t.Errorf("%T does not say which key: %s", err, shown)
			}
		}
	}
	g := Grant{Token: 7, Owner: mine}
	var text bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "grant", g)
	if strings.Contains(text.String(), mine) || !strings.Contains(text.String(), "7.***") {
		t.Errorf("slog shows %s", text.String())
	}
	for _, s := range []string{"", "7", "7.", "." + mine, "0." + mine, "-1." + mine, "+7." + mine, "07." + mine, "9007199254740992." + mine, "7." + strings.ToUpper("ab"+mine[2:]), "7." + mine + "0", " 7." + mine} {
		if _, err := ParseGrant(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseGrant(%q): %v", s, err)
		}
	}
	if got, err := ParseGrant(g.String()); err != nil || got != g {
		t.Errorf("%v, %v", got, err)
	}
	if err := errors.Join(&UnknownError{Err: context.Canceled}); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnknown) {
		t.Error("UnknownError does not unwrap")
	}
}

// A server that will not do it: the error says what is wrong with it, and nothing is changed.
func TestServersThatRefuse(t *testing.T) {
	server := redistest.Run(t)
	admin := server.Client(nil)
	defer admin.Close()
	ctx := t.Context()
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	// On a busy machine a call's last try can be under way when its time is over, and then the outcome is not known.
	certain := func(call func() error) (err error) {
		for range 10 {
			if err = call(); !errors.Is(err, ErrUnknown) {
				break
			}
		}
		return err
	}
	c := open(t, admin)
	lease := mustClaim(t, c, newKey(t), ManualRenewal())
	for what, s := range map[string]struct {
		begin, end []any
		words      []string
	}{
		"full":          {[]any{"config", "set", "maxmemory", "1"}, []any{"config", "set", "maxmemory", "0"}, []string{"maxmemory"}},
		"read-only":     {[]any{"replicaof", "127.0.0.1", "1"}, []any{"replicaof", "no", "one"}, []string{"READONLY"}},
		"few replicas":  {[]any{"config", "set", "min-replicas-to-write", "1"}, []any{"config", "set", "min-replicas-to-write", "0"}, []string{"NOREPLICAS"}},
		"no permission": {[]any{"acl", "setuser", "default", "-evalsha", "-eval"}, []any{"acl", "setuser", "default", "+evalsha", "+eval"}, []string{"ACL", "docs/redis.md"}},
	} {
		if err := admin.Do(ctx, s.begin...).Err(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		key := newKey(t)
		wantError(t, certain(func() error { _, err := c.Claim(short(), key); return err }), ErrUnavailable, s.words...)
		wantError(t, certain(func() error { return lease.Complete(short(), []byte("x")) }), ErrUnavailable, s.words...)
		if err := admin.Do(ctx, s.end...).Err(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if r, err := c.Inspect(ctx, key); err != nil || r.State != StateAbsent {
			t.Errorf("%s: it left %v, %v", what, r.State, err)
		}
	}
	if err := lease.Complete(ctx, []byte("x")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	m := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
	defer rdb.Close()
	m.SetError("LOADING Redis is loading the dataset in memory")
	c = open(t, rdb, WithTimeout(500*time.Millisecond))
	wantError(t, certain(func() error { _, err := c.Claim(ctx, newKey(t)); return err }), ErrUnavailable, "LOADING")
}
