package judge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onceward/coordinator/chaos/history"
)

// recorded returns the histories of a directory of testdata, by name.
func recorded(t *testing.T, dir string) map[string]*history.History {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", dir, "*.jsonl"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no histories in testdata/%s: %v", dir, err)
	}
	all := map[string]*history.History{}
	for _, name := range names {
		h, err := history.ReadFiles(name)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".jsonl")] = h
	}
	return all
}

// Good histories, among them those that faults explain, are accepted by every check.
func TestGood(t *testing.T) {
	for name, h := range recorded(t, "good") {
		t.Run(name, func(t *testing.T) {
			if v := Judge(h, Options{Minimum: none}); !v.OK {
				t.Errorf("%s\n%s", strings.Join(v.Failures(), "\n"), dump(h))
			}
		})
	}
}

// Each check finds the bad histories that were made for it.
func TestBad(t *testing.T) {
	for check := range none {
		least := 4
		if check == Linearizable {
			least = 40
		}
		histories := recorded(t, filepath.Join("bad", strings.ReplaceAll(check, " ", "-")))
		if len(histories) < least {
			t.Errorf("%d bad histories for the check %q, at least %d were wanted", len(histories), check, least)
		}
		for name, h := range histories {
			t.Run(check+"/"+name, func(t *testing.T) {
				v := Judge(h, Options{Minimum: none})
				for i := range v.Checks {
					if c := &v.Checks[i]; c.Name == check && !c.OK() {
						t.Log(c.Violations[0])
						return
					}
				}
				t.Errorf("the check %q does not find it; others: %v\n%s", check, v.Failures(), dump(h))
			})
		}
	}
}

// A check that has seen too little fails.
func TestMinimum(t *testing.T) {
	v := Judge(&history.History{}, Options{})
	if v.OK || len(v.Failures()) != len(v.Checks) {
		t.Errorf("an empty history is accepted by some checks: %v", v.Failures())
	}
}

// A domain without an order gets a page.
func TestPicture(t *testing.T) {
	dir := t.TempDir()
	for name, h := range recorded(t, "bad/linearizable") {
		v := Judge(h, Options{Minimum: none, Pictures: dir})
		page, err := os.ReadFile(filepath.Join(dir, "d.html"))
		if err != nil || !strings.Contains(string(page), "claim k") {
			t.Fatalf("%s: no page, or one that does not tell the operations: %v; %v", name, err, v.Failures())
		}
		if !strings.Contains(strings.Join(v.Failures(), "\n"), dir) {
			t.Fatalf("%s: the violation does not name the page: %v", name, v.Failures())
		}
	}
}

func TestSinkLine(t *testing.T) {
	token, owner, text, err := ParseSinkLine(SinkLine(17, "ab", "a b.c"))
	if token != 17 || owner != "ab" || text != "a b.c" || err != nil {
		t.Errorf("got %d, %q, %q, %v", token, owner, text, err)
	}
	for _, line := range []string{"", "17", "17 x", "17.ab", "x.ab c", "17. c"} {
		if _, _, _, err := ParseSinkLine(line); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
}
