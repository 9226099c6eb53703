package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/onceward/coordinator/internal/redistest"
)

// ask starts the server and returns what it calls itself.
func ask(ctx context.Context, binary string) (string, error) {
	if err := os.Setenv(redistest.EnvServer, binary); err != nil {
		return "", err
	}
	s, err := redistest.Start(ctx)
	if err != nil {
		return "", err
	}
	defer s.Stop()
	client := s.Client(nil)
	defer client.Close()
	info, err := client.Info(ctx, "server").Result()
	return called(info), err
}

// called reads INFO server. All engines have a redis_version, which says what Redis they are compatible with.
func called(info string) string {
	fields := map[string]string{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = value
	}
	for _, name := range []string{"Valkey", "Redict"} {
		if version := fields[strings.ToLower(name)+"_version"]; version != "" {
			return name + " " + version
		}
	}
	return "Redis " + fields["redis_version"]
}

// count is of packages, or of tests without those inside of others.
type count struct {
	OK      int `json:"ok"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
}

// outcome is what became of the tests on one engine.
type outcome struct {
	Packages count    `json:"packages"` // those without tests are not counted
	Tests    count    `json:"tests"`
	Failures []string `json:"failures"`
	Skips    []string `json:"skips"`
	Started  int      `json:"servers_started"`
	Seconds  int      `json:"seconds"`
}

// apart is left out: it holds the cost in CPU against a target, which is told by a quiet machine and says nothing about what works.
const apart = "^TestCPU$"

// suite runs the tests of all modules with this engine as the server. The names under which a server or client would be started
// otherwise lead to decoys.
func suite(ctx context.Context, e engine, dir string, args []string) (*outcome, error) {
	decoys := filepath.Join(dir, "decoys")
	strays := filepath.Join(dir, "strays")
	for _, path := range []string{starts(dir), strays} {
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(decoys, 0o755); err != nil {
		return nil, err
	}
	for _, product := range []string{"redis", "valkey", "redict"} {
		for _, program := range []string{"server", "sentinel", "cli"} {
			script := fmt.Sprintf("#!/bin/sh\necho \"$0\" >>%s\nexit 1\n", quote(strays))
			if err := os.WriteFile(filepath.Join(decoys, product+"-"+program), []byte(script), 0o755); err != nil {
				return nil, err
			}
		}
	}
	log, err := os.Create(filepath.Join(dir, "tests.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	modules, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}"))
	if err != nil {
		return nil, err
	}
	o := &outcome{Failures: []string{}, Skips: []string{}}
	begin := time.Now()
	for _, module := range strings.Fields(modules) {
		cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"test", "-count=1", "-json", "-timeout", "10m", "-skip", apart}, args, []string{"./..."})...)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), redistest.EnvServer+"="+e.binary(dir), redistest.EnvRequire+"=1", "PATH="+decoys+":"+os.Getenv("PATH"))
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err := o.take(cmd, log); err != nil {
			return o, err
		}
	}
	o.Seconds = int(time.Since(begin).Seconds())
	lines, err := os.ReadFile(starts(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return o, err
	}
	o.Started = bytes.Count(lines, []byte("\n"))
	if by, err := os.ReadFile(strays); err == nil {
		return o, fmt.Errorf("a test started what REDIS_SERVER does not name: %s", strings.Join(strings.Fields(string(by)), ", "))
	} else if !errors.Is(err, os.ErrNotExist) {
		return o, err
	}
	if len(o.Failures) > 0 {
		fmt.Fprintln(os.Stderr, "all of what the tests print is in", log.Name())
	}
	return o, nil
}

// take runs go test -json and counts.
func (o *outcome) take(cmd *exec.Cmd, log io.Writer) error {
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failed := len(o.Failures)
	if err := o.count(out, log, os.Stderr); err != nil {
		_ = cmd.Cancel()
		_ = cmd.Wait()
		return err
	}
	if err := cmd.Wait(); err != nil && len(o.Failures) == failed {
		return fmt.Errorf("%v in %s: %w", cmd.Args, cmd.Dir, err)
	}
	return nil
}

// event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// count reads the events. The log gets all that the tests print, and out what failed did.
func (o *outcome) count(events io.Reader, log, out io.Writer) error {
	type key struct{ pkg, test string }
	printed := map[key]string{}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%w in %q", err, line)
		}
		outermost, _, inner := strings.Cut(e.Test, "/")
		k := key{e.Package, outermost}
		if e.Action == "build-output" { // names no package that is tested
			fmt.Fprint(out, e.Output)
		}
		if e.Action == "output" || e.Action == "build-output" {
			printed[k] += e.Output
			if _, err := io.WriteString(log, e.Output); err != nil {
				return err
			}
		}
		if e.Test == "" && (e.Action == "pass" || e.Action == "fail") {
			fmt.Fprintf(out, "%-5s%s  %.1f s\n", e.Action, e.Package, e.Elapsed)
		}
		if e.Action != "pass" && e.Action != "fail" && e.Action != "skip" || inner {
			continue
		}
		name := strings.TrimSuffix(e.Package+"."+e.Test, ".")
		which := &o.Tests
		if e.Test == "" {
			which = &o.Packages
		}
		switch e.Action {
		case "pass":
			which.OK++
		case "skip":
			if e.Test != "" { // a package that is skipped has no tests
				which.Skipped++
				o.Skips = append(o.Skips, name)
			}
		case "fail":
			which.Failed++
			fmt.Fprint(out, printed[k])
			if e.Test == "" && slices.ContainsFunc(o.Failures, func(f string) bool { return strings.HasPrefix(f, name+".") }) {
				break // said by its tests
			}
			o.Failures = append(o.Failures, name)
		}
		delete(printed, k)
	}
}
