// Command mutants breaks the product on purpose, one piece at a time, and runs the tests that should notice. It fails
// unless every mutant is caught: a promise whose breach no test sees is one that nobody keeps.
//
//	go run ./internal/mutants            all of them
//	go run ./internal/mutants -run fence those whose name matches
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(program(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// program is 0 when all were caught, 1 when not, 2 when it could not begin.
func program(ctx context.Context, args []string, out, progress io.Writer) int {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	flags.SetOutput(progress)
	only := flags.String("run", "", "only mutants whose name matches this regular expression")
	list := flags.Bool("list", false, "list the mutants and run nothing")
	asJSON := flags.Bool("json", false, "print JSON instead of a table")
	limit := flags.Duration("timeout", time.Minute, "of one mutant's tests; to exceed it does not count as being caught")
	atOnce := flags.Int("j", 2, "how many run at a time")
	if flags.Parse(args) != nil {
		return 2
	}
	chosen, err := choose(all(), *only)
	if err != nil {
		fmt.Fprintln(progress, err)
		return 2
	}
	if *list {
		printList(out, chosen)
		return 0
	}
	dir, err := moduleDir(ctx)
	if err != nil {
		fmt.Fprintln(progress, err)
		return 2
	}
	r := &runner{dir: dir, limit: *limit, atOnce: max(*atOnce, 1), progress: progress}
	results, err := r.run(ctx, chosen)
	if err != nil {
		fmt.Fprintln(progress, err)
		return 2
	}
	return report(out, progress, results, *asJSON)
}

// report prints what became of the mutants; it is 1 unless all were caught.
func report(out, progress io.Writer, results []result, asJSON bool) int {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(results); err != nil {
			fmt.Fprintln(progress, err)
			return 1
		}
	} else {
		printTable(out, results)
	}
	missed := 0
	for _, r := range results {
		if r.Outcome != caught {
			missed++
		}
	}
	if missed > 0 {
		fmt.Fprintf(progress, "%d of %d mutants were not caught\n", missed, len(results))
		return 1
	}
	fmt.Fprintf(progress, "all %d mutants were caught\n", len(results))
	return 0
}

func choose(from []mutant, pattern string) ([]mutant, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var chosen []mutant
	for _, m := range from {
		if match.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no mutant's name matches %q", pattern)
	}
	return chosen, nil
}

// moduleDir is where the module is that we are run in.
func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || !filepath.IsAbs(mod) {
		return "", fmt.Errorf("run it inside of the module: go env GOMOD says %q, %v", mod, err)
	}
	return filepath.Dir(mod), nil
}

func printList(out io.Writer, mutants []mutant) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MUTANT\tPROMISE\tWHAT IS BROKEN\tFILES\tTESTS")
	for _, m := range mutants {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s %s\n", m.name, m.promise, m.story, strings.Join(m.files(), ", "), m.pkg, m.tests)
	}
	_ = w.Flush()
}

func printTable(out io.Writer, results []result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MUTANT\tPROMISE\tWHAT IS BROKEN\tCAUGHT BY\tTIME")
	for _, r := range results {
		by := r.By
		if r.Outcome != caught {
			by = strings.ToUpper(string(r.Outcome))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f s\n", r.Name, r.Promise, r.Story, by, r.Seconds)
	}
	_ = w.Flush()
}
