package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// demoCommand plays a small payment service. Several workers take real HTTP requests; every payment is
// sent by several clients at once. Workers crash, are paused past their leases and come back, the network
// loses replies and delivers requests late; in the end the ledger is checked. It does not read
// COORDCTL_REDIS: nobody's server gets a demo because of a variable that was set for something else.
type demoCommand struct {
	Redis    string `placeholder:"URL" help:"A server or cluster to play on, under keys of its own; the default is one within this program."`
	Cluster  bool   `help:"The one address given is a node of a cluster."`
	Seed     uint64 `help:"Repeat the schedule of the run with this seed; 0 draws one."`
	Clients  int    `default:"200" help:"How many clients send payments; at least two for each."`
	Payments int    `default:"40" help:"How many payments there are."`
	NoFence  bool   `name:"no-fence" help:"Write the ledger without the fence, and see what goes wrong."`
	JSON     bool   `name:"json" help:"Print one JSON object; what happens is told on standard error."`
}

// longestTail is how long after the last payment was sent a run may take; then it is ended. A run takes a few
// seconds, and longer on a machine too busy to renew its leases in time.
const longestTail = time.Minute

// world is what everybody in a run shares.
type world struct {
	ctx        context.Context // ends with the run
	redis      *endpoint
	prefix     string // of the coordinators' Redis keys
	ledgerName string // what the ledger's Redis keys begin with
	schedule   *schedule
	network    *network
	tally      *tally
	diary      *diary
}

// Validate is called by kong.
func (d *demoCommand) Validate() error {
	if d.Payments < fewestPayments {
		return fmt.Errorf("--payments must be %d or more, one for every trouble", fewestPayments)
	}
	if d.Clients < 2*d.Payments {
		return fmt.Errorf("--clients must be %d or more, two for every payment", 2*d.Payments)
	}
	return nil
}

func (d *demoCommand) Run(ctx context.Context, std streams) error {
	told := std.out
	if d.JSON {
		told = std.err
	}
	at, err := d.endpoint()
	if err != nil {
		return err
	}
	if at == nil {
		server, err := miniredis.Run()
		if err != nil {
			return fmt.Errorf("cannot start the server within this program: %w", err)
		}
		defer server.Close()
		at = &endpoint{server: &redis.Options{Addr: server.Addr()}}
	}
	for d.Seed == 0 {
		d.Seed = mathrand.Uint64N(1_000_000)
	}
	diary := newDiary(told)
	result, err := d.play(ctx, at, diary)
	if err != nil {
		return err
	}
	if d.JSON {
		if err := result.json(std.out); err != nil {
			return err
		}
	} else {
		result.table(diary, !d.NoFence)
	}
	return result.verdict()
}

// endpoint is where to play; nil is within this program.
func (d *demoCommand) endpoint() (*endpoint, error) {
	if d.Redis == "" {
		return nil, nil
	}
	at, err := parseEndpoint(d.Redis, d.Cluster)
	if err == nil && !at.plain() {
		return nil, errors.New("the demo breaks connections in the middle of a command, which takes plain TCP; give it a redis:// URL of a test server")
	}
	return at, err
}

// play runs the demo from the first request to the check of the ledger.
func (d *demoCommand) play(ctx context.Context, at *endpoint, diary *diary) (_ *report, err error) {
	longest := arrivalTime(d.Clients) + longestTail
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("the demo did not end within %v; is this machine, or the server, very busy?", longest))
	defer cancel()
	run := "coordctl-demo-" + rand.Text()[:8]
	w := &world{
		ctx: ctx, redis: at, prefix: run, ledgerName: run + ".ledger:",
		schedule: newSchedule(d.Seed, d.Payments), tally: newTally(), diary: diary,
	}

	// The auditor looks at the ledger over a connection of its own, which nothing disturbs.
	rdb := at.client(nil)
	defer rdb.Close()
	coord, err := coordinator.New(rdb, coordinator.WithPrefix(w.prefix))
	if err != nil {
		return nil, err
	}
	defer coord.Close()
	if err := coord.Load(ctx); err != nil {
		return nil, fmt.Errorf("cannot play on this server: %w", err)
	}
	auditor := &ledger{rdb: rdb, coord: coord, name: w.ledgerName, fenced: !d.NoFence}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		auditor.remove(ctx, w.schedule.payments)
	}()

	w.network = newNetwork(w)
	defer w.network.close()
	fleet := &fleet{world: w, ledger: auditor}
	defer fleet.stop()
	defer cancel() // a worker that is paused wakes up before it is stopped
	for range workers {
		if err := fleet.add(); err != nil {
			return nil, err
		}
	}

	diary.say(calm, "%d payments, each sent by several of %d clients at once, to %d workers with leases of %v; --seed %d", d.Payments, d.Clients, workers, lease, d.Seed)
	clients := &clients{world: w, fleet: fleet}
	if err := clients.run(ctx, d.Seed, d.Clients); err != nil {
		return nil, err
	}
	diary.note(calm, "clients", "have their receipts, everyone the same for the same payment")
	if err := w.network.deliverLate(ctx, auditor); err != nil {
		return nil, err
	}
	result := w.tally.report()
	result.LedgerDuplicates, result.LedgerMissing, err = auditor.audit(ctx, w.schedule.payments)
	return &result, err
}
