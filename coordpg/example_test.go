package coordpg_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordpg"
)

// bank is what the examples work on: a coordinator and a database with accounts of 100.
func bank(schema string) (*coordinator.Coordinator, *pgxpool.Pool, *miniredis.Miniredis, func()) {
	ctx := context.Background()
	server, err := miniredis.Run() // a program has a Redis of its own
	if err != nil {
		log.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	c, err := coordinator.New(rdb, coordinator.WithTimeout(time.Second))
	if err != nil {
		log.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["search_path"] = schema // the examples do not meet
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := coordpg.Migrate(ctx, pool); err != nil {
		log.Fatal(err)
	}
	tables := fmt.Sprintf(`CREATE SCHEMA %[1]s; CREATE TABLE %[1]s.accounts (id text PRIMARY KEY, cents bigint NOT NULL); INSERT INTO %[1]s.accounts VALUES ('42', 100)`, schema)
	if _, err := pool.Exec(ctx, tables); err != nil {
		log.Fatal(err)
	}
	return c, pool, server, func() {
		pool.Close()
		_ = c.Close()
		_ = rdb.Close()
		server.Close()
	}
}

func cents(ctx context.Context, pool *pgxpool.Pool) (n int) {
	if err := pool.QueryRow(ctx, `SELECT cents FROM accounts WHERE id = '42'`).Scan(&n); err != nil {
		log.Fatal(err)
	}
	return n
}

// A payment is made once, also when Redis forgets that it was.
func ExampleDo() {
	ctx := context.Background()
	c, pool, server, end := bank("example_do")
	defer end()

	pay := func() {
		key := coordinator.Key{Scope: "payments", ID: "do-1"}
		receipt, replayed, err := coordpg.Do(ctx, c, pool, key, func(ctx context.Context, tx pgx.Tx, lease *coordpg.Lease) (string, error) {
			_, err := tx.Exec(ctx, `UPDATE accounts SET cents = cents - 10 WHERE id = '42'`)
			return "receipt of " + lease.Key().ID, err
		})
		fmt.Println(receipt, replayed, err, cents(ctx, pool))
	}
	pay()
	pay()
	server.FlushAll()
	pay()
	// Output:
	// receipt of do-1 false <nil> 90
	// receipt of do-1 true <nil> 90
	// receipt of do-1 true <nil> 90
}

// A worker that was replaced while it was paused cannot write any more.
func ExampleBeginFunc() {
	ctx := context.Background()
	c, pool, _, end := bank("example_begin_func")
	defer end()

	key := coordinator.Key{ID: "report", Resource: "account/42"}
	withdraw := func(g coordinator.Grant) error {
		return coordpg.BeginFunc(ctx, pool, key.Resource, g, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE accounts SET cents = cents - 10 WHERE id = '42'`)
			return err
		})
	}
	paused, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Expire(ctx, key); err != nil { // as if its lease had lapsed
		log.Fatal(err)
	}
	successor, err := c.Claim(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("successor:", withdraw(successor.Grant()))
	err = withdraw(paused.Grant())
	fmt.Println("paused one refused:", errors.Is(err, coordinator.ErrStaleToken), cents(ctx, pool))
	// Output:
	// successor: <nil>
	// paused one refused: true 90
}

// In a transaction of one's own, for more than one resource: in a fixed order, so that two of them do not deadlock.
func ExampleAdmit() {
	ctx := context.Background()
	c, pool, _, end := bank("example_admit")
	defer end()
	lease, err := c.Claim(ctx, coordinator.Key{ID: "transfer", Resource: "ledger"})
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(ctx)
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, account := range []string{"account/17", "account/42"} {
			if err := coordpg.Admit(ctx, tx, account, lease.Grant()); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE accounts SET cents = cents - 10 WHERE id = '42'`)
		return err
	})
	fmt.Println(err, cents(ctx, pool))
	// Output:
	// <nil> 90
}

// Rows that are their own fences.
func ExampleFencedUpdate() {
	ctx := context.Background()
	c, pool, _, end := bank("example_fenced_update")
	defer end()
	if _, err := pool.Exec(ctx, coordpg.FenceColumns(pgx.Identifier{"accounts"})); err != nil {
		log.Fatal(err)
	}
	lease, err := c.Claim(ctx, coordinator.Key{ID: "interest", Resource: "account/42"})
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(ctx)
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		rows, err := coordpg.FencedUpdate(ctx, tx, lease.Grant(), coordpg.Update{
			Table: pgx.Identifier{"accounts"}, Set: `cents = cents + $1`, Where: `id = $2`, Args: []any{5, "42"},
		})
		fmt.Println(rows, "row")
		return err
	})
	fmt.Println(err, cents(ctx, pool))
	// Output:
	// 1 row
	// <nil> 105
}

// A table that refuses whoever was not admitted.
func ExampleTrigger() {
	ctx := context.Background()
	_, pool, _, end := bank("example_trigger")
	defer end()
	guard, err := coordpg.Trigger(pgx.Identifier{"accounts"}, "account/", "id")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pool.Exec(ctx, guard); err != nil {
		log.Fatal(err)
	}
	_, err = pool.Exec(ctx, `UPDATE accounts SET cents = 0`)
	fmt.Println(err != nil, cents(ctx, pool))
	// Output:
	// true 100
}

// An outcome that is written in a transaction of one's own, under a lease that one has for other reasons.
func ExampleComplete() {
	ctx := context.Background()
	c, pool, server, end := bank("example_complete")
	defer end()

	key := coordinator.Key{Scope: "orders", ID: "complete-1"}
	for range 2 {
		lease, err := c.Claim(ctx, key)
		if err != nil {
			log.Fatal(err)
		}
		result, err := coordpg.Recover(ctx, pool, lease)
		if errors.Is(err, coordinator.ErrNotFound) { // nobody has done it
			err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `UPDATE accounts SET cents = cents - 10 WHERE id = '42'`); err != nil {
					return err
				}
				return coordpg.Complete(ctx, tx, lease, []byte("shipped"))
			})
			fmt.Println("worked:", err)
			server.FlushAll() // a crash, or Redis loses it, before Redis is told
			continue
		}
		fmt.Println("from the ledger:", string(result.Payload), err, cents(ctx, pool))
	}
	// Output:
	// worked: <nil>
	// from the ledger: shipped <nil> 90
}

// Events that are published if, and only if, their operation took place.
func ExampleRelay() {
	ctx, cancel := context.WithCancel(context.Background())
	c, pool, _, end := bank("example_relay")
	defer end()

	_, _, err := coordpg.Do(ctx, c, pool, coordinator.Key{Scope: "orders", ID: "relay-1"}, func(ctx context.Context, tx pgx.Tx, lease *coordpg.Lease) (int, error) {
		return 0, lease.Emit(coordpg.Event{Topic: "orders", Payload: []byte(`{"placed":1}`)})
	})
	if err != nil {
		log.Fatal(err)
	}
	relay, err := coordpg.NewRelay(c, pool, func(_ context.Context, events []coordpg.Event) error {
		for _, e := range events { // hand them to a broker here
			fmt.Println(e.Topic, string(e.Payload), e.Key.ID)
		}
		time.AfterFunc(50*time.Millisecond, cancel) // the example is over
		return nil
	}, coordpg.OnFailure(func(err error) { log.Print(err) }))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(relay.Run(ctx))
	// Output:
	// orders {"placed":1} relay-1
	// context canceled
}

// Operations go on while Redis is away.
func ExampleStandby() {
	ctx, cancel := context.WithCancel(context.Background())
	c, pool, server, end := bank("example_standby")
	defer end()
	standby, err := coordpg.NewStandby(c, pool, coordpg.AwayFor(100*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	stopped := make(chan error)
	go func() { stopped <- standby.Run(ctx) }()

	server.Close()
	_, _, err = coordpg.Do(ctx, c, pool, coordinator.Key{ID: "standby-1"}, func(ctx context.Context, tx pgx.Tx, lease *coordpg.Lease) (int, error) {
		fmt.Println("granted by Redis:", lease.Redis() != nil)
		return 0, nil
	}, coordpg.WithStandby(standby))
	fmt.Println(err, standby.Alone())

	if _, err := coordpg.HandBack(ctx, pool, "the example is over"); err != nil {
		log.Fatal(err)
	}
	cancel()
	<-stopped
	// Output:
	// granted by Redis: false
	// <nil> true
}
