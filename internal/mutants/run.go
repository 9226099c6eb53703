package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// mutant is the product with something broken, and the tests that should see it.
type mutant struct {
	name    string
	promise string // P1 to P8: what it breaks
	story   string // what code does that is written without thinking of it
	changes []change
	check
}

// change replaces a piece of a file; the old text must occur exactly once.
type change struct{ file, old, new string }

// check is tests of one package, named as go test -run does.
type check struct{ pkg, tests string }

func (m *mutant) files() (names []string) {
	for _, c := range m.changes {
		if !slices.Contains(names, c.file) {
			names = append(names, c.file)
		}
	}
	return names
}

// apply returns the mutant's files as they read after its changes, one after the other.
func (m *mutant) apply(dir string) (map[string]string, error) {
	texts := map[string]string{}
	for _, c := range m.changes {
		text, changed := texts[c.file]
		if !changed {
			raw, err := os.ReadFile(filepath.Join(dir, c.file))
			if err != nil {
				return nil, err
			}
			text = string(raw)
		}
		if n := strings.Count(text, c.old); n != 1 {
			return nil, fmt.Errorf("%s has %q %d times, not once", c.file, c.old, n)
		}
		texts[c.file] = strings.Replace(text, c.old, c.new, 1)
	}
	return texts, nil
}

// outcome is what became of a mutant.
type outcome string

const (
	caught       outcome = "caught"
	notCaught    outcome = "not caught"
	pinned       outcome = "not caught but by a pin" // its test compares texts, and sees any change
	doesNotApply outcome = "does not apply"
	doesNotBuild outcome = "does not build"
	tooSlow      outcome = "timed out"
	noProof      outcome = "proves nothing" // its tests fail, are skipped or do not exist without it too
)

// result is one row of the table.
type result struct {
	Name    string   `json:"name"`
	Promise string   `json:"promise"`
	Story   string   `json:"story"`
	Files   []string `json:"files"`
	Package string   `json:"package"`
	Tests   string   `json:"tests"`
	Outcome outcome  `json:"outcome"`
	By      string   `json:"by,omitempty"`   // the first test that failed
	Said    string   `json:"said,omitempty"` // and what it said first
	Why     string   `json:"why,omitempty"`  // it was not caught
	Seconds float64  `json:"seconds"`
}

// pins are tests that compare texts or names, or that have mutants of their own. None is a check of behaviour.
var pins = regexp.MustCompile(`^Test(PinnedHashes|Docs|ScriptContracts|ReplyCodesAreTheSame|ScriptsUseNothing|Luacheck|PublicNames|Conformance|Mutants|Judge|OracleFinds)`)

type runner struct {
	dir      string        // of the module
	limit    time.Duration // of one run of tests
	atOnce   int
	progress io.Writer

	temp string
	mu   sync.Mutex // of progress
}

// run runs every check without a mutant, and then each mutant's check with it.
func (r *runner) run(ctx context.Context, mutants []mutant) (results []result, err error) {
	if r.temp, err = os.MkdirTemp("", "mutants-"); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(r.temp) }()
	sound := r.soundness(ctx, mutants)
	results = make([]result, len(mutants))
	var done atomic.Int32
	r.each(len(mutants), func(i int) {
		if ctx.Err() != nil {
			return
		}
		m := &mutants[i]
		began := time.Now()
		row := result{Name: m.name, Promise: m.promise, Story: m.story, Files: m.files(), Package: m.pkg, Tests: m.tests}
		if row.Why = sound[m.check]; row.Why != "" {
			row.Outcome = noProof
		} else {
			r.try(ctx, m, fmt.Sprint("m", i), &row)
		}
		row.Seconds = time.Since(began).Seconds()
		results[i] = row
		r.note("%d of %d: %s: %s %s", done.Add(1), len(mutants), m.name, row.Outcome, strings.TrimSpace(row.By+" "+row.Why))
	})
	return results, ctx.Err()
}

// soundness says of each check why it proves nothing: where a test fails, is skipped or does not exist anyway.
func (r *runner) soundness(ctx context.Context, mutants []mutant) map[check]string {
	var checks []check
	var packages []string
	for _, m := range mutants {
		if !slices.Contains(checks, m.check) {
			checks = append(checks, m.check)
		}
		if !slices.Contains(packages, m.pkg) {
			packages = append(packages, m.pkg)
		}
	}
	r.note("%d checks without a mutant", len(checks))
	var mu sync.Mutex
	why := map[check]string{}
	binaries := map[string]string{}
	r.each(len(packages), func(i int) {
		bin, err := r.build(ctx, packages[i], fmt.Sprint("sound", i), nil)
		mu.Lock()
		defer mu.Unlock()
		if binaries[packages[i]] = bin; err != nil {
			for _, c := range checks {
				if c.pkg == packages[i] {
					why[c] = err.Error()
				}
			}
		}
	})
	r.each(len(checks), func(i int) {
		c := checks[i]
		mu.Lock()
		unbuilt := why[c] != ""
		mu.Unlock()
		if unbuilt {
			return
		}
		ran := r.test(ctx, binaries[c.pkg], c)
		problem := ""
		switch {
		case ran.err != nil:
			problem = fmt.Sprintf("without it, %s fails: %v\n%s", ran.failed, ran.err, ran.tail())
		case strings.Contains(ran.output, "--- SKIP: "):
			problem = "its tests are skipped\n" + ran.tail()
		case !c.met(ran.output):
			problem = "no test has this name"
		}
		mu.Lock()
		defer mu.Unlock()
		if problem != "" {
			why[c] = problem
		}
	})
	return why
}

// try builds the tests with a mutant and runs them. Built by itself, what does not compile is not taken for caught.
func (r *runner) try(ctx context.Context, m *mutant, id string, row *result) {
	texts, err := m.apply(r.dir)
	if err != nil {
		row.Outcome, row.Why = doesNotApply, err.Error()
		return
	}
	bin, err := r.build(ctx, m.pkg, id, texts)
	if err != nil {
		row.Outcome, row.Why = doesNotBuild, err.Error()
		return
	}
	ran := r.test(ctx, bin, m.check)
	_ = os.Remove(bin) // sixty of them are a gigabyte
	row.By, row.Said = ran.failed, ran.said()
	switch {
	case ran.err == nil:
		row.Outcome, row.Why = notCaught, "its tests pass"
	case ran.late:
		row.Outcome, row.Why = tooSlow, ran.tail()
	case ran.failed == "":
		row.Outcome, row.Why = notCaught, fmt.Sprintf("no test failed, but: %v\n%s", ran.err, ran.tail())
	case pins.MatchString(ran.failed):
		row.Outcome, row.Why = pinned, "choose tests of behaviour"
	default:
		row.Outcome = caught
	}
}

// build compiles a package's tests, some files replaced by an overlay, so that the tree is not touched.
func (r *runner) build(ctx context.Context, pkg, id string, texts map[string]string) (string, error) {
	bin := filepath.Join(r.temp, id+".test")
	args := []string{"test", "-c", "-vet=off", "-gcflags=-N -l", "-ldflags=-s -w", "-o", bin} // what is quickest to build
	if texts != nil {
		replace := map[string]string{}
		for name, text := range texts {
			copied := filepath.Join(r.temp, id+"-"+strings.ReplaceAll(name, "/", "-"))
			if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
				return bin, err
			}
			replace[filepath.Join(r.dir, name)] = copied
		}
		overlay, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			return bin, err
		}
		path := filepath.Join(r.temp, id+".json")
		if err := os.WriteFile(path, overlay, 0o600); err != nil {
			return bin, err
		}
		args = append(args, "-overlay", path)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return bin, fmt.Errorf("go test -c: %w\n%s", err, out)
	}
	return bin, nil
}

// met says whether a test passed that is as deep as the pattern: a parent passes where no part of it has the name.
func (c check) met(output string) bool {
	for _, line := range passedLine.FindAllStringSubmatch(output, -1) {
		if strings.Count(line[1], "/") >= strings.Count(c.tests, "/") {
			return true
		}
	}
	return false
}

// ran is what became of a run of tests.
type ran struct {
	output string
	err    error
	late   bool
	failed string // the first test that failed
}

func (r *runner) test(ctx context.Context, bin string, c check) ran {
	ctx, cancel := context.WithTimeout(ctx, r.limit+10*time.Second) // by itself it ends in time, with the stacks
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-test.v", "-test.failfast", "-test.timeout="+r.limit.String(), "-test.run="+c.tests)
	cmd.Dir = filepath.Join(r.dir, c.pkg)
	cmd.Env = append(os.Environ(), "COORD_REQUIRE_SERVERS=1") // without its server a test fails, and is not skipped
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	was := ran{output: string(out), err: err}
	was.late = err != nil && (ctx.Err() != nil || bytes.Contains(out, []byte("panic: test timed out after")))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		was.failed = firstFailed(was.output)
	}
	return was
}

var (
	passedLine  = regexp.MustCompile(`(?m)^ *--- PASS: (\S+)`)
	failedLine  = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	startedLine = regexp.MustCompile(`(?m)^=== RUN +(\S+)`)
	complaint   = regexp.MustCompile(`(?m)^(?: +\w+_test\.go:\d+: |panic: |fatal error: )(.*)`)
)

// firstFailed names the first test that failed: the innermost, as a test's own line stands above those of its parts.
// Where none says so, a panic beside the tests has ended them all, and it is the one that ran.
func firstFailed(output string) (name string) {
	for _, line := range failedLine.FindAllStringSubmatch(output, -1) {
		if name != "" && !strings.HasPrefix(line[1], name+"/") {
			break
		}
		name = line[1]
	}
	if started := startedLine.FindAllStringSubmatch(output, -1); name == "" && len(started) > 0 && strings.Contains(output, "\npanic: ") {
		name = started[len(started)-1][1]
	}
	return name
}

// said is the first complaint, or the panic.
func (r *ran) said() string {
	if line := complaint.FindStringSubmatch(r.output); line != nil {
		return line[1]
	}
	return ""
}

// tail is the end of the output, where the reason is.
func (r *ran) tail() string {
	const most = 2000
	return r.output[max(len(r.output)-most, 0):]
}

// each does n things, so many at a time.
func (r *runner) each(n int, do func(i int)) {
	var next atomic.Int32
	var workers sync.WaitGroup
	for range min(r.atOnce, n) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	workers.Wait()
}

func (r *runner) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.progress, format+"\n", args...)
}
