// Command engines runs the tests of all modules on every server that Debian's archives have of those that the project is for, and
// prints a matrix. Each engine is unpacked from its packages, with the libraries of its own suite, under bin/engines; nothing is
// installed, and no privilege is needed. What is there already is used again.
//
//	go run ./internal/engines                     the matrix
//	go run ./internal/engines --only 'valkey'     engines whose name has this in it, a regular expression
//	go run ./internal/engines --json              the same as one JSON object
//	go run ./internal/engines --fetch             get the engines and ask each for its version; run no tests
//	go run ./internal/engines -- -run '^TestACL'  with more arguments for go test
//
// The exit status is 1 when a test fails on any engine, when a needed engine cannot be had, and when a test starts a server that
// is not the engine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"text/tabwriter"
	"time"
)

// engine is a server as one suite of Debian has it.
type engine struct {
	Name   string
	server string   // the package, and the name of its program
	suites []string // what its packages come from; the first may be older than the others
	needed bool     // that it cannot be had is a failure; otherwise it is told
}

// engines are in the order of their versions. The needed ones are in suites that do not change any more but for mends.
var engines = []engine{
	{"redis-bookworm", "redis-server", []string{"bookworm", "bookworm-security"}, true},
	{"redis-trixie", "redis-server", []string{"trixie", "trixie-security"}, true},
	{"redis-sid", "redis-server", []string{"sid"}, false},
	{"valkey-bookworm-backports", "valkey-server", []string{"bookworm", "bookworm-security", "bookworm-backports"}, true},
	{"valkey-trixie", "valkey-server", []string{"trixie", "trixie-security"}, true},
	{"valkey-sid", "valkey-server", []string{"sid"}, false},
	{"redict-bookworm-backports", "redict-server", []string{"bookworm", "bookworm-security", "bookworm-backports"}, false},
}

// row is what became of an engine.
type row struct {
	Engine  string `json:"engine"`
	Needed  bool   `json:"needed"`
	Server  string `json:"server"`  // as it says itself: "Valkey 8.0.1"
	Package string `json:"package"` // "valkey-server 8.0.1+dfsg1-1~bpo12+1"
	Error   string `json:"error,omitempty"`
	*outcome
}

func (r row) bad() bool {
	return r.Error != "" && (r.Needed || r.outcome != nil) || r.outcome != nil && len(r.Failures) > 0
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errBad):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "engines:", err)
		os.Exit(2)
	}
}

// errBad is the outcome when the matrix says what is wrong.
var errBad = errors.New("the matrix is not clean")

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("engines", flag.ContinueOnError)
	only := flags.String("only", "", "a regular `expression`: engines whose name matches")
	dir := flags.String("dir", filepath.Join("bin", "engines"), "`directory` to unpack them in")
	asJSON := flags.Bool("json", false, "print one JSON object instead of the table")
	fetchOnly := flags.Bool("fetch", false, "get the engines, and run no tests")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	root, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	var rows []row
	for _, e := range engines {
		if !chosen.MatchString(e.Name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "\n== %s\n", e.Name)
		r := e.try(ctx, filepath.Join(root, e.Name), *fetchOnly, flags.Args())
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.Error != "" {
			fmt.Fprintln(os.Stderr, r.Error)
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		return fmt.Errorf("no engine's name matches %q", *only)
	}
	if *asJSON {
		err = json.NewEncoder(out).Encode(map[string][]row{"engines": rows})
	} else {
		err = table(out, rows)
	}
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.bad() {
			return errBad
		}
	}
	return nil
}

// try gets the engine and runs the tests on it.
func (e engine) try(ctx context.Context, dir string, fetchOnly bool, args []string) row {
	r := row{Engine: e.Name, Needed: e.needed}
	if err := e.get(ctx, dir); err != nil {
		r.Error = "cannot be had: " + err.Error()
		return r
	}
	var err error
	if r.Package, err = e.version(dir); err == nil {
		r.Server, err = ask(ctx, e.binary(dir))
	}
	if err != nil {
		r.Error = "does not run: " + err.Error()
		return r
	}
	fmt.Fprintf(os.Stderr, "%s, of %s\n", r.Server, r.Package)
	if fetchOnly {
		return r
	}
	if r.outcome, err = suite(ctx, e, dir, args); err != nil {
		r.Error = err.Error()
	}
	return r
}

func table(out io.Writer, rows []row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nENGINE\tSERVER\tPACKAGES OK\tFAILED\tTESTS OK\tFAILED\tSKIPPED\tSERVERS STARTED\tTIME")
	for _, r := range rows {
		server := r.Server
		if server == "" {
			server = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t", r.Engine, server)
		if o := r.outcome; o != nil {
			fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%v", o.Packages.OK, o.Packages.Failed, o.Tests.OK, o.Tests.Failed, o.Tests.Skipped, o.Started,
				time.Duration(o.Seconds)*time.Second)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		if r.Error != "" {
			fmt.Fprintf(out, "%s: %s\n", r.Engine, r.Error)
		}
		if r.outcome != nil {
			for _, f := range r.Failures {
				fmt.Fprintf(out, "%s: FAIL %s\n", r.Engine, f)
			}
		}
	}
	return nil
}
