package coordinator_test

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator/internal/protocol"
)

// What the documentation says is compared with what there is: links, programs, names, defaults.

// pages are the Markdown files of the tree.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "*/README.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = string(text)
		}
	}
	if all["README.md"] == "" || all["docs/protocol.md"] == "" {
		t.Fatal("the pages are not where this test looks for them")
	}
	return all
}

var (
	fence   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// anchors are what headings can be linked by.
func anchors(page string) map[string]bool {
	all := map[string]bool{"": true}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		title := strings.ToLower(regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(m[1], ""))
		all[strings.ReplaceAll(title, " ", "-")] = true
	}
	return all
}

func TestDocsLinksResolve(t *testing.T) {
	all := pages(t)
	for name, text := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if page, known := all[filepath.ToSlash(target)]; known && !anchors(page)[anchor] {
				t.Errorf("%s links to %s, which has no such heading", name, m[1])
			}
		}
	}
}

// A block under a mark that names a file quotes it, byte for byte, from its package clause to its end.
func TestDocsQuotes(t *testing.T) {
	quotation := regexp.MustCompile("(?ms)^<!-- quote: (\\S+) -->\n```go\n(.*?)^```$")
	quotations := 0
	for name, text := range pages(t) {
		for _, m := range quotation.FindAllStringSubmatch(text, -1) {
			quotations++
			quoted, err := os.ReadFile(m[1])
			if err != nil {
				t.Fatal(err)
			}
			if _, program, _ := strings.Cut("\n"+string(quoted), "\npackage "); m[2] != "package "+program {
				t.Errorf("%s quotes\n%s\nand %s is\npackage %s", name, m[2], m[1], program)
			}
		}
	}
	if quotations == 0 {
		t.Error("no page quotes a file; the README should")
	}
}

// source is what the root package declares, and the names of the adapters beside it.
type source struct {
	names     map[string]bool
	errors    map[string]bool     // the root's exported ones
	options   map[string]string   // the root's functions that return an option, and which kind
	constants map[string]ast.Expr // the root's
}

func parseRoot(t *testing.T) source {
	t.Helper()
	s := source{names: map[string]bool{}, errors: map[string]bool{}, options: map[string]string{}, constants: map[string]ast.Expr{}}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	adapters, err := filepath.Glob("coord*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, adapters...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		own := filepath.Dir(name) == "."
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				s.names[d.Name.Name] = true
				if own && d.Recv == nil && d.Name.IsExported() && d.Type.Results != nil && len(d.Type.Results.List) == 1 {
					if kind, ok := d.Type.Results.List[0].Type.(*ast.Ident); ok && strings.HasSuffix(kind.Name, "Option") {
						s.options[d.Name.Name] = kind.Name
					}
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						s.names[spec.Name.Name] = true
					case *ast.ValueSpec:
						for i, ident := range spec.Names {
							s.names[ident.Name] = true
							if own && d.Tok == token.VAR && strings.HasPrefix(ident.Name, "Err") {
								s.errors[ident.Name] = true
							}
							if own && d.Tok == token.CONST && i < len(spec.Values) {
								s.constants[ident.Name] = spec.Values[i]
							}
						}
					}
				}
			}
		}
	}
	return s
}

// Errors and options that a page names exist. Those of other modules are written with their package.
func TestDocsNamesExist(t *testing.T) {
	root := parseRoot(t)
	name := regexp.MustCompile(`([\w)]\.)?\b(Err[A-Z]\w*|With[A-Z]\w*|[A-Z]\w*Error)\b`)
	for page, text := range pages(t) {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			if m[1] == "" && !root.names[m[2]] {
				t.Errorf("%s names %s, which the package does not have", page, m[2])
			}
		}
	}
}

// defaultRows are the rows of a page's tables of options: those with the columns option, default and allowed come first.
func defaultRows(page string) map[string][]string {
	rows := map[string][]string{}
	table := false
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if strings.HasPrefix(line, "| option | default | allowed |") {
			table = true
		} else if !strings.HasPrefix(line, "|") {
			table = false
		}
		if table && len(cells) == 6 && strings.HasPrefix(line, "| `") {
			option, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(cells[1]), "`"), "`")
			rows[option] = cells
		}
	}
	return rows
}

// The README's tables have every option. They, and those of other pages, have the defaults and least values that the code has.
func TestDocsDefaults(t *testing.T) {
	root := parseRoot(t)
	tables := 0
	for page, text := range pages(t) {
		rows := defaultRows(text)
		for option := range rows {
			if root.options[option] == "" {
				t.Errorf("%s has a row for %s, which is no option", page, option)
			}
		}
		if len(rows) > 0 {
			tables++
			root.checkDefaults(t, page, rows)
		}
		if page != "README.md" {
			continue
		}
		for option, kind := range root.options {
			if rows[option] == nil {
				t.Errorf("README.md has no row for %s, a %s", option, kind)
			}
		}
	}
	if tables < 2 {
		t.Errorf("%d pages have tables of options; the README and docs/keys-and-ttls.md should", tables)
	}
}

func (s source) checkDefaults(t *testing.T, page string, rows map[string][]string) {
	t.Helper()
	const standard, allowed = 2, 3
	for _, want := range []struct {
		option   string
		cell     int
		constant string
	}{
		{"WithPrefix", standard, "defaultPrefix"}, {"WithLease", standard, "defaultLease"}, {"WithLease", allowed, "minLease"},
		{"WithGrace", standard, "minGrace"}, {"WithGrace", allowed, "minGrace"}, {"WithRetention", standard, "defaultRetention"},
		{"WithMaxLifetime", standard, "defaultMaxLifetime"}, {"WithMaxLifetime", allowed, "minLease"},
		{"WithMaxPayload", standard, "defaultMaxPayload"}, {"WithMaxPayload", allowed, "largestPayload"},
		{"WithTimeout", standard, "defaultTimeout"}, {"LeaseFor", allowed, "minLease"}, {"MaxLifetime", allowed, "minLease"},
		{"Fingerprint", allowed, "maxFingerprint"}, {"WithReplayCache", allowed, "minReplayCache"},
		{"WithReplayCache", allowed, "minReplayAge"}, {"WithReplayCache", allowed, "maxReplayAge"},
	} {
		value := s.eval(t, s.constants[want.constant])
		written := []string{value.ExactString()}
		if n, exact := constant.Int64Val(constant.ToInt(value)); exact {
			written = append(written, fmt.Sprintf("%d MiB", n>>20), fmt.Sprintf("%d KiB", n>>10), short(time.Duration(n)))
		} else {
			written = append(written, constant.StringVal(value))
		}
		cells, found := rows[want.option], false
		if cells == nil {
			continue // said above, where it should be there
		}
		for _, text := range written {
			found = found || regexp.MustCompile(`(^|[^\w.])`+regexp.QuoteMeta(text)+`($|[^\w.])`).MatchString(cells[want.cell])
		}
		if !found {
			t.Errorf("%s says %q of %s; %s is one of %v", page, cells[want.cell], want.option, want.constant, written)
		}
	}
}

// short writes a duration without the zeros at its end: 24h, not 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// eval computes the constants of options.go: numbers, texts, products, shifts, and time's units.
func (s source) eval(t *testing.T, e ast.Expr) constant.Value {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return s.eval(t, e.X)
	case *ast.Ident:
		return s.eval(t, s.constants[e.Name])
	case *ast.SelectorExpr:
		units := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}
		if unit, known := units[e.Sel.Name]; known {
			return constant.MakeInt64(int64(unit))
		}
		if e.Sel.Name == "MaxFingerprint" {
			return constant.MakeInt64(protocol.MaxFingerprint)
		}
	case *ast.BinaryExpr:
		x, y := s.eval(t, e.X), s.eval(t, e.Y)
		if e.Op == token.SHL {
			bits, _ := constant.Uint64Val(y)
			return constant.Shift(x, e.Op, uint(bits))
		}
		return constant.BinaryOp(x, e.Op, y)
	}
	t.Fatalf("this test cannot compute %T", e)
	return nil
}
