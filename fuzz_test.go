package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/onceward/coordinator/internal/keyname"
)

// Native fuzz targets; their seeds run with the other tests. Each is run alone by
//
//	go test -run '^$' -fuzz '^FuzzRecord$' -fuzztime 60s .

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
