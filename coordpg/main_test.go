package coordpg

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/pgtest"
)

// postgres is one server for all tests, each of which has a database of its own; nil where there is none.
var postgres *pgtest.Server

func TestMain(m *testing.M) {
	if crashing() {
		os.Exit(crash())
	}
	redis.SetLogger(quiet{})
	if _, err := pgtest.Find(); err == nil {
		if postgres, err = pgtest.Start(context.Background(), "deadlock_timeout=50ms"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = os.Setenv("DATABASE_URL", postgres.URL()) // for the examples
	} else {
		flag.Parse()
		_ = flag.Set("test.skip", "^Example") // where the tests are skipped
	}
	code := m.Run()
	if postgres != nil {
		postgres.Stop()
	}
	os.Exit(code)
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

var databases atomic.Int64

// newDatabase makes a database without our schema, and returns its connection string.
func newDatabase(t testing.TB) string {
	t.Helper()
	pgtest.Need(t)
	name := fmt.Sprintf("test%d", databases.Add(1))
	conn, err := pgx.Connect(t.Context(), postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(postgres.URL(), "/postgres?", "/"+name+"?", 1)
}

// newPool makes a pool; the functions change its configuration.
func newPool(t testing.TB, url string, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 20
	for _, f := range change {
		f(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// newBank is a migrated database with accounts of 1000 each.
func newBank(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := newPool(t, newDatabase(t))
	if _, err := Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `CREATE TABLE accounts (id text PRIMARY KEY, balance bigint NOT NULL)`)
	exec(t, pool, `INSERT INTO accounts SELECT i::text, 1000 FROM generate_series(1, 50) AS i`)
	return pool
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func number(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int64) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func balance(t testing.TB, pool *pgxpool.Pool, id string) int64 {
	t.Helper()
	return number(t, pool, `SELECT balance FROM accounts WHERE id = $1`, id)
}

// newRedis is a miniredis and a coordinator on it.
func newRedis(t testing.TB, opts ...coordinator.Option) (*miniredis.Miniredis, *coordinator.Coordinator) {
	t.Helper()
	server := miniredis.RunT(t)
	return server, newCoordinator(t, server.Addr(), opts...)
}

func newCoordinator(t testing.TB, addr string, opts ...coordinator.Option) *coordinator.Coordinator {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true, DialerRetries: 1})
	c, err := coordinator.New(client, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		client.Close()
	})
	return c
}

var keys atomic.Int64

// newKey is a key of the account.
func newKey(account string) coordinator.Key {
	key := coordinator.Key{Scope: "transfers", ID: fmt.Sprintf("t-%d", keys.Add(1))}
	if account != "" {
		key.Resource = "account/" + account
	}
	return key
}

// grant makes one that no Redis has minted.
func grant(token int64, owner byte) coordinator.Grant {
	return coordinator.Grant{Token: coordinator.Token(token), Owner: strings.Repeat(fmt.Sprintf("%02x", owner), 16)}
}

// withdraw takes amount from the account: what must take place once.
func withdraw(account string, amount int64) func(context.Context, pgx.Tx, *Lease) (int64, error) {
	return func(ctx context.Context, tx pgx.Tx, _ *Lease) (left int64, err error) {
		return left, tx.QueryRow(ctx, `UPDATE accounts SET balance = balance - $1 WHERE id = $2 RETURNING balance`, amount, account).Scan(&left)
	}
}

// eventually polls until the condition is nil.
func eventually(t testing.TB, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

// blocked waits until n sessions of the pool's database wait for a lock.
func blocked(t testing.TB, pool *pgxpool.Pool, n int64) {
	t.Helper()
	eventually(t, func() error {
		got := number(t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
		if got != n {
			return fmt.Errorf("%d sessions wait for a lock, not %d", got, n)
		}
		return nil
	})
}

// shortLease is for leases that are to lapse.
const shortLease = 200 * time.Millisecond
