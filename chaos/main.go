// Command chaos breaks a Redis Cluster in every way it knows, and a PostgreSQL, while processes of callers fight for keys
// and write to both, and checks the promises against what they saw:
//
//	go run ./chaos                       every group of faults, about a minute under faults
//	go run ./chaos --group failover      one group
//	go run ./chaos --kills 10            kill -9 of a master ten times: when do claims succeed again?
//	CHAOS=30m go run ./chaos             longer
//	CHAOS_SEED=42 go run ./chaos         the schedule of an earlier run
//	go run ./chaos judge DIR             a verdict on histories that a run has kept
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/caller"
	"github.com/onceward/coordinator/chaos/run"
)

type commands struct {
	Run    runCommand    `cmd:"" default:"withargs" help:"Run groups of faults and judge what was seen."`
	Judge  judgeCommand  `cmd:"" help:"Judge the histories again that a run has kept."`
	Caller callerCommand `cmd:"" hidden:"" help:"Be a process of callers; the run starts these itself."`
}

type runCommand struct {
	Duration  time.Duration `env:"CHAOS" default:"60s" help:"How long there are faults, all groups together. A group takes longer when that is too short for each of its faults to happen."`
	Seed      int64         `env:"CHAOS_SEED" help:"Repeat the schedule of the run with this seed; 0 draws one."`
	Group     []string      `placeholder:"NAME" help:"Only these groups: ${groups}."`
	Replicas  int           `placeholder:"N" help:"All groups use WithReplicas(N, …); 1 is what the cluster has. The group durable does so by itself."`
	Cache     time.Duration `env:"CHAOS_CACHE" placeholder:"AGE" help:"All callers use WithReplayCache with results up to this old, which the judge allows for."`
	Kills     int           `placeholder:"N" help:"Instead of groups, kill a master N times; the median time from the promotion to the next claim must not exceed a second."`
	Processes int           `default:"4" help:"How many processes of callers there are."`
	Callers   int           `default:"4" help:"How many callers each process has."`
	JSON      string        `name:"json" placeholder:"FILE" help:"Write the report as JSON, - for standard output; what is for people goes to standard error then."`
	Keep      string        `placeholder:"DIR" help:"Keep the histories there, also those of good runs. Failed runs always keep theirs."`
}

type judgeCommand struct {
	Dir string `arg:"" help:"Where the histories are."`
}

type callerCommand struct{}

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
	redis.SetLogger(caller.Silence{})
	os.Exit(execute(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

func execute(ctx context.Context, args []string, std streams) int {
	parser, err := kong.New(&commands{},
		kong.Name("chaos"),
		kong.Description("Break a Redis Cluster while callers fight for keys on it, and check what coordinator promises."),
		kong.Writers(std.out, std.err),
		kong.Vars{"groups": run.Names()},
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	)
	if err != nil {
		panic(err) // the commands' tags are wrong
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(std.err, "chaos: %v; see chaos --help\n", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintf(std.err, "chaos: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// Validate is called by kong.
func (r *runCommand) Validate() error {
	if r.Processes < 2 || r.Callers < 1 {
		return fmt.Errorf("--processes must be 2 or more and --callers 1 or more: callers of one process cannot take over from each other's death")
	}
	if r.Duration < 0 {
		return fmt.Errorf("--duration must not be negative")
	}
	return run.Known(r.Group)
}

func (r *runCommand) Run(ctx context.Context, std streams) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for r.Seed == 0 {
		r.Seed = rand.Int64N(1_000_000)
	}
	told := std.out
	if r.JSON == "-" {
		told = std.err
	}
	report, err := run.Run(ctx, run.Options{
		Seed: r.Seed, Duration: r.Duration, Groups: r.Group, Replicas: r.Replicas, Cache: r.Cache, Kills: r.Kills,
		Processes: r.Processes, Callers: r.Callers, Command: []string{self, "caller"}, Keep: r.Keep, Told: told,
	})
	if err != nil {
		return err
	}
	report.Table(told)
	if err := r.writeJSON(report, std.out); err != nil {
		return err
	}
	return report.Verdict()
}

func (r *runCommand) writeJSON(report *run.Report, out io.Writer) error {
	if r.JSON == "" {
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if r.JSON == "-" {
		_, err := out.Write(text)
		return err
	}
	return os.WriteFile(r.JSON, text, 0o644)
}

func (j judgeCommand) Run(std streams) error {
	report, err := run.Judge(j.Dir)
	if err != nil {
		return err
	}
	report.Table(std.out)
	return report.Verdict()
}

func (callerCommand) Run(std streams) error {
	// Ctrl-C goes to all processes of the terminal: the callers end with their input, when the run has ended its own work.
	signal.Ignore(os.Interrupt)
	return caller.Main(std.in, std.out)
}
