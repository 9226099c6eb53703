// Command bench measures what a claim and a completion cost: round trips, CPU time and memory of Redis,
// each against a target. It starts a redis-server of its own on loopback (REDIS_SERVER chooses the
// binary) and asks that server for the costs, so how fast this machine is hardly matters.
//
//	go run ./bench            the table
//	go run ./bench --json     the same as one JSON object
//	go run ./bench --check    exit status 1 when a target is missed
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errMissed):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

// errMissed is the outcome of --check when the report names a missed target.
var errMissed = errors.New("a target is missed")

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 7, "`rounds` to measure; the table shows their median, least and most")
	keys := flags.Int("keys", 20000, "`records` of one round, on either side of a comparison")
	pipeline := flags.Int("pipeline", 100, "`commands` that go out together, on either side of a comparison")
	asJSON := flags.Bool("json", false, "print one JSON object instead of the table")
	check := flags.Bool("check", false, "exit with status 1 when a target is missed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *rounds < 1 || *keys < 1 || *pipeline < 1 {
		return errors.New("takes flags only, --rounds, --keys and --pipeline from 1")
	}
	r, err := measure(ctx, *rounds, *keys, *pipeline)
	if err != nil {
		return err
	}
	print := r.table
	if *asJSON {
		print = r.json
	}
	if err := print(out); err != nil {
		return err
	}
	if *check && r.Missed > 0 {
		return errMissed
	}
	return nil
}

// measure starts a server and takes all figures on it.
func measure(ctx context.Context, rounds, keys, pipeline int) (*report, error) {
	l, err := newLab(ctx, pipeline)
	if err != nil {
		return nil, err
	}
	defer l.close()
	r := &report{Rounds: rounds, Keys: keys, Pipeline: pipeline, Payload: payloadBytes}
	if r.Server, err = l.version(ctx); err != nil {
		return nil, err
	}
	trips, err := l.trips(ctx, rounds)
	if err != nil {
		return nil, fmt.Errorf("round trips: %w", err)
	}
	cost, err := l.cpu(ctx, rounds, keys)
	if err != nil {
		return nil, fmt.Errorf("CPU: %w", err)
	}
	memory, err := l.memory(ctx, min(rounds, 2), keys)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	r.add(trips...)
	r.add(cost...)
	r.add(memory...)
	return r, nil
}
