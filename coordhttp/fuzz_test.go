package coordhttp

import (
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/onceward/coordinator"
)

// A key that is read has 1 to 255 bytes of visible ASCII and spaces, and is read again from its quoted form.
func FuzzReadKey(f *testing.F) {
	for _, value := range []string{"k", `"k"`, `"k";a=1`, `"k`, `""`, "", "a,b", `"\"\\"`, "ü", `"` + strings.Repeat("k", 300) + `"`, " k\t", ":YQ==:", "?1", "12", `%"f%c3%bc"`, "@1"} {
		f.Add(value, false)
		f.Add(value, true)
	}
	f.Fuzz(func(t *testing.T, value string, quotedOnly bool) {
		key, err := readKey(http.Header{"K": {value}}, "K", quotedOnly)
		if err != nil {
			if key != "" {
				t.Errorf("%q with %v", key, err)
			}
			return
		}
		if len(key) < 1 || len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("%q was taken for the key %q", value, key)
		}
		quoted, err := quoteKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := readKey(http.Header{"K": {quoted}}, "K", true); err != nil || again != key {
			t.Errorf("%q quoted is %q, which is read as %q, %v", key, quoted, again, err)
		}
	})
}

// What is decoded is the same when it is stored and read again.
func FuzzDecodeAnswer(f *testing.F) {
	for _, a := range []answer{
		{status: 200, header: http.Header{}, trailer: http.Header{}},
		{status: 201, header: http.Header{"A": {"1", "2"}, "B": {""}}, trailer: http.Header{"C": {"3"}}, body: []byte("text")},
		{status: 202, unkept: true},
	} {
		f.Add(a.encode())
	}
	f.Add([]byte("k\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("k\xc8\x01\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, stored []byte) {
		a, err := decodeAnswer(stored)
		if err != nil {
			return
		}
		again, err := decodeAnswer(a.encode())
		if err != nil || !reflect.DeepEqual(nilled(again), nilled(a)) {
			t.Errorf("%+v became %+v, %v", a, again, err)
		}
	})
}

func nilled(a *answer) *answer {
	if len(a.body) == 0 {
		a.body = nil
	}
	return a
}

// Every kind has a title and a status, and docs/http.md has a heading for it, which its type URI leads to, with that status.
func TestKindsAreComplete(t *testing.T) {
	page, err := os.ReadFile("../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	for kind, sort := range sorts {
		if sort.status < 400 || sort.status > 599 || sort.title == "" {
			t.Errorf("%s: %+v", kind, sort)
		}
		if !strings.Contains(string(page), fmt.Sprintf("\n### %s\n\n%d. ", kind, sort.status)) {
			t.Errorf("docs/http.md has no heading for %s with %d", kind, sort.status)
		}
	}
}

func TestBindingsAreInjective(t *testing.T) {
	seen := map[string]coordinator.Key{}
	for _, key := range []coordinator.Key{{}, {Scope: "ab"}, {Scope: "a", ID: "b"}, {ID: "ab"}, {Scope: "a", Resource: "b"}, {ID: "a", Resource: "b"}, {Scope: "a\x01b"}} {
		b := string(bindingOf(key))
		if other, there := seen[b]; there {
			t.Errorf("%+v and %+v", key, other)
		}
		seen[b] = key
	}
}
