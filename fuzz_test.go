package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/scripts"
)

// Native fuzz targets; their seeds run with the other tests. Each is run alone by
//
//	go test -run '^$' -fuzz '^FuzzRecord$' -fuzztime 60s .

// What decodes is written back byte for byte, so nothing in a record is read in two ways.
func FuzzRecord(f *testing.F) {
	now := time.Duration(1_700_000_000_000) * time.Millisecond
	for _, state := range []string{"mine live", "mine lapsed", "other released", "other tombstone", "mine completed", "mine failed"} {
		r, _ := stand(state, now)
		whole := r.encode()
		f.Add(whole)
		f.Add(whole[:99%len(whole)])
		f.Add(whole[:len(whole)-3])
		f.Add("2" + whole[1:])
	}
	f.Add("")
	f.Add("WRONGTYPE")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := decodeRecord(s, true)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%q: %v is not ErrCorrupt", s, err)
			}
			return
		}
		if got := r.encode(); got != s {
			t.Errorf("%q is read as %q", s, got)
		}
		header, err := decodeRecord(s[:min(len(s), 99)], false)
		if err != nil {
			t.Errorf("%q: its header does not decode: %v", s, err)
		}
		if header.state != r.state || header.owner != r.owner || header.token != r.token || header.end != r.end || header.attempt != r.attempt {
			t.Errorf("%q: the header reads %+v, the record %+v", s, header, r)
		}
		if r.token < 0 || r.attempt < 0 || len(r.fingerprint) > maxFingerprint || r.end < 0 {
			t.Errorf("%q reads %+v", s, r)
		}
	})
}

// answerFrom makes what go-redis hands out, of text that the fuzzer can change: JSON, with whole numbers as int64.
func answerFrom(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = answerFrom(v[i])
		}
		return v
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
		return v
	case map[string]any:
		out := map[any]any{}
		for k, e := range v {
			out[k] = answerFrom(e)
		}
		return out
	}
	return v
}

// Whatever a server answers, it is a reply that makes sense or ErrCorrupt, and never a panic.
func FuzzReply(f *testing.F) {
	r, _ := stand("mine live", time.Duration(1_700_000_000_000)*time.Millisecond)
	c, _ := stand("mine completed", time.Duration(1_700_000_000_000)*time.Millisecond)
	for _, answer := range []any{
		[]any{0, r.encode(), 1_700_000_000_000}, []any{0, r.encode(), 1_700_000_000_000, 1}, []any{4, c.encode()}, []any{3, r.encode()[:99], 1_700_000_000_000},
		[]any{15, r.encode()[:99], 1_700_000_000_000, 3}, []any{9, "hello", 1}, []any{9, "hello", 2}, []any{9, "WRONGTYPE", 1}, []any{7, r.encode()[:99]}, []any{7},
		[]any{13, 7}, []any{13}, []any{6}, []any{11, "", 1_700_000_000_000}, []any{16, "ERR x"}, []any{0, "", 1_700_000_000_000}, []any{0}, []any{-1}, []any{17}, []any{1.5}, []any{"0"}, []any{nil},
		[]any{}, nil, r.encode(), 1_700_000_000_000, "", -5, []any{[]any{0}}, []any{0, []any{1, nil, "x"}}, map[string]any{"a": 1},
	} {
		text, err := json.Marshal(answer)
		if err != nil {
			f.Fatal(err)
		}
		for script := range len(scripts.All()) {
			f.Add(string(text), uint8(script))
		}
	}
	f.Fuzz(func(t *testing.T, text string, script uint8) {
		var raw any
		if json.Unmarshal([]byte(text), &raw) != nil {
			t.Skip()
		}
		for _, keys := range [][]string{{"record"}, {"record", "fence"}} {
			k := &call{script: scripts.All()[int(script)%len(scripts.All())], keys: keys}
			k.fenced = k.script == scripts.FenceDo
			for _, k.brief = range []bool{false, true} {
				r, err := decodeReply(answerFrom(raw), k)
				if err != nil {
					if !errors.Is(err, ErrCorrupt) {
						t.Errorf("%s: %v is not ErrCorrupt", text, err)
					}
					continue
				}
				if r.code < 0 || r.code >= codeEnd || r.code == codeCorrupt {
					t.Errorf("%s is read as the code %d", text, r.code)
				}
				if r.rec.state != 0 && (!isOwner(r.rec.owner) || r.rec.token < 0) {
					t.Errorf("%s is read as %+v", text, r.rec)
				}
				_ = r.remaining()
			}
		}
	})
}

// Different keys have different names, whatever bytes they hold, and no part of a key can choose a slot.
func FuzzNames(f *testing.F) {
	long := strings.Repeat("x", 101)
	for _, s := range [][6]string{
		{"a:b", "c", "", "a", "b:c", ""}, {"", "a", "", "a", "", ""}, {"a", "b", "c", "a", "b", ""}, {"{x}", "}", "{", "x", "", ""},
		{"a", "b", "a:b", "a", "b", "a"}, {"%", "%25", "", "%25", "%", ""}, {"~", "=", "", "=", "~", ""}, {"a\x00", "b", "r", "a", "\x00b", "r"},
		{long, "i", "", "~" + long, "i", ""}, {"s", long, "r", "s", long + "x", "r"}, {"é", "i", "", "e\u0301", "i", ""}, {"s", "i", "s:i", "s", "i", ""}, {"A", "i", "", "a", "i", ""},
		{"s", "i", "r", "s", "i", "r"},
	} {
		f.Add(s[0], s[1], s[2], s[3], s[4], s[5])
	}
	f.Fuzz(func(t *testing.T, scope, id, resource, scope2, id2, resource2 string) {
		a, b := Key{Scope: scope, ID: id, Resource: resource}, Key{Scope: scope2, ID: id2, Resource: resource2}
		if a.Validate() != nil || b.Validate() != nil {
			t.Skip()
		}
		for _, secret := range [][]byte{nil, []byte("secret")} {
			namer := keyname.Namer{Prefix: "p", Secret: secret}
			x, y := namer.Names(a.Scope, a.ID, a.Resource), namer.Names(b.Scope, b.ID, b.Resource)
			if (x == y) != (a == b) || (x.Record == y.Record) != (a == b) {
				t.Errorf("%+v and %+v are %+v and %+v", a, b, x, y)
			}
			if slices.Contains(y.Keys(), x.Record) != (a == b) || x.Fence != "" && slices.Contains(x.Keys()[:1], y.Fence) {
				t.Errorf("a record of %+v or %+v is the other's fence: %+v, %+v", a, b, x, y)
			}
			if (x.Fence != "" && x.Fence == y.Fence) != (a.Resource != "" && a.Resource == b.Resource) {
				t.Errorf("%+v and %+v have the fences %q and %q", a, b, x.Fence, y.Fence)
			}
			for _, name := range x.Keys() {
				if !strings.HasPrefix(name, "p:{"+x.Tag+"}:") || strings.Count(name, "{") != 1 || strings.Count(name, "}") != 1 {
					t.Errorf("%+v has the name %q", a, name)
				}
				if keyname.Slot(name) != keyname.Slot("{"+x.Tag+"}") {
					t.Errorf("%q is not in its tag's slot", name)
				}
			}
			if secret != nil && len(id) > 8 && strings.Contains(x.Record, id) {
				t.Errorf("%q shows the ID", x.Record)
			}
		}
	})
}

// What String writes ParseGrant reads, and it reads nothing else.
func FuzzParseGrant(f *testing.F) {
	for _, s := range []string{
		"7." + mine, "1." + theirs, "9007199254740991." + mine, "9007199254740992." + mine, "0." + mine, "-1." + mine, "+1." + mine, "01." + mine,
		"1" + mine, "1..", "", ".", "1." + strings.ToUpper(mine), "1." + mine + " ", "1e3." + mine, "٣." + mine, "1." + mine + "." + mine,
	} {
		f.Add(s, int64(7))
	}
	f.Fuzz(func(t *testing.T, s string, token int64) {
		g, err := ParseGrant(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || g != (Grant{}) {
				t.Errorf("%q: %v, %v", s, g, err)
			}
		} else if g.String() != s || g.validate() != nil {
			t.Errorf("%q is read as %q", s, g)
		}
		g = Grant{Token: Token(token), Owner: fmt.Sprintf("%032x", uint64(token))}
		got, err := ParseGrant(g.String())
		if (err == nil) != (g.validate() == nil) || err == nil && got != g {
			t.Errorf("%q is read as %q, %v", g, got, err)
		}
	})
}

// Different lists of parts give different scopes.
func FuzzJoinScope(f *testing.F) {
	for _, s := range [][2]string{
		{"a|b/c", "a/b|c"}, {"", "|"}, {"@", "@40"}, {"a@2Fb", "a/b"}, {"a||b", "a|b"}, {"|", "||"}, {"@|a", "|a"}, {"a", "a"}, {"%|/", "%/"},
	} {
		f.Add(s[0], s[1], true)
		f.Add(s[0], s[1], false)
	}
	f.Fuzz(func(t *testing.T, left, right string, none bool) {
		a, b := strings.Split(left, "|"), strings.Split(right, "|")
		if none {
			b = nil // no parts at all, which Split cannot say
		}
		if x, y := JoinScope(a...), JoinScope(b...); (x == y) != slices.Equal(a, b) {
			t.Errorf("%q and %q are %q and %q", a, b, x, y)
		}
	})
}
