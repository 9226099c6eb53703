package coordpg

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/pgtest"
)

// cutter is a connection that is lost at the next commit: before the server has got it, or after, so that only the answer is.
type cutter struct {
	net.Conn
	plan *cuts
	lost bool
	gone bool // for the client; the server does not know yet
}

func (c *cutter) Close() error {
	if c.gone {
		time.AfterFunc(600*time.Millisecond, func() { c.Conn.Close() })
		return nil
	}
	return c.Conn.Close()
}

type cuts struct {
	mu     sync.Mutex
	before int       // commits that do not arrive
	after  int       // commits whose answers do not arrive
	flight int       // commits that the server is still at when the connection is lost
	cut    time.Time // when one in flight was lost
	late   int       // commits that are on their way for longer than their connection seems to live
	armed  atomic.Bool
}

var errCut = errors.New("connection cut")

// commits says whether a commit is in b: a message of its own, or, once the tracer has seen one begin, two statements that are
// executed at once, under names that tell nothing.
func (c *cutter) commits(b []byte) bool {
	executes := bytes.Count(b, []byte("E\x00\x00\x00\x09\x00\x00\x00\x00\x00"))
	return bytes.HasPrefix(b, []byte("Q")) && bytes.Contains(b, []byte("commit")) || executes == 2 && c.plan.armed.Swap(false)
}

func (p *cuts) recent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.cut) < 300*time.Millisecond
}

func (p *cuts) tracer() tracer {
	return func(sql string) {
		if sql == "commit" {
			p.armed.Store(true)
		}
	}
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.gone {
		return 0, errCut
	}
	if c.commits(b) {
		c.plan.mu.Lock()
		before, after := c.plan.before > 0, c.plan.before == 0 && c.plan.after > 0
		if before {
			c.plan.before--
		} else if after {
			c.plan.after--
		}
		flight := !before && !after && c.plan.flight > 0
		if flight {
			c.plan.flight--
			c.plan.cut = time.Now()
		}
		late := !before && !after && c.plan.late > 0
		if late {
			c.plan.late--
		}
		c.plan.mu.Unlock()
		if late {
			b = bytes.Clone(b)
			time.AfterFunc(300*time.Millisecond, func() { _, _ = c.Conn.Write(b) })
			c.gone = true
			return 0, errCut
		}
		if flight {
			_, err := c.Conn.Write(b)
			return 0, errors.Join(err, c.Conn.(*net.TCPConn).CloseWrite(), errCut) // the server still gets it; a reset would take it back
		}
		if before {
			c.Conn.Close()
			return 0, errCut
		}
		c.lost = after
	}
	return c.Conn.Write(b)
}

func (c *cutter) Read(b []byte) (int, error) {
	if c.gone {
		return 0, errCut
	}
	n, err := c.Conn.Read(b)
	if c.lost && err == nil { // the server has answered: it has committed
		c.Conn.Close()
		return 0, errCut
	}
	return n, err
}

// A commit whose answer is lost is neither repeated nor reported as failed; one that was lost itself is done again.
func TestLostCommits(t *testing.T) {
	for _, by := range []string{"pgx", "database/sql"} {
		for name, plan := range map[string]*cuts{"answer": {after: 1}, "commit": {before: 1}, "commits, then answer": {before: 3, after: 1}} {
			t.Run(by+", "+name, func(t *testing.T) {
				bank := newBank(t)
				pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
					config.ConnConfig.Tracer = plan.tracer()
					dial := config.ConnConfig.DialFunc
					config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := dial(ctx, network, addr)
						return &cutter{Conn: conn, plan: plan}, err
					}
				})
				server, c := newRedis(t)
				do := doers(c, pool)[by]
				key := newKey("1")
				if v, replayed, err := do(t.Context(), key, nil); v != 990 || replayed || err != nil {
					t.Fatal(v, replayed, err)
				}
				if plan.before+plan.after != 0 {
					t.Fatalf("nothing was cut: %+v", plan)
				}
				server.FlushAll()
				if v, replayed, err := do(t.Context(), key, nil); v != 990 || !replayed || err != nil {
					t.Error(v, replayed, err)
				}
				if got := balance(t, bank, "1"); got != 990 {
					t.Errorf("balance %d", got)
				}
			})
		}
	}
}

// A commit that is under way when its connection is lost is waited for: the work does not run beside it.
func TestCommitInFlight(t *testing.T) {
	for _, resource := range []string{"", "1"} {
		bank := newBank(t)
		exec(t, bank, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'`)
		exec(t, bank, `CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()`)
		plan := &cuts{flight: 1}
		pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
			config.ConnConfig.Tracer = plan.tracer()
			dial := config.ConnConfig.DialFunc
			config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if plan.recent() { // pgx would have the server cancel what it has lost
					return nil, errCut
				}
				conn, err := dial(ctx, network, addr)
				return &cutter{Conn: conn, plan: plan}, err
			}
		})
		_, c := newRedis(t)
		runs := 0
		v, replayed, err := Do(t.Context(), c, pool, newKey(resource), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			runs++
			return withdraw("1", 10)(ctx, tx, l)
		})
		if v != 990 || replayed || err != nil || runs != 1 || plan.flight != 0 {
			t.Errorf("resource %q: %d, %v, %v after %d runs", resource, v, replayed, err, runs)
		}
		if got := balance(t, bank, "1"); got != 990 {
			t.Errorf("balance %d", got)
		}
	}
}

// A commit that arrives when its client has given up the connection is waited for too: nothing else tells that it is to come.
func TestLateCommit(t *testing.T) {
	for _, resource := range []string{"", "1"} {
		for _, alone := range []bool{false, true} {
			bank := newBank(t)
			plan := &cuts{late: 1}
			pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
				config.ConnConfig.Tracer = plan.tracer()
				dial := config.ConnConfig.DialFunc
				config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := dial(ctx, network, addr)
					return &cutter{Conn: conn, plan: plan}, err
				}
			})
			_, c := newRedis(t)
			s := newStandby(t, c, bank)
			if alone {
				done, err := takeOver(t.Context(), s)
				switched(t, done, err)
			}
			key, runs := newKey(resource), int64(0)
			v, replayed, err := Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
				runs++
				_, err := withdraw("1", 10)(ctx, tx, l)
				return runs, err
			}, WithStandby(s))
			if v != 1 || replayed || err != nil || runs != 1 || plan.late != 0 {
				t.Errorf("resource %q, alone %v: %d, %v, %v after %d runs", resource, alone, v, replayed, err, runs)
			}
			if e, err := Lookup(t.Context(), bank, key); err != nil || string(e.Result.Payload) != "1" {
				t.Error(e, err)
			}
			if got := balance(t, bank, "1"); got != 990 {
				t.Errorf("balance %d", got)
			}
		}
	}
}

// What the server answers to a commit is certain, and so is what could not be sent: neither is asked of the ledger or run again.
func TestCommitsThatFailForCertain(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	for _, code := range []string{"P0001", "57014"} {
		exec(t, pool, `CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '`+code+`'; END $$`)
		exec(t, pool, `DROP TRIGGER IF EXISTS refuse ON accounts`)
		exec(t, pool, `CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`)
		for by, do := range doers(c, pool) {
			runs := 0
			_, _, err := do(t.Context(), newKey(""), func(*Lease) error { runs++; return nil })
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != code || runs != 1 || errors.Is(err, coordinator.ErrUnknown) {
				t.Errorf("%s by %s: %d runs, %v", code, by, runs, err)
			}
		}
	}
	conn, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for name, db := range map[string]Beginner{"pool": pool, "wrapped": onlyBegins{pool}, "connection": conn} {
		runs := 0
		_, _, err := Do(t.Context(), c, db, newKey(""), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
			runs++
			rows, err := tx.Query(ctx, `SELECT generate_series(1, 100000)`)
			rows.Next()
			return 0, err
		})
		if !errors.Is(err, coordinator.ErrInvalid) || runs != 1 {
			t.Errorf("rows left open, %s: %d runs, %v", name, runs, err)
		}
	}
	runs := 0
	_, _, err = DoSQL(t.Context(), c, stdlib.OpenDBFromPool(pool), newKey(""), func(ctx context.Context, tx *sql.Tx, l *Lease) (int, error) {
		runs++
		rows, err := tx.QueryContext(ctx, `SELECT generate_series(1, 100000)`)
		rows.Next()
		return 0, err
	})
	if err == nil || runs != 1 { // its driver does not say why
		t.Errorf("rows left open, database/sql: %d runs, %v", runs, err)
	}
}

// A call does not outlive its context for long, whatever its commit waits for.
func TestCommitEndsSoonAfterItsContext(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	exec(t, pool, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'`)
	exec(t, pool, `CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()`)
	for by, do := range doers(c, pool) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		begun := time.Now()
		_, _, err := do(ctx, newKey(""), nil)
		if took := time.Since(begun); err == nil || took > 300*time.Millisecond+3*tidyTime {
			t.Errorf("%s: %v after %v", by, err, took)
		}
		cancel()
	}
}

// A commit that no synchronous standby has confirmed does not count, not even when its wait for them is cut short and everybody can
// see it.
func TestStalledStandby(t *testing.T) {
	server := pgtest.Run(t)
	pool := newPool(t, server.URL())
	if _, err := Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	standbys := func(names string) {
		t.Helper()
		exec(t, pool, `ALTER SYSTEM SET synchronous_standby_names = '`+names+`'`)
		exec(t, pool, `SELECT pg_reload_conf()`)
		eventually(t, func() error { // a moment after the reload a commit waits, or does not
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := pool.Exec(ctx, `SELECT pg_logical_emit_message(true, 'test', '')`); (err != nil) != (names != "") {
				return fmt.Errorf("not yet: %w", err)
			}
			return nil
		})
	}
	_, c := newRedis(t)
	key, runs := newKey("1"), 0
	do := func(patience time.Duration) (int, bool, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return Do(ctx, c, pool, key, func(context.Context, pgx.Tx, *Lease) (int, error) {
			runs++
			return 7, nil
		})
	}
	standbys("nobody")
	for range 2 {
		if v, _, err := do(500 * time.Millisecond); !errors.Is(err, coordinator.ErrUnknown) {
			t.Errorf("%d, %v", v, err)
		}
	}
	if _, err := c.Result(t.Context(), key, nil); err == nil {
		t.Error("Redis was told that it is done")
	}
	standbys("")
	if v, replayed, err := do(10 * time.Second); v != 7 || !replayed || err != nil || runs != 1 {
		t.Errorf("%d, %v, %v, %d runs", v, replayed, err, runs)
	}
}

// Constraints that are checked at the commit refuse it for certain.
func TestDeferredConstraint(t *testing.T) {
	pool := newBank(t)
	exec(t, pool, `CREATE TABLE transfers (account text REFERENCES accounts DEFERRABLE INITIALLY DEFERRED)`)
	_, c := newRedis(t)
	key, runs := newKey("1"), 0
	_, _, err := Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, _ *Lease) (int, error) {
		runs++
		_, err := tx.Exec(ctx, `INSERT INTO transfers VALUES ('nobody')`)
		return 0, err
	})
	if err == nil || runs != 1 || errors.Is(err, coordinator.ErrUnknown) {
		t.Errorf("%d runs, %v", runs, err)
	}
	if _, err := Lookup(t.Context(), pool, key); !errors.Is(err, coordinator.ErrNotFound) {
		t.Error(err)
	}
}

// A table of the user's that is called as the ledger is nothing of ours.
func TestAnotherLedger(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	exec(t, pool, `CREATE TABLE ledger (id int, CONSTRAINT ledger_pkey PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED)`)
	exec(t, pool, `INSERT INTO ledger VALUES (1)`)
	_, _, err := Do(t.Context(), c, pool, newKey(""), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
		_, err := tx.Exec(ctx, `INSERT INTO public.ledger VALUES (1)`)
		return 0, err
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "23505" || errors.Is(err, coordinator.ErrInvalid) {
		t.Error(err)
	}
}

// impatient gives up soon.
var impatient = doOption(func(o *doing) error { o.doubting = time.Second; return nil })

// Where the ledger cannot be asked the error is ErrUnknown (P7), and the next call has the answer.
func TestUnknownWhenTheLedgerCannotBeAsked(t *testing.T) {
	bank := newBank(t)
	_, c := newRedis(t)
	plan := &cuts{after: 1}
	conn, err := pgx.ConnectConfig(t.Context(), func() *pgx.ConnConfig {
		config := bank.Config().ConnConfig.Copy()
		config.Tracer = plan.tracer()
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &cutter{Conn: conn, plan: plan}, err
		}
		return config
	}())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	key := newKey("1")
	if _, _, err := Do(t.Context(), c, conn, key, withdraw("1", 10), impatient); !errors.Is(err, coordinator.ErrUnknown) {
		t.Fatal(err)
	}
	if v, replayed, err := Do(t.Context(), c, bank, key, withdraw("1", 10)); v != 990 || !replayed || err != nil {
		t.Error(v, replayed, err)
	}
}
