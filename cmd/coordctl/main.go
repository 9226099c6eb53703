// Command coordctl looks after coordinator in Redis and PostgreSQL, and shows what it does:
//
//	coordctl load --redis redis://localhost:6379   put the scripts on every master, check its settings
//	coordctl proxy --upstream URL --single-tenant  put idempotency keys in front of a service
//	coordctl pg status --postgres URL              make, look at and sweep the tables of coordpg
//	coordctl demo                                  a payment service that crashes, stalls and loses replies
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
)

type commands struct {
	Load  loadCommand  `cmd:"" help:"Put the scripts on every master, and check each server's version, settings and clock."`
	Proxy proxyCommand `cmd:"" help:"Stand in front of an HTTP service, and let each idempotency key take effect there once."`
	PG    pgCommands   `cmd:"" name:"pg" help:"Look after the tables of coordpg in PostgreSQL."`
	Demo  demoCommand  `cmd:"" help:"Play a payment service whose workers crash, stall and lose replies, and check its ledger."`
}

// Exit statuses.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// streams are where a command writes: results to out, remarks to err.
type streams struct{ out, err io.Writer }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends the program at once
	redis.SetLogger(silence{})
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdout, os.Stderr}))
}

func run(ctx context.Context, args []string, std streams) int {
	parser, err := kong.New(&commands{},
		kong.Name("coordctl"),
		kong.Description("Look after coordinator in Redis and PostgreSQL, and see it at work."),
		kong.Writers(std.out, std.err),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
		kong.Configuration(readConfig),
	)
	if err != nil {
		panic(err) // the commands' tags are wrong
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(std.err, "coordctl: %v; see coordctl --help\n", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintf(std.err, "coordctl: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// silence keeps go-redis' own log off the terminal: what matters in it comes back as an error as well.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
