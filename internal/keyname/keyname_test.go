package keyname

import (
	"strings"
	"testing"
)

// nasty parts of keys: separators, braces, escapes, markers, NUL, no UTF-8, nothing, much.
var nasty = []string{
	"", "a", "b", "a:b", "c", "b:c", ":", "::", "{", "}", "{}", "{a}", "a}b{c", "%", "%3A", "%25", "~", "=", "@", "@40", "/", "a/b",
	"\x00", "a\x00b", "\xff\xfe", "ü", "日本", " ", "r", "f", ":r", "}:f", strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("x", 255),
	strings.Repeat("{", 34), strings.Repeat("{", 33),
}

func TestNamesAreInjective(t *testing.T) {
	for _, n := range []Namer{{Prefix: "coord"}, {Prefix: "coord", Secret: []byte("secret")}} {
		type of struct{ scope, id, resource string }
		seen := map[string]of{}
		for _, scope := range nasty {
			for _, id := range nasty {
				for _, resource := range nasty {
					key := of{scope, id, resource}
					names := n.Names(scope, id, resource)
					for _, name := range names.Keys() {
						if strings.Count(name, "{") != 1 || strings.Count(name, "}") != 1 || !strings.HasPrefix(name, "coord:{"+names.Tag+"}:") || names.Tag == "" {
							t.Fatalf("%q: %q", key, name)
						}
					}
					if other, twice := seen[names.Record]; twice {
						t.Fatalf("%q and %q meet in %q", key, other, names.Record)
					}
					seen[names.Record] = key
					if names.Fence != "" {
						fence := of{resource: resource}
						if other, there := seen[names.Fence]; there && other != fence {
							t.Fatalf("the fence of %q meets %q in %q", resource, other, names.Fence)
						}
						seen[names.Fence] = fence
						if Slot(names.Record) != Slot(names.Fence) {
							t.Fatalf("%q: record and fence are in two slots", key)
						}
					}
				}
			}
		}
	}
	if a, b := (Namer{Prefix: "coord"}).Names("", "x", ""), (Namer{Prefix: "coord", Secret: []byte("s")}).Names("", "x", ""); a.Record == b.Record {
		t.Error("hashed and plain names meet")
	}
	hashed := Namer{Prefix: "p", Secret: []byte("s")}.Names("tenant-a", "card-4242", "account")
	for _, part := range []string{"tenant-a", "card-4242", "account"} {
		if strings.Contains(hashed.Record+hashed.Fence, part) {
			t.Errorf("%q shows %q", hashed.Record, part)
		}
	}
}
