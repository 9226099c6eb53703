// Command scaling holds the model behind docs/scaling.md: it works out, from the measured costs of single operations
// in estimate/costs.json and from simulations with a fixed seed, the tables that the page shows.
//
//	go run ./internal/scaling             print the tables
//	go run ./internal/scaling -write      put them into the page
//	go run ./internal/scaling -check      exit status 1 when the page has others
//	go run ./internal/scaling -measure    measure the costs on servers of this machine, for half a minute, and print costs.json
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/onceward/coordinator/internal/scaling/estimate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scaling:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("scaling", flag.ContinueOnError)
	page := flags.String("page", filepath.Join("docs", "scaling.md"), "`file` whose marked parts are the tables")
	write := flags.Bool("write", false, "put the tables into the page")
	check := flags.Bool("check", false, "exit with status 1 when the page has other tables")
	costs := flags.Bool("measure", false, "measure the costs and print them as costs.json")
	rounds := flags.Int("rounds", 5, "`rounds` to measure; their medians are taken")
	keys := flags.Int("keys", 10000, "`keys` of a round")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := estimate.Measured()
	if err != nil {
		return err
	}
	switch {
	case *costs:
		if c, err = measure(ctx, c, *rounds, *keys); err != nil {
			return err
		}
		return printed(out, c)
	case *write:
		return rewrite(*page, tables(&c))
	case *check:
		return compare(*page, tables(&c))
	}
	for _, t := range tables(&c) {
		if _, err := fmt.Fprintf(out, "%s\n\n%s\n", t.name, t.text); err != nil {
			return err
		}
	}
	return nil
}

func printed(out io.Writer, c estimate.Costs) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(c)
}
