package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordpg"
	"github.com/onceward/coordinator/internal/pgtest"
)

const samePostgres = `A transaction that books a transfer by double entry (a payment, two entries, two balances: five statements) on a PostgreSQL of our own with its default settings,
where a commit waits for the disk. The fence is the same transaction by coordpg.BeginFunc, which sends the admission with the BEGIN. The ledger is coordpg.Do around it, against coordinator.Do around it, which knows nothing of the database and books twice after a crash.`

// postgres is row 13.
func (l *lab) postgres(ctx context.Context) (figures []figure, err error) {
	server, err := pgtest.Start(ctx, "fsync=on")
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	const connections = 16
	var statements atomic.Int64
	config, err := pgxpool.ParseConfig(server.URL())
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.ConnConfig.Tracer = connections, counter{&statements}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if _, err := coordpg.Migrate(ctx, pool); err != nil {
		return nil, err
	}
	const accounts = 1000
	_, err = pool.Exec(ctx, fmt.Sprintf(`
		CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 70);
		CREATE TABLE payments (id text PRIMARY KEY, amount bigint NOT NULL);
		CREATE TABLE entries (payment text NOT NULL, account bigint NOT NULL, amount bigint NOT NULL);
		INSERT INTO accounts SELECT i, 0 FROM generate_series(0, %d) AS i`, accounts-1))
	if err != nil {
		return nil, err
	}
	var token atomic.Int64
	for _, callers := range []int{connections, 1} {
		free := make(chan int64, accounts/2) // an account is one caller's at a time, so that its tokens rise
		for i := range int64(accounts / 2) {
			free <- i
		}
		book := func(ctx context.Context, tx pgx.Tx, id string, account int64) error {
			if _, err := tx.Exec(ctx, `INSERT INTO payments VALUES ($1, 10)`, id); err != nil {
				return err
			}
			for i, amount := range []int64{-10, 10} {
				of := (account + int64(i)*accounts/2) % accounts // its own half, and one that only it pays to
				if _, err := tx.Exec(ctx, `INSERT INTO entries VALUES ($1, $2, $3)`, id, of, amount); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `UPDATE accounts SET balance = balance + $1 WHERE id = $2`, amount, of); err != nil {
					return err
				}
			}
			return nil
		}
		with := func(f func(account int64) error) error {
			account := <-free
			defer func() { free <- account }()
			return f(account)
		}
		plain := func(ctx context.Context) error {
			return with(func(account int64) error {
				return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return book(ctx, tx, newKey().ID, account) })
			})
		}
		owner, err := coordinator.ParseGrant("1.00000000000000000000000000000001")
		if err != nil {
			return nil, err
		}
		fence := func(ctx context.Context) error {
			return with(func(account int64) error {
				g := coordinator.Grant{Token: coordinator.Token(token.Add(1)), Owner: owner.Owner}
				return coordpg.BeginFunc(ctx, pool, fmt.Sprint("account/", account), g, func(tx pgx.Tx) error {
					return book(ctx, tx, newKey().ID, account)
				})
			})
		}
		redisOnly := func(ctx context.Context) error {
			return with(func(account int64) error {
				key := newKey()
				_, _, err := coordinator.Do(ctx, l.coord, key, func(ctx context.Context, lease *coordinator.Lease) (int64, error) {
					return account, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return book(ctx, tx, key.ID, account) })
				})
				return err
			})
		}
		ledger := func(ctx context.Context) error {
			return with(func(account int64) error {
				key := newKey()
				_, _, err := coordpg.Do(ctx, l.coord, pool, key, func(ctx context.Context, tx pgx.Tx, _ *coordpg.Lease) (int64, error) {
					return account, book(ctx, tx, key.ID, account)
				})
				return err
			})
		}
		contenders := []contender{{"transaction", plain}, {"coordpg.BeginFunc", fence}, {"coordinator.Do around it", redisOnly}, {"coordpg.Do around it", ledger}}
		paces, err := l.race(ctx, callers, contenders, l.clear)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("pg_%d", callers)
		figures = append(figures,
			figureOf(name+"_fence", fmt.Sprintf("throughput behind a fence, %d callers, of the transaction's", callers), "×", ratios(paces[1], paces[0], rateOf)).atLeast(0.8),
			figureOf(name+"_ledger", fmt.Sprintf("throughput with the ledger, %d callers, of that without", callers), "×", ratios(paces[3], paces[2], rateOf)).atLeast(0.8))
		figures = append(figures, details(name, contenders, paces)...)
		if callers > 1 {
			continue
		}
		for i, more := range []float64{1, 2} {
			var counts []float64
			for range l.rounds {
				var n [2]int64
				for j := range n {
					before := statements.Load()
					if err := contenders[2*i+j].op(ctx); err != nil {
						return nil, err
					}
					n[j] = statements.Load() - before
				}
				counts = append(counts, float64(n[1]-n[0]))
			}
			what := []string{"fence", "ledger"}[i]
			figures = append(figures, figureOf("pg_statements_"+what, "statements that the "+what+" adds", "", counts).atMost(more))
		}
	}
	return figures, nil
}

// counter counts statements.
type counter struct{ n *atomic.Int64 }

func (c counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	c.n.Add(int64(data.Batch.Len()))
	return ctx
}
func (counter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
