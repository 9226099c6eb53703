// Command bench measures what the coordinator costs and what it does under load, row by row, each against a target and
// against what people use instead. It starts servers of its own on loopback (REDIS_SERVER chooses the binary).
//
//	go run ./bench               every row; some seven minutes
//	go run ./bench --quick       rows 1 to 6 and 9, with fewer rounds
//	go run ./bench --rows 1,4    these rows
//	go run ./bench --json FILE   writes the report as JSON as well; - is standard output
//	go run ./bench --check       exit status 1 when a row misses a target
//	go run ./bench --profile DIR  writes a CPU profile of this process for each row, for go tool pprof
//	go run ./bench draw          puts docs/speed.json into docs/speed.md and docs/img/speed.svg
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
)

type commands struct {
	Run     runCommand     `cmd:"" default:"withargs" help:"Measure, and print a table."`
	Draw    drawCommand    `cmd:"" help:"Put the report of a run into the documentation: its table and its drawing."`
	Waiters waitersCommand `cmd:"" hidden:"" help:"Be a process full of waiters; row 8 starts these itself."`
}

type runCommand struct {
	Rows   []int  `placeholder:"N,…" help:"Only these rows."`
	Quick  bool   `help:"Rows 1 to 6 and 9, unless --rows chooses, with fewer and shorter rounds."`
	Rounds int    `placeholder:"N" help:"Rounds of each comparison, instead of the usual number."`
	JSON   string `name:"json" placeholder:"FILE" help:"Write the report as JSON, - for standard output; the table goes to standard error then."`
	Check  bool   `help:"Exit with status 1 when a row misses a target."`

	Profile string `placeholder:"DIR" help:"Write a CPU profile of this process for each row there, row-5.pprof and so on, for go tool pprof -top; its contenders are told apart by their functions."`
}

// Exit statuses.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// streams are where a command writes and reads.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends the program at once
	os.Exit(execute(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

func execute(ctx context.Context, args []string, std streams) int {
	redis.SetLogger(silence{})
	parser, err := kong.New(&commands{},
		kong.Name("bench"),
		kong.Description("Measure what the coordinator costs, against targets and against what people use instead."),
		kong.Writers(std.out, std.err),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	)
	if err != nil {
		panic(err) // the commands' tags are wrong
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(std.err, "bench: %v; see bench --help\n", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintf(std.err, "bench: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// silence keeps go-redis' own log off the terminal: what matters in it comes back as an error as well.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// errMissed is the outcome of --check when the report names a missed target.
var errMissed = errors.New("a target is missed")

// Validate is called by kong.
func (r *runCommand) Validate() error {
	for _, n := range r.Rows {
		if !slices.ContainsFunc(rows, func(row row) bool { return row.number == n }) {
			return fmt.Errorf("--rows: there is no row %d; rows go from 1 to %d", n, len(rows))
		}
	}
	if r.Rounds < 0 {
		return errors.New("--rounds must be 1 or more")
	}
	return nil
}

func (r *runCommand) Run(ctx context.Context, std streams) error {
	told := std.out
	if r.JSON == "-" {
		told = std.err
	}
	report, err := measure(ctx, r.effort(), r.chosen(), newProgress(std.err), r.Profile)
	if err != nil {
		return err
	}
	if err := report.table(told); err != nil {
		return err
	}
	if err := r.write(report, std.out); err != nil {
		return err
	}
	if r.Check && report.Missed > 0 {
		return errMissed
	}
	return report.failure()
}

func (r *runCommand) effort() effort {
	e := full
	if r.Quick {
		e = quick
	}
	if r.Rounds > 0 {
		e.rounds = r.Rounds
	}
	return e
}

func (r *runCommand) chosen() []row {
	return slices.DeleteFunc(slices.Clone(rows), func(row row) bool {
		if len(r.Rows) > 0 {
			return !slices.Contains(r.Rows, row.number)
		}
		return r.Quick && !row.quick
	})
}

func (r *runCommand) write(report *report, out io.Writer) error {
	switch r.JSON {
	case "":
		return nil
	case "-":
		return report.json(out)
	}
	file, err := os.Create(r.JSON)
	if err != nil {
		return err
	}
	return errors.Join(report.json(file), file.Close())
}
