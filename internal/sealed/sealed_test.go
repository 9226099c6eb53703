package sealed

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func key(c byte) []byte { return bytes.Repeat([]byte{c}, keyBytes) }

func mustNew(t testing.TB, above int, keys *Keys) *Box {
	t.Helper()
	b, err := New(above, keys)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBackAndForth(t *testing.T) {
	texts := map[string][]byte{"none": {}, "short": []byte("a"), "long": []byte(strings.Repeat("long ", 5000))}
	ring := &Keys{Current: "k2", Ring: map[string][]byte{"k1": key(1), "k2": key(2)}}
	for name, text := range texts {
		for form, b := range map[string]*Box{
			"as it is": mustNew(t, -1, nil), "compressed": mustNew(t, 100, nil), "encrypted": mustNew(t, -1, ring), "both": mustNew(t, 100, ring),
		} {
			stored := b.Seal(text, []byte("record"))
			if got, err := b.Open(stored, []byte("record")); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s, %s: %d bytes, %v", name, form, len(got), err)
			}
			if shorter := len(stored) < len(text)/2; shorter != (name == "long" && (form == "compressed" || form == "both")) {
				t.Errorf("%s, %s: %d bytes became %d", name, form, len(text), len(stored))
			}
		}
	}
}

func TestCompressedIsReadWithoutCompressing(t *testing.T) {
	text := bytes.Repeat([]byte("x"), 1000)
	if got, err := mustNew(t, -1, nil).Open(mustNew(t, 0, nil).Seal(text, nil), nil); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestRotation(t *testing.T) {
	before := mustNew(t, -1, &Keys{Current: "old", Ring: map[string][]byte{"old": key(1)}})
	after := mustNew(t, -1, &Keys{Current: "new", Ring: map[string][]byte{"old": key(1), "new": key(2)}})
	stored := before.Seal([]byte("text"), nil)
	if got, err := after.Open(stored, nil); err != nil || string(got) != "text" {
		t.Errorf("after the rotation: %q, %v", got, err)
	}
	if _, err := before.Open(after.Seal([]byte("text"), nil), nil); !errors.Is(err, ErrKey) {
		t.Errorf("a process without the new key: %v", err)
	}
}

func TestWhatDoesNotOpen(t *testing.T) {
	plain, ring := mustNew(t, -1, nil), mustNew(t, -1, &Keys{Current: "k", Ring: map[string][]byte{"k": key(1)}})
	other := mustNew(t, -1, &Keys{Current: "k", Ring: map[string][]byte{"k": key(2)}})
	secret := ring.Seal([]byte("text"), []byte("record"))
	changed := bytes.Clone(secret)
	changed[len(changed)-1] ^= 1
	packed := bytes.Clone(secret)
	packed[1] = compressedFirst
	for name, c := range map[string]struct {
		box    *Box
		stored []byte
		bound  string
		want   error
	}{
		"nothing":                  {plain, nil, "", ErrForm},
		"rubbish":                  {plain, []byte("{}"), "", ErrForm},
		"an unknown form":          {plain, []byte("1x"), "", ErrForm},
		"a newer version":          {plain, []byte("2p"), "", ErrNewer},
		"rubbish as compressed":    {plain, []byte("1zrubbish"), "", ErrForm},
		"encrypted, without a key": {plain, secret, "record", ErrKey},
		"another key":              {other, secret, "record", ErrForeign},
		"another record":           {ring, secret, "another", ErrForeign},
		"changed":                  {ring, changed, "record", ErrForeign},
		"another form":             {ring, packed, "record", ErrForeign},
		"not encrypted":            {ring, plain.Seal([]byte("text"), nil), "record", ErrPlain},
		"cut off in its key":       {ring, secret[:3], "record", ErrForm},
		"cut off":                  {ring, secret[:6], "record", ErrForeign},
	} {
		if text, err := c.box.Open(c.stored, []byte(c.bound)); !errors.Is(err, c.want) || text != nil {
			t.Errorf("%s: %q, %v; want %v", name, text, err, c.want)
		}
	}
	moving := mustNew(t, -1, &Keys{Current: "k", Ring: map[string][]byte{"k": key(1)}, AllowPlain: true})
	if text, err := moving.Open(plain.Seal([]byte("text"), nil), nil); err != nil || string(text) != "text" {
		t.Errorf("with AllowPlain: %q, %v", text, err)
	}
}

func TestABombDoesNotUnpack(t *testing.T) {
	b := mustNew(t, 0, nil)
	if _, err := b.Open(b.Seal(make([]byte, largest+1), nil), nil); !errors.Is(err, ErrForm) {
		t.Errorf("%v", err)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	for name, keys := range map[string]*Keys{
		"no ring":        {Current: "k"},
		"not in it":      {Current: "k", Ring: map[string][]byte{"l": key(1)}},
		"short":          {Current: "k", Ring: map[string][]byte{"k": key(1)[1:]}},
		"without a name": {Ring: map[string][]byte{"": key(1)}},
	} {
		if _, err := New(-1, keys); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	ring := &Keys{Current: "k", Ring: map[string][]byte{"k": key(1)}, AllowPlain: true}
	b, err := New(0, ring)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("1ptext"), []byte("bound"))
	f.Add(b.Seal([]byte("text"), []byte("bound")), []byte("bound"))
	f.Fuzz(func(t *testing.T, stored, bound []byte) {
		text, err := b.Open(stored, bound)
		if err != nil {
			return
		}
		if again, err := b.Open(b.Seal(text, bound), bound); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q became %q, %v", text, again, err)
		}
	})
}
