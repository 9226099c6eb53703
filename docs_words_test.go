package coordinator_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/operating.md explains every exported error: what it means, whether to try again, what to do, a status.
func TestDocsExplainEveryError(t *testing.T) {
	page := pages(t)["docs/operating.md"]
	errs := parseRoot(t).errors
	for name := range errs {
		if unexplained(page, name) {
			t.Errorf("docs/operating.md does not explain %s in a row of five cells", name)
		}
	}
	if len(errs) < 15 || !unexplained(page, "ErrNoSuch") {
		t.Errorf("this test found %d errors only, or finds rows that are not there", len(errs))
	}
}

func unexplained(page, name string) bool {
	for line := range strings.Lines(page) {
		if cells := strings.Split(line, "|"); len(cells) == 7 && strings.TrimSpace(cells[1]) == "`"+name+"`" {
			for _, cell := range cells[2:6] {
				if strings.TrimSpace(cell) == "" {
					return true
				}
			}
			return false
		}
	}
	return true
}

// It names every outcome that an observer is told, and the code has every outcome that it lists.
func TestDocsOutcomes(t *testing.T) {
	page := pages(t)["docs/operating.md"]
	code, err := os.ReadFile("observer.go")
	if err != nil {
		t.Fatal(err)
	}
	outcomes := regexp.MustCompile(`\{Err\w+, "(\w+)"\}`).FindAllStringSubmatch(string(code), -1)
	if len(outcomes) < 15 {
		t.Errorf("observer.go has %d outcomes where this test looks for them", len(outcomes))
	}
	for _, m := range outcomes {
		if !strings.Contains(page, "`"+m[1]+"`") {
			t.Errorf("docs/operating.md does not name the outcome %s", m[1])
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	notes := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`Note\(Event\{.*Outcome: "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
			if notes++; !strings.Contains(page, "`"+m[1]+"`") {
				t.Errorf("docs/operating.md does not name the note %s", m[1])
			}
		}
	}
	if notes < 3 {
		t.Errorf("the code has %d notes where this test looks for them", notes)
	}
	_, table, _ := strings.Cut(page, "| `outcome` of a call |")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cell, -1) {
			if !regexp.MustCompile(`\b` + m[1] + `\b`).Match(code) {
				t.Errorf("docs/operating.md has the outcome %s, which observer.go does not", m[1])
			}
		}
	}
}

// Metrics that a page names are in coordprom, and docs/operating.md has all of them.
func TestDocsMetrics(t *testing.T) {
	files, err := filepath.Glob("coordprom/*.go")
	if err != nil {
		t.Fatal(err)
	}
	metric := regexp.MustCompile(`\bcoordinator_[a-z_]+`)
	there := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metric.FindAllString(string(code), -1) {
			there[name] = true
		}
	}
	all := pages(t)
	for page, text := range all {
		for _, name := range metric.FindAllString(text, -1) {
			if !there[name] {
				t.Errorf("%s names the metric %s, which coordprom does not have", page, name)
			}
		}
	}
	for name := range there {
		if !strings.Contains(all["docs/operating.md"], "| `"+name+"` |") {
			t.Errorf("docs/operating.md has no row for the metric %s", name)
		}
	}
}

// Every exported type of the root package has an example, of its own or of one of its methods.
func TestDocsTypesHaveExamples(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	types, examples := map[string]bool{}, map[string]bool{}
	for _, name := range files {
		code, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "_test.go") {
			for _, m := range regexp.MustCompile(`(?m)^type ([A-Z]\w*)`).FindAllStringSubmatch(string(code), -1) {
				types[m[1]] = true
			}
			continue
		}
		for _, m := range regexp.MustCompile(`(?m)^func Example([A-Z][A-Za-z]*)`).FindAllStringSubmatch(string(code), -1) {
			examples[m[1]] = true
		}
	}
	for name := range types {
		if !examples[name] {
			t.Errorf("%s has no example", name)
		}
	}
	if len(types) < 20 {
		t.Errorf("this test found %d types only", len(types))
	}
}

// Every drawing is shown by a page, with words for who does not see it.
func TestDocsShowEveryDrawing(t *testing.T) {
	drawings, err := filepath.Glob("docs/img/*.svg")
	if err != nil {
		t.Fatal(err)
	}
	if len(drawings) == 0 {
		t.Error("there are no drawings; run go run ./internal/drawings")
	}
	for _, path := range drawings {
		shown := false
		for _, text := range pages(t) {
			shown = shown || regexp.MustCompile(`!\[[^\]]{10,}\]\([^)]*`+regexp.QuoteMeta(filepath.Base(path))+`\)`).MatchString(text)
		}
		if !shown {
			t.Errorf("no page shows %s", path)
		}
	}
}

// What the drawings show is what the program draws.
func TestDocsDrawings(t *testing.T) {
	run(t, "go", "run", "./internal/drawings", "-check")
}
