package coordpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/onceward/coordinator"
)

func inTx(ctx context.Context, pool *pgxpool.Pool, level pgx.TxIsoLevel, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: level}, f)
}

var levels = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

func TestAdmit(t *testing.T) {
	pool := newBank(t)
	for _, level := range levels {
		t.Run(string(level), func(t *testing.T) {
			resource := "account/" + string(level)
			for _, step := range []struct {
				grant   coordinator.Grant
				refused coordinator.Token // what the error says is there; 0: not refused
			}{
				{grant(100, 1), 0}, {grant(100, 1), 0}, {grant(100, 2), 100}, {grant(99, 1), 100}, {grant(101, 2), 0}, {grant(100, 1), 101}, {grant(1<<53-1, 1), 0}, {grant(101, 2), 1<<53 - 1},
			} {
				err := inTx(t.Context(), pool, level, func(tx pgx.Tx) error { return Admit(t.Context(), tx, resource, step.grant) })
				stale, is := errors.AsType[*coordinator.StaleTokenError](err)
				if (err != nil) != (step.refused != 0) || is && stale.Current != step.refused || is != errors.Is(err, coordinator.ErrStaleToken) || (err != nil) != is {
					t.Errorf("token %d: %v", step.grant.Token, err)
				}
				if is && (stale.Token != step.grant.Token || stale.Key.Resource != resource) {
					t.Errorf("the error speaks of %d and %q", stale.Token, stale.Key.Resource)
				}
			}
			if mark, err := HighWater(t.Context(), pool, resource); err != nil || mark != 1<<53-1 {
				t.Errorf("high-water mark %d, %v", mark, err)
			}
		})
	}
	if mark, err := HighWater(t.Context(), pool, "unheard of"); err != nil || mark != 0 {
		t.Errorf("high-water mark of nothing: %d, %v", mark, err)
	}
}

// A refusal that is ignored does not let the transaction commit.
func TestRefusedTransactionsCannotCommit(t *testing.T) {
	pool := newBank(t)
	exec(t, pool, FenceColumns(pgx.Identifier{"accounts"}))
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	late, current := grant(7, 1), grant(8, 2)
	if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
		_, err := FencedUpdate(t.Context(), tx, current, Update{Table: pgx.Identifier{"accounts"}, Set: "balance = 1", Where: "id = '1'"})
		return errors.Join(err, Admit(t.Context(), tx, "account/1", current))
	}); err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func(Querier) error{
		"Admit": func(q Querier) error { return Admit(t.Context(), q, "account/1", late) },
		"FencedUpdate": func(q Querier) error {
			_, err := FencedUpdate(t.Context(), q, late, Update{Table: pgx.Identifier{"accounts"}, Set: "balance = 2", Where: "id = '1'"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.Background())
			if _, err := tx.Exec(t.Context(), `UPDATE accounts SET balance = 0 WHERE id = '2'`); err != nil {
				t.Fatal(err)
			}
			if err := ask(tx); !errors.Is(err, coordinator.ErrStaleToken) {
				t.Fatal(err)
			}
			if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxCommitRollback) {
				t.Errorf("commit: %v", err)
			}

			other, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Rollback()
			if _, err := other.ExecContext(t.Context(), `UPDATE accounts SET balance = 0 WHERE id = '2'`); err != nil {
				t.Fatal(err)
			}
			if err := ask(SQL(other)); !errors.Is(err, coordinator.ErrStaleToken) {
				t.Fatal(err)
			}
			if err := other.Commit(); err == nil {
				t.Error("database/sql commits")
			}
			if got := balance(t, pool, "2"); got != 1000 {
				t.Errorf("balance %d", got)
			}
		})
	}
}

// Called before the work begins, Admit fences out what is older from that moment on: it waits for the transaction that
// holds the row, and is then judged by what that left behind.
func TestAdmitWaitsAndJudgesByTheNewest(t *testing.T) {
	pool := newBank(t)
	for _, level := range levels {
		for _, commits := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, first commits %v", level, commits), func(t *testing.T) {
				resource := fmt.Sprint("account/", level, commits)
				if err := inTx(t.Context(), pool, level, func(tx pgx.Tx) error { return Admit(t.Context(), tx, resource, grant(1, 1)) }); err != nil {
					t.Fatal(err)
				}
				first, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
				if err != nil {
					t.Fatal(err)
				}
				defer first.Rollback(context.Background())
				if err := Admit(t.Context(), first, resource, grant(3, 3)); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() {
					ended <- inTx(t.Context(), pool, level, func(tx pgx.Tx) error { return Admit(t.Context(), tx, resource, grant(2, 2)) })
				}()
				blocked(t, pool, 1)
				if commits {
					err = first.Commit(t.Context())
				} else {
					err = first.Rollback(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				switch err := <-ended; {
				case !commits:
					if err != nil {
						t.Errorf("the first was rolled back: %v", err)
					}
				case level == pgx.ReadCommitted:
					if !errors.Is(err, coordinator.ErrStaleToken) {
						t.Errorf("a later grant was committed: %v", err)
					}
				default: // its snapshot is older than the row: it must run again, and then learns
					if !Retryable(err) {
						t.Errorf("not to be run again: %v", err)
					}
					err := inTx(t.Context(), pool, level, func(tx pgx.Tx) error { return Admit(t.Context(), tx, resource, grant(2, 2)) })
					if !errors.Is(err, coordinator.ErrStaleToken) {
						t.Errorf("run again: %v", err)
					}
				}
			})
		}
	}
}

// Two transactions that admit two resources in opposite orders: one ends as the deadlock's victim, and may run again.
func TestDeadlockOfAdmits(t *testing.T) {
	pool := newBank(t)
	held := make(chan struct{}, 2)
	both := make(chan struct{})
	run := func(a, b string, g coordinator.Grant, first bool) error {
		return inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
			if err := Admit(t.Context(), tx, a, g); err != nil {
				return err
			}
			if first {
				held <- struct{}{}
				<-both
			}
			return Admit(t.Context(), tx, b, g)
		})
	}
	ended := make(chan error, 2)
	go func() { ended <- run("a", "b", grant(1, 1), true) }()
	go func() { ended <- run("b", "a", grant(2, 2), true) }()
	<-held
	<-held
	close(both)
	one, two := <-ended, <-ended
	if (one == nil) == (two == nil) {
		t.Fatalf("%v; %v", one, two)
	}
	if err := errors.Join(one, two); !Retryable(err) {
		t.Errorf("not to be run again: %v", err)
	}
	if err := run("a", "b", grant(3, 3), false); err != nil {
		t.Error(err)
	}
}

func TestAdmitIsOneStatementAndOneRowLock(t *testing.T) {
	pool := newBank(t)
	if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error { return Admit(t.Context(), tx, "a", grant(1, 1)) }); err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if err := Admit(t.Context(), tx, "a", grant(2, 2)); err != nil {
		t.Fatal(err)
	}
	// Another resource is not held up.
	if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error { return Admit(t.Context(), tx, "b", grant(1, 1)) }); err != nil {
		t.Fatal(err)
	}
	locked := number(t, pool, `SELECT count(*) FROM coordinator.fences WHERE resource NOT IN (SELECT resource FROM coordinator.fences FOR UPDATE SKIP LOCKED)`)
	if locked != 1 {
		t.Errorf("%d rows are locked", locked)
	}
}

func TestFencedUpdate(t *testing.T) {
	pool := newBank(t)
	table := pgx.Identifier{"accounts"}
	exec(t, pool, FenceColumns(table))
	update := func(g coordinator.Grant, u Update) (n int64, err error) {
		err = inTx(t.Context(), pool, "", func(tx pgx.Tx) (err error) {
			n, err = FencedUpdate(t.Context(), tx, g, u)
			return err
		})
		return n, err
	}
	take := Update{Table: table, Set: "balance = balance - $1", Where: "id = $2", Args: []any{int64(10), "1"}}
	for _, step := range []struct {
		g     coordinator.Grant
		stale bool
		left  int64
	}{{grant(5, 1), false, 990}, {grant(5, 1), false, 980}, {grant(5, 2), true, 980}, {grant(4, 1), true, 980}, {grant(6, 2), false, 970}, {grant(5, 1), true, 970}} {
		n, err := update(step.g, take)
		if errors.Is(err, coordinator.ErrStaleToken) != step.stale || !step.stale && (err != nil || n != 1) {
			t.Errorf("token %d: %d, %v", step.g.Token, n, err)
		}
		if got := balance(t, pool, "1"); got != step.left {
			t.Errorf("token %d: balance %d, not %d", step.g.Token, got, step.left)
		}
	}
	if n, err := update(grant(1, 1), Update{Table: table, Set: "balance = 0", Where: "id = 'nobody'"}); n != 0 || err != nil {
		t.Errorf("no row: %d, %v", n, err)
	}
	if n, err := update(grant(7, 1), Update{Table: table, Set: "balance = 5", Where: "id IN ('2', '3')"}); n != 2 || err != nil {
		t.Errorf("two rows: %d, %v", n, err)
	}
	// One of three has seen a later grant: nothing is changed.
	if _, err := update(grant(8, 1), Update{Table: table, Set: "balance = 5", Where: "id = '3'"}); err != nil {
		t.Fatal(err)
	}
	if _, err := update(grant(7, 1), Update{Table: table, Set: "balance = 6", Where: "id IN ('2', '3', '4')"}); !errors.Is(err, coordinator.ErrStaleToken) {
		t.Error(err)
	}
	if a, b := balance(t, pool, "2"), balance(t, pool, "4"); a != 5 || b != 1000 {
		t.Errorf("balances %d and %d", a, b)
	}
	// A comment in a caller's part takes nothing away.
	commented := Update{Table: table, Set: "balance = balance - 1 -- less", Where: "id = '5' -- that one"}
	if n, err := update(grant(8, 1), commented); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := update(grant(7, 1), commented); !errors.Is(err, coordinator.ErrStaleToken) {
		t.Errorf("a comment takes the mark away: %v", err)
	}
	for _, bad := range []Update{{}, {Table: table, Set: "balance = 1"}, {Table: table, Where: "true"}} {
		if _, err := update(grant(9, 1), bad); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// The row that an older worker waits for is judged as its successor leaves it.
func TestFencedUpdateWaitsAndJudgesByTheNewest(t *testing.T) {
	pool := newBank(t)
	table := pgx.Identifier{"accounts"}
	exec(t, pool, FenceColumns(table))
	for _, level := range levels {
		exec(t, pool, `UPDATE accounts SET fence_token = 0, balance = 1000`)
		successor, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FencedUpdate(t.Context(), successor, grant(3, 3), Update{Table: table, Set: "balance = 1", Where: "id = '1'"}); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			ended <- inTx(t.Context(), pool, level, func(tx pgx.Tx) error {
				_, err := FencedUpdate(t.Context(), tx, grant(2, 2), Update{Table: table, Set: "balance = 2", Where: "id = '1'"})
				return err
			})
		}()
		blocked(t, pool, 1)
		if err := successor.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = <-ended
		if level == pgx.ReadCommitted && !errors.Is(err, coordinator.ErrStaleToken) || level != pgx.ReadCommitted && !Retryable(err) {
			t.Errorf("%s: %v", level, err)
		}
		if got := balance(t, pool, "1"); got != 1 {
			t.Errorf("%s: balance %d", level, got)
		}
	}
}

func guarded(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ddl, err := Trigger(pgx.Identifier{"accounts"}, "account/", "id")
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, ddl)
	exec(t, pool, ddl) // as each deployment does
}

func TestTrigger(t *testing.T) {
	pool := newBank(t)
	guarded(t, pool)
	admitted := func(resource string, g coordinator.Grant, statements ...string) error {
		return inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
			if resource != "" {
				if err := Admit(t.Context(), tx, resource, g); err != nil {
					return err
				}
			}
			for _, s := range statements {
				if _, err := tx.Exec(t.Context(), s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	const pay, move, drop, open = `UPDATE accounts SET balance = balance - 1 WHERE id = '1'`, `UPDATE accounts SET id = '1000' WHERE id = '1'`, `DELETE FROM accounts WHERE id = '1'`, `INSERT INTO accounts VALUES ('1000', 0)`
	for _, statement := range []string{pay, move, drop, open} {
		for _, resource := range []string{"", "account/2"} {
			err := admitted(resource, grant(1, 1), statement)
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != raisedStale || !strings.Contains(pg.Hint, "Admit") {
				t.Errorf("admitted to %q, %s: %v", resource, statement, err)
			}
		}
	}
	if err := admitted("account/1", grant(1, 1), pay, `SAVEPOINT s`, pay, `ROLLBACK TO s`, pay); err != nil {
		t.Error(err)
	}
	if got := balance(t, pool, "1"); got != 998 {
		t.Errorf("balance %d", got)
	}
	if err := admitted("account/1", grant(1, 1), move); err == nil {
		t.Error("a row moved to a resource that the transaction was not admitted to")
	}
	if err := admitted("account/1000", grant(1, 1), move); err == nil {
		t.Error("a row moved away from a resource that the transaction was not admitted to")
	}
	// Nor by a trigger that comes after it.
	exec(t, pool, `CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := NEW.id || ''x''; RETURN NEW; END'`)
	exec(t, pool, `CREATE TRIGGER zzz BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION moves()`)
	if err := admitted("account/48", grant(1, 1), `UPDATE accounts SET balance = 1 WHERE id = '48'`); err == nil {
		t.Error("a trigger moved a row to a resource that the transaction was not admitted to")
	}
	exec(t, pool, `DROP TRIGGER zzz ON accounts`)
	// Being admitted ends with the savepoint that it was granted in.
	err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `SAVEPOINT s`); err != nil {
			return err
		}
		if err := Admit(t.Context(), tx, "account/1", grant(9, 9)); err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), `ROLLBACK TO s`); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), pay)
		return err
	})
	if err == nil {
		t.Error("admitted by a savepoint that was rolled back")
	}
	// A quote or a backslash in a name stays in it.
	exec(t, pool, `CREATE TABLE odd ("the 'id'" text)`)
	ddl, err := Trigger(pgx.Identifier{"odd"}, `it's\`, `the 'id'`)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, ddl)
	if err := admitted(`it's\x`, grant(1, 1), `INSERT INTO odd VALUES ('x')`); err != nil {
		t.Error(err)
	}
}

// A worker that was stopped past its lease and goes on changes nothing: by Admit, by the column, by the trigger.
func TestStoppedWorkerChangesNothing(t *testing.T) {
	for _, protection := range []string{"Admit", "column", "trigger"} {
		t.Run(protection, func(t *testing.T) {
			pool := newBank(t)
			server, c := newRedis(t)
			write := func(g coordinator.Grant, to int64, asks bool) error {
				return inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
					if protection == "column" {
						_, err := FencedUpdate(t.Context(), tx, g, Update{Table: pgx.Identifier{"accounts"}, Set: "balance = $1", Where: "id = '1'", Args: []any{to}})
						return err
					}
					if asks {
						if err := Admit(t.Context(), tx, "account/1", g); err != nil {
							return err
						}
					}
					_, err := tx.Exec(t.Context(), `UPDATE accounts SET balance = $1 WHERE id = '1'`, to)
					return err
				})
			}
			switch protection {
			case "column":
				exec(t, pool, FenceColumns(pgx.Identifier{"accounts"}))
			case "trigger":
				guarded(t, pool)
			}
			stopped, err := c.Claim(t.Context(), newKey("1"), coordinator.ManualRenewal(), coordinator.LeaseFor(shortLease))
			if err != nil {
				t.Fatal(err)
			}
			server.FastForward(2 * shortLease) // miniredis' TTLs
			var successor *coordinator.Lease
			eventually(t, func() (err error) {
				successor, err = c.Claim(t.Context(), newKey("1"), coordinator.ManualRenewal())
				return err
			})
			if successor.Token() <= stopped.Token() {
				t.Fatalf("tokens %d, %d", stopped.Token(), successor.Token())
			}
			if err := write(successor.Grant(), 500, true); err != nil {
				t.Fatal(err)
			}
			err = write(stopped.Grant(), 1, protection != "trigger") // by the trigger even if it forgets to ask
			if err == nil {
				t.Error("the stopped worker wrote")
			}
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != raisedStale {
				t.Error(err)
			}
			if got := balance(t, pool, "1"); got != 500 {
				t.Errorf("balance %d", got)
			}
		})
	}
}

// After Redis has lost everything the next grant exceeds what the database has seen, also if that is ahead of Redis' clock.
func TestGrantsExceedTheHighWaterMark(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	first, err := c.Claim(t.Context(), newKey("1"))
	if err != nil {
		t.Fatal(err)
	}
	ahead := coordinator.Grant{Token: first.Token() + 3_600_000_000, Owner: first.Grant().Owner} // an hour
	if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error { return Admit(t.Context(), tx, "account/1", ahead) }); err != nil {
		t.Fatal(err)
	}
	server.FlushAll()
	mark, err := HighWater(t.Context(), pool, "account/1")
	if err != nil || mark != ahead.Token {
		t.Fatal(mark, err)
	}
	without, err := c.Claim(t.Context(), newKey("1"))
	if err != nil {
		t.Fatal(err)
	}
	if without.Token() > mark {
		t.Fatalf("the clock alone gives %d: this test shows nothing", without.Token())
	}
	if err := without.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.FlushAll()
	with, err := c.Claim(t.Context(), newKey("1"), coordinator.MinToken(mark))
	if err != nil || with.Token() <= mark {
		t.Fatal(with, err)
	}
	if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error { return Admit(t.Context(), tx, "account/1", with.Grant()) }); err != nil {
		t.Fatal(err)
	}
	with.Release(t.Context())
	server.FlushAll()

	// Do finds out by itself.
	key, seen := newKey("1"), coordinator.Token(0)
	_, _, err = Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		seen = l.Token()
		return withdraw("1", 10)(ctx, tx, l)
	})
	if err != nil || seen <= with.Token() || balance(t, pool, "1") != 990 {
		t.Errorf("token %d after %d, balance %d: %v", seen, with.Token(), balance(t, pool, "1"), err)
	}
}

func TestFenceRefusesBadInput(t *testing.T) {
	pool := newBank(t)
	good := grant(1, 1)
	for name, err := range map[string]error{
		"no resource":  Admit(t.Context(), pool, "", good),
		"no grant":     Admit(t.Context(), pool, "a", coordinator.Grant{}),
		"long name":    Admit(t.Context(), pool, strings.Repeat("a", maxNameBytes+1), good),
		"nil option":   Admit(t.Context(), pool, "a", good, nil),
		"bad schema":   Admit(t.Context(), pool, "a", good, InSchema(`"; DROP SCHEMA coordinator; --`)),
		"empty schema": Admit(t.Context(), pool, "a", good, InSchema("")),
	} {
		if !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Admit(t.Context(), pool, strings.Repeat("\x00", maxNameBytes), good); err != nil {
		t.Errorf("the longest name, of any bytes: %v", err)
	}
	err := Admit(t.Context(), pool, "a", good, InSchema("elsewhere"))
	if err == nil || !strings.Contains(err.Error(), "coordctl pg migrate") {
		t.Errorf("no schema: %v", err)
	}
	if _, err := Trigger(nil, "", ""); !errors.Is(err, coordinator.ErrInvalid) {
		t.Error(err)
	}
}

// onlyBegins is neither a pool nor a connection.
type onlyBegins struct{ pool *pgxpool.Pool }

func (b onlyBegins) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	return b.pool.BeginTx(ctx, opts)
}

// BeginFunc is a transaction behind the fence, with the admission on the way of the BEGIN.
func TestBeginFunc(t *testing.T) {
	var statements, trips atomic.Int64
	bank := newBank(t)
	guarded(t, bank)
	pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
		config.ConnConfig.Tracer = tracer(func(string) { statements.Add(1) })
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &counted{conn, &trips}, err
		}
	})
	conn, err := pgx.Connect(t.Context(), bank.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	pay := func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE accounts SET balance = balance - 1 WHERE id = '1'`)
		return err
	}
	for i, db := range []Beginner{pool, conn, onlyBegins{pool}} {
		token := int64(10 * (i + 1))
		if err := BeginFunc(t.Context(), db, "account/1", grant(token, 1), pay); err != nil {
			t.Error(err)
		}
		for _, g := range []coordinator.Grant{grant(token-1, 1), grant(token, 2)} {
			err := BeginFunc(t.Context(), db, "account/1", g, func(pgx.Tx) error { t.Error("the work runs"); return nil })
			if stale, ok := errors.AsType[*coordinator.StaleTokenError](err); !ok || stale.Current != coordinator.Token(token) {
				t.Error(err)
			}
		}
		if err := BeginFunc(t.Context(), db, "account/1", grant(token+1, 1), func(tx pgx.Tx) error { return errors.Join(pay(tx), errCut) }); !errors.Is(err, errCut) {
			t.Error(err)
		}
		if err := BeginFunc(t.Context(), db, "account/2", grant(token, 1), pay); err == nil {
			t.Error("the trigger lets it pass")
		}
		if err := BeginFunc(t.Context(), db, "account/1", grant(token+1, 1), func(tx pgx.Tx) error {
			_, _ = tx.Exec(t.Context(), `SELECT 1/0`)
			return nil
		}); !errors.Is(err, pgx.ErrTxCommitRollback) {
			t.Errorf("an error that the work did not look at: %v", err)
		}
		if got, want := balance(t, bank, "1"), int64(999-i); got != want {
			t.Errorf("%d are left, not %d", got, want)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{
		BeginFunc(ended, pool, "account/1", grant(99, 1), pay),
		BeginFunc(t.Context(), pool, "", grant(99, 1), pay),
		BeginFunc(t.Context(), pool, "account/1", coordinator.Grant{}, pay),
	} {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, coordinator.ErrInvalid) {
			t.Error(err)
		}
	}
	count := func(f func() error) [2]int64 {
		t.Helper()
		from := [2]int64{statements.Load(), trips.Load()}
		if err := f(); err != nil {
			t.Error(err)
		}
		return [2]int64{statements.Load() - from[0], trips.Load() - from[1]}
	}
	plain := func() error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { _, err := tx.Exec(t.Context(), `SELECT 1`); return err })
	}
	fenced := func() error {
		return BeginFunc(t.Context(), pool, "account/1", grant(100, 1), func(tx pgx.Tx) error { _, err := tx.Exec(t.Context(), `SELECT 1`); return err })
	}
	for range 2 { // prepared
		count(plain)
		count(fenced)
	}
	if a, b := count(plain), count(fenced); b[0] != a[0]+1 || b[1] != a[1] {
		t.Errorf("%v statements and round trips, %v without the fence", b, a)
	}
	eventually(t, func() error {
		if n := pool.Stat().AcquiredConns(); n != 0 {
			return fmt.Errorf("%d connections are not given back", n)
		}
		return nil
	})
}

// After a commit whose answer was lost nobody knows, and running it again by itself could do it twice.
func TestBeginFuncWhoseCommitIsInDoubt(t *testing.T) {
	bank := newBank(t)
	plan := &cuts{after: 1}
	pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &cutter{Conn: conn, plan: plan}, err
		}
	})
	err := BeginFunc(t.Context(), pool, "account/1", grant(1, 1), func(tx pgx.Tx) error {
		_, err := withdraw("1", 10)(t.Context(), tx, nil)
		return err
	})
	if !errors.Is(err, coordinator.ErrUnknown) || Retryable(err) {
		t.Errorf("%v, retryable %v", err, Retryable(err))
	}
	if got := balance(t, bank, "1"); got != 990 {
		t.Errorf("balance %d", got)
	}
}
