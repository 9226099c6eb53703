package coordinator

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/redistest"

	"github.com/onceward/coordinator/internal/keyname"
)

// nasty parts of keys: separators, braces, escapes, markers, NUL, no UTF-8, nothing, much.
var nasty = []string{
	"", "a", "b", "a:b", "c", "b:c", ":", "::", "{", "}", "{}", "{a}", "a}b{c", "%", "%3A", "%25", "~", "=", "@", "@40", "/", "a/b",
	"\x00", "a\x00b", "\xff\xfe", "ü", "日本", " ", "r", "f", ":r", "}:f", strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("x", 255),
	strings.Repeat("{", 34), strings.Repeat("{", 33),
}

func TestJoinScopeIsInjective(t *testing.T) {
	seen := map[string]string{}
	var lists [][]string
	lists = append(lists, nil)
	for _, a := range nasty {
		lists = append(lists, []string{a})
		for _, b := range nasty {
			lists = append(lists, []string{a, b}, []string{a, b, ""})
		}
	}
	if n := (keyname.Namer{Prefix: "coord"}).Names(JoinScope("POST", "/payments"), "7", ""); n.Record != "coord:{POST/@2Fpayments:7}:r" {
		t.Errorf("%q is not readable", n.Record)
	}
	for _, list := range lists {
		joined, shown := JoinScope(list...), fmt.Sprintf("%q", list)
		if other, twice := seen[joined]; twice && other != shown {
			t.Fatalf("%s and %s both give %q", shown, other, joined)
		}
		seen[joined] = shown
	}
}

func TestAnyBytesWorkAsAKey(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb, WithPrefix(fmt.Sprintf("bytes-%d", rand.Int64())))
		for _, scope := range []string{"", "a:b", "\x00{}"} {
			for _, id := range nasty {
				for _, resource := range []string{"", "{\xff}:"} {
					key := Key{scope, id, resource}
					if id == "" || len(id) > 255 {
						continue
					}
					l := mustClaim(t, c, key)
					if err := l.Complete(t.Context(), []byte(scope+id)); err != nil {
						t.Fatalf("%q: %v", key, err)
					}
					if r, err := c.Result(t.Context(), key, nil); err != nil || string(r.Payload) != scope+id {
						t.Fatalf("%q: %q, %v", key, r.Payload, err)
					}
				}
			}
		}
	})
}

func TestSlots(t *testing.T) {
	onCluster(t, func(t *testing.T, _ *redistest.Cluster, rdb *redis.ClusterClient) {
		for _, name := range []string{"", "a", "123456789", "{a}b", "x{a}y{b}", "{}a", "a{}b", "{", "}{", "x{{a}}y", "coord:{a:b}:r", "\xff\x00"} {
			want, err := rdb.ClusterKeySlot(t.Context(), name).Result()
			if err != nil {
				t.Fatal(err)
			}
			if got := keyname.Slot(name); got != int(want) {
				t.Errorf("keyname.Slot(%q) = %d, the server says %d", name, got, want)
			}
		}
	})
	if keyname.Slot("123456789") != 12739 {
		t.Errorf("CRC16 of 123456789 gives slot %d", keyname.Slot("123456789"))
	}
}

func TestUUIDv7Time(t *testing.T) {
	want := time.Date(2022, 2, 22, 19, 22, 22, 0, time.UTC)
	for _, id := range []string{"017F22E2-79B0-7CC3-98C4-DC0C0C07398F", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"} {
		if got, ok := UUIDv7Time(id); !ok || !got.Equal(want) {
			t.Errorf("%s: %v, %v", id, got, ok)
		}
	}
	for _, id := range []string{
		"", "x", "017f22e2-79b0-4cc3-98c4-dc0c0c07398f", "017f22e2-79b0-7cc3-18c4-dc0c0c07398f", "017f22e279b07cc398c4dc0c0c07398f", "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
		"-17f22e2-79b0-7cc3-98c4-dc0c0c07398f", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f0", "0-7f22e2-79b0-7cc3-98c4-dc0c0c07398f",
	} {
		if _, ok := UUIDv7Time(id); ok {
			t.Errorf("%q passes", id)
		}
	}
}
