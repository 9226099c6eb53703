package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A module with something to break, and tests that see it, or do not.
var scratch = map[string]string{
	"go.mod": "module scratch\n\ngo 1.26\n",
	"half.go": `package scratch

import _ "embed"

//go:embed greeting.txt
var greeting string

// half of an even number.
func half(n int) int { return n / 2 }
`,
	"greeting.txt": "hello",
	"half_test.go": `package scratch

import "testing"

func TestHalf(t *testing.T) {
	t.Run("of two", func(t *testing.T) {
		if half(2) != 1 {
			t.Error("no half")
		}
	})
}
func TestGreeting(t *testing.T) {
	if greeting != "hello" {
		t.Errorf("it says %q", greeting)
	}
}
func TestPinnedHashes(t *testing.T) { TestGreeting(t) }
func TestFails(t *testing.T)        { t.Error("always") }
func TestSkipped(t *testing.T)      { t.Skip("never") }
`,
}

func TestOutcomes(t *testing.T) {
	t.Setenv("GOWORK", "off")
	dir := t.TempDir()
	for name, text := range scratch {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	third, other := in("half.go", "n / 2", "n / 3"), in("greeting.txt", "hello", "farewell")
	cases := []struct {
		changes []change
		tests   string
		want    outcome
		by      string
	}{
		{third, "^TestHalf$", caught, "TestHalf/of_two"},
		{other, "^TestGreeting$", caught, "TestGreeting"}, // an embedded file
		{in("half.go", "n / 2", "n / (n - n)"), "^TestHalf$/two", caught, "TestHalf/of_two"},
		{both(in("half.go", "n / 2", "n / 4"), in("half.go", "n / 4", "n / 2")), "^TestHalf$", notCaught, ""},
		{in("half.go", "of an even number", "of a number"), "^TestHalf$", notCaught, ""},
		{third, "^TestGreeting$", notCaught, ""},
		{other, "^TestPinnedHashes$", pinned, "TestPinnedHashes"},
		{in("half.go", "n / 5", "n / 3"), "^TestHalf$", doesNotApply, ""},
		{in("half.go", "half", "part"), "^TestHalf$", doesNotApply, ""}, // twice
		{in("half.go", "n / 2", "n / two"), "^TestHalf$", doesNotBuild, ""},
		{in("half.go", "return n / 2", "select {}"), "^TestHalf$", tooSlow, ""},
		{third, "^Test(Half|Fails)$", noProof, ""},
		{third, "^Test(Half|Skipped)$", noProof, ""},
		{third, "^TestThird$", noProof, ""},
		{third, "^TestHalf$/four", noProof, ""},
	}
	mutants := make([]mutant, len(cases))
	for i, c := range cases {
		mutants[i] = mutant{name: c.tests, changes: c.changes, check: root(c.tests)}
	}
	r := &runner{dir: dir, limit: 3 * time.Second, atOnce: 2, progress: io.Discard}
	results, err := r.run(t.Context(), mutants)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if is := results[i]; is.Outcome != c.want || is.By != c.by && c.want != tooSlow || is.Why == "" != (c.want == caught) {
			t.Errorf("%d: %+v, want %q by %q", i, is, c.want, c.by)
		}
	}
	left, err := filepath.Glob(r.temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	var out bytes.Buffer
	if code := report(&out, io.Discard, results[:2], false); code != 0 {
		t.Errorf("all are caught, and it is %d", code)
	}
	for i, c := range cases[2:] {
		if code := report(&out, io.Discard, results[i+2:i+3], true); (code != 0) != (c.want != caught) {
			t.Errorf("%s, and it is %d", c.want, code)
		}
	}
	if table := out.String(); !strings.Contains(table, "TestHalf/of_two") || !strings.Contains(table, `"outcome": "not caught"`) {
		t.Error(table)
	}
}

// Each mutant of the list applies to the files as they are now. Whether it is caught, make mutants says.
func TestEveryMutantApplies(t *testing.T) {
	const dir = "../.."
	broken, promises, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, m := range all() {
		texts, err := m.apply(dir)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		for name, text := range texts {
			before, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || text == string(before) || strings.HasSuffix(name, "_test.go") {
				t.Errorf("%s does not change %s, or that is none of the product's: %v", m.name, name, err)
			}
			broken[name] = true
		}
		if names[m.name] || m.story == "" || m.pkg == "" || m.tests == "" {
			t.Errorf("%s: another one has its name, or something is missing", m.name)
		}
		names[m.name], promises[m.promise] = true, true
	}
	for _, p := range []string{"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"} {
		if !promises[p] {
			t.Errorf("no mutant breaks %s", p)
		}
	}
	if len(promises) != 8 {
		t.Errorf("the promises are %v", promises)
	}
	files, err := filepath.Glob(dir + "/scripts/*.lua")
	if err != nil || len(files) < 14 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		if name := "scripts/" + filepath.Base(file); !broken[name] {
			t.Errorf("no mutant breaks %s", name)
		}
	}
}
