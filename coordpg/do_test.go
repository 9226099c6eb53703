package coordpg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
)

// doers run withdraw by pgx and by database/sql.
func doers(c *coordinator.Coordinator, pool *pgxpool.Pool) map[string]func(ctx context.Context, key coordinator.Key, before func(l *Lease) error, opts ...DoOption) (int64, bool, error) {
	db := stdlib.OpenDBFromPool(pool)
	return map[string]func(context.Context, coordinator.Key, func(*Lease) error, ...DoOption) (int64, bool, error){
		"pgx": func(ctx context.Context, key coordinator.Key, before func(*Lease) error, opts ...DoOption) (int64, bool, error) {
			return Do(ctx, c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
				if before != nil {
					if err := before(l); err != nil {
						return 0, err
					}
				}
				return withdraw("1", 10)(ctx, tx, l)
			}, opts...)
		},
		"database/sql": func(ctx context.Context, key coordinator.Key, before func(*Lease) error, opts ...DoOption) (int64, bool, error) {
			return DoSQL(ctx, c, db, key, func(ctx context.Context, tx *sql.Tx, l *Lease) (left int64, err error) {
				if before != nil {
					if err := before(l); err != nil {
						return 0, err
					}
				}
				return left, tx.QueryRowContext(ctx, `UPDATE accounts SET balance = balance - 10 WHERE id = '1' RETURNING balance`).Scan(&left)
			}, opts...)
		},
	}
}

func TestDo(t *testing.T) {
	for _, resource := range []string{"", "1"} {
		for _, by := range []string{"pgx", "database/sql"} {
			t.Run(by+" "+resource, func(t *testing.T) {
				pool := newBank(t)
				server, c := newRedis(t)
				do := doers(c, pool)[by]
				key := newKey(resource)
				print := Fingerprint([]byte("body"))
				if v, replayed, err := do(t.Context(), key, nil, print); v != 990 || replayed || err != nil {
					t.Fatal(v, replayed, err)
				}
				for _, lost := range []bool{false, true, true} {
					if lost {
						server.FlushAll()
					}
					if v, replayed, err := do(t.Context(), key, nil, print); v != 990 || !replayed || err != nil {
						t.Errorf("lost %v: %d, %v, %v", lost, v, replayed, err)
					}
					if result, err := c.Result(t.Context(), key, []byte("body")); err != nil || string(result.Payload) != "990" {
						t.Errorf("lost %v: Redis was not told: %v, %v", lost, result, err)
					}
				}
				for _, lost := range []bool{false, true} {
					if lost {
						server.FlushAll()
					}
					if _, _, err := do(t.Context(), key, nil, Fingerprint([]byte("another"))); !errors.Is(err, coordinator.ErrMismatch) {
						t.Errorf("lost %v, another fingerprint: %v", lost, err)
					}
				}
				if got := balance(t, pool, "1"); got != 990 {
					t.Errorf("balance %d", got)
				}
				e, err := Lookup(t.Context(), pool, key)
				if err != nil || string(e.Result.Payload) != "990" || e.Result.Failed || string(e.Fingerprint) != "body" || e.Attempt != 1 || e.Key != key || e.Result.Token == 0 {
					t.Errorf("the ledger has %+v, %v", e, err)
				}
				if keep := time.Until(e.ExpiresAt); keep < defaultKeep-time.Minute || keep > defaultKeep {
					t.Errorf("it keeps it for %v", keep)
				}
				if gone, err := Forget(t.Context(), pool, key); !gone || err != nil {
					t.Error(gone, err)
				}
				if gone, err := Forget(t.Context(), pool, key); gone || err != nil {
					t.Error(gone, err)
				}
				if err := c.Expire(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				if v, replayed, err := do(t.Context(), key, nil, print); v != 980 || replayed || err != nil {
					t.Errorf("after Forget: %d, %v, %v", v, replayed, err)
				}
			})
		}
	}
}

// Errors and panics roll back and free the key; final errors roll back and are the outcome, also when Redis has lost them.
func TestDoThatFails(t *testing.T) {
	for _, by := range []string{"pgx", "database/sql"} {
		t.Run(by, func(t *testing.T) {
			pool := newBank(t)
			server, c := newRedis(t)
			do := doers(c, pool)[by]
			key, broken := newKey("1"), errors.New("broken")
			if _, _, err := do(t.Context(), key, func(*Lease) error { return broken }); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic was swallowed")
					}
				}()
				_, _, _ = do(t.Context(), key, func(*Lease) error { panic("broken") })
			}()
			if _, err := Lookup(t.Context(), pool, key); !errors.Is(err, coordinator.ErrNotFound) {
				t.Fatal(err)
			}
			for _, lost := range []bool{false, false, true, true} {
				if lost {
					server.FlushAll()
				}
				_, _, err := do(t.Context(), key, func(*Lease) error { return coordinator.Final(errors.New("declined")) })
				if result, ok := coordinator.ResultOf(err); !ok || !result.Failed || string(result.Payload) != "declined" {
					t.Errorf("lost %v: %v", lost, err)
				}
			}
			if got := balance(t, pool, "1"); got != 1000 {
				t.Errorf("balance %d", got)
			}
			if n := number(t, pool, `SELECT count(*) FROM coordinator.ledger WHERE failed`); n != 1 {
				t.Errorf("%d failures in the ledger", n)
			}
			eventually(t, func() error { // every connection has been given back
				if n := pool.Stat().AcquiredConns(); by == "pgx" && n != 0 {
					return fmt.Errorf("%d connections are out", n)
				}
				return nil
			})
		})
	}
}

// One statement beside the transaction's own opens it, and one completes it.
func TestDoAddsTwoStatements(t *testing.T) {
	var statements []string
	var mu sync.Mutex
	bank := newBank(t)
	pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
		config.ConnConfig.Tracer = tracer(func(sql string) {
			mu.Lock()
			defer mu.Unlock()
			statements = append(statements, sql)
		})
	})
	_, c := newRedis(t)
	if _, _, err := Do(t.Context(), c, pool, newKey("1"), withdraw("1", 10)); err != nil {
		t.Fatal(err)
	}
	// Two of them are sent with the one before or after: see TestDoAddsNoRoundTrip.
	if len(statements) != 5 || statements[0] != "begin" || !strings.Contains(statements[1], "open(") || !strings.HasPrefix(statements[2], "UPDATE") || !strings.Contains(statements[3], "INSERT INTO \"coordinator\".ledger") || statements[4] != "commit" {
		t.Errorf("%d statements: %q", len(statements), statements)
	}
}

type tracer func(string)

func (f tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	f(data.SQL)
	return ctx
}
func (tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (f tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		f(q.SQL)
	}
	return ctx
}
func (tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// FLUSHALL at every step, the gaps between any two of them among these: the operation takes place once, whatever isolation level,
// and the caller is not bothered.
func TestRedisLosesEverythingBetweenAnySteps(t *testing.T) {
	for _, level := range levels {
		for _, at := range crashes {
			t.Run(string(level)+" "+at, func(t *testing.T) {
				bank := newBank(t)
				server := miniredis.RunT(t)
				k := &killer{at: at, act: server.FlushAll}
				client := redis.NewClient(&redis.Options{Addr: server.Addr()})
				defer client.Close()
				client.AddHook(k)
				c, err := coordinator.New(client)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) { config.ConnConfig.Tracer = k })
				key := newKey("1")
				for i := range 3 {
					if v, replayed, err := Do(t.Context(), c, pool, key, withdraw("1", 10), Isolation(level)); v != 990 || replayed != (i > 0) || err != nil {
						t.Errorf("call %d: %d, %v, %v", i, v, replayed, err)
					}
				}
				if !k.done || balance(t, bank, "1") != 990 {
					t.Errorf("lost %v, balance %d", k.done, balance(t, bank, "1"))
				}
			})
		}
	}
}

// Redis forgets the first holder while it works, and grants a second one: one of them commits, both get its result.
func TestTwoWorkersWithOneKey(t *testing.T) {
	for _, level := range levels {
		for _, resource := range []string{"", "1"} {
			t.Run(string(level)+" "+resource, func(t *testing.T) {
				pool := newBank(t)
				server, c := newRedis(t)
				other := newCoordinator(t, server.Addr())
				key := newKey(resource)
				working, goOn := make(chan struct{}, 10), make(chan struct{})
				type answer struct {
					v        int64
					replayed bool
					err      error
				}
				answers := make(chan answer, 2)
				work := func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
					v, err := withdraw("2", 10)(ctx, tx, l)
					if err != nil {
						return 0, err
					}
					working <- struct{}{}
					<-goOn
					return v, err
				}
				run := func(c *coordinator.Coordinator) {
					v, replayed, err := Do(t.Context(), c, pool, key, work, Isolation(level))
					answers <- answer{v, replayed, err}
				}
				go run(c)
				<-working
				server.FlushAll()
				go run(other)
				blocked(t, pool, 1) // by the fence's row, or by the account's
				close(goOn)
				a, b := <-answers, <-answers
				if a.err != nil || b.err != nil || a.v != 990 || b.v != 990 || a.replayed == b.replayed {
					t.Errorf("%+v, %+v", a, b)
				}
				if got := balance(t, pool, "2"); got != 990 {
					t.Errorf("balance %d", got)
				}
			})
		}
	}
}

// Transactions that fail by no fault of theirs run again: deadlocks, serialization failures, a server that restarts.
func TestDoRunsAgain(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	for _, code := range []string{"40001", "40P01", "57P01", "08006"} {
		runs := 0
		_, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			runs++
			if err := l.Emit(Event{Topic: "paid", Payload: []byte(code)}); err != nil {
				return 0, err
			}
			if runs < 3 {
				_, err := tx.Exec(ctx, fmt.Sprintf(`DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '%s'; END $$`, code))
				return 0, err
			}
			return withdraw("1", 1)(ctx, tx, l)
		})
		if err != nil || runs != 3 {
			t.Errorf("%s: %d runs, %v", code, runs, err)
		}
		if n := number(t, pool, `SELECT count(*) FROM coordinator.outbox WHERE payload = $1`, []byte(code)); n != 1 {
			t.Errorf("%s: %d events", code, n)
		}
	}
	runs := 0
	_, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		runs++
		_, err := tx.Exec(ctx, `SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(10)`)
		return 0, err
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "57014" || runs != 1 {
		t.Errorf("a statement timeout: %d runs, %v", runs, err)
	}
	runs = 0
	_, _, err = Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		runs++
		_, err := tx.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$`)
		return 0, err
	})
	if !Retryable(err) || runs != 10 {
		t.Errorf("for ever: %d runs, %v", runs, err)
	}
}

// A serialization failure that the server finds by itself: somebody else has changed what this transaction had read.
func TestSerializationFailuresAreRunAgain(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		runs := 0
		_, _, err := Do(t.Context(), c, pool, newKey(""), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			runs++
			if _, err := tx.Exec(ctx, `SELECT balance FROM accounts WHERE id = '1'`); err != nil {
				return 0, err
			}
			if runs == 1 {
				exec(t, pool, `UPDATE accounts SET balance = balance - 1 WHERE id = '1'`)
			}
			return withdraw("1", 1)(ctx, tx, l)
		}, Isolation(level))
		if err != nil || runs != 2 {
			t.Errorf("%s: %d runs, %v", level, runs, err)
		}
	}
	if got := balance(t, pool, "1"); got != 996 {
		t.Errorf("balance %d", got)
	}
}

// A deadlock that the server finds: one of the two is its victim, runs again, and both get through.
func TestDeadlocksAreRunAgain(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	var runs atomic.Int64
	var all, both sync.WaitGroup
	both.Add(2)
	for _, order := range [][2]string{{"1", "2"}, {"2", "1"}} {
		all.Go(func() {
			first := true
			_, _, err := Do(t.Context(), c, pool, newKey(""), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
				runs.Add(1)
				if _, err := withdraw(order[0], 1)(ctx, tx, l); err != nil {
					return 0, err
				}
				if first {
					first = false
					both.Done()
					both.Wait()
				}
				return withdraw(order[1], 1)(ctx, tx, l)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n, a, b := runs.Load(), balance(t, pool, "1"), balance(t, pool, "2"); n != 3 || a != 998 || b != 998 {
		t.Errorf("%d runs, balances %d and %d", n, a, b)
	}
}

// A transaction of a worker that stands still is ended by the server, so its locks block nobody for ever (P8).
func TestStandingStillEndsTheTransaction(t *testing.T) {
	for name, key := range map[string]coordinator.Key{"resource": newKey("1"), "key": newKey("")} {
		for _, opts := range [][]DoOption{{IdleFor(300 * time.Millisecond)}, {LeaseFor(300 * time.Millisecond)}} {
			t.Run(name, func(t *testing.T) {
				pool := newBank(t)
				server, c := newRedis(t)
				stuck, goOn := make(chan struct{}), make(chan struct{})
				ended := make(chan error, 1)
				var runs atomic.Int64
				go func() {
					_, _, err := Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
						if runs.Add(1) > 1 {
							return 0, errors.New("ran again")
						}
						if _, err := withdraw("1", 10)(ctx, tx, l); err != nil {
							return 0, err
						}
						close(stuck)
						<-goOn
						return 0, nil
					}, opts...)
					ended <- err
				}()
				<-stuck
				server.FlushAll() // or else the key would be held: the lease is renewed
				begun := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if v, replayed, err := Do(ctx, newCoordinator(t, server.Addr()), pool, key, withdraw("1", 10)); v != 990 || replayed || err != nil {
					t.Error(v, replayed, err)
				}
				if took := time.Since(begun); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				close(goOn)
				if err := <-ended; err == nil && runs.Load() > 1 {
					t.Error("the stuck one has run again")
				}
				if got := balance(t, pool, "1"); got != 990 {
					t.Errorf("balance %d", got)
				}
			})
		}
	}
}

// Work that stands still for longer than it may fails once, although its lease is renewed, and is told what to set.
func TestStandingStillIsNotRunAgain(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	for by, do := range doers(c, pool) {
		for _, alone := range []bool{false, true} {
			s := newStandby(t, c, pool)
			if alone {
				done, err := takeOver(t.Context(), s)
				switched(t, done, err)
			}
			runs := 0
			slow := func(*Lease) error { runs++; time.Sleep(500 * time.Millisecond); return nil }
			if _, _, err := do(t.Context(), newKey(""), slow, LeaseFor(200*time.Millisecond), WithStandby(s)); err == nil || runs != 1 || !strings.Contains(err.Error(), "IdleFor") && (by == "pgx" || alone) {
				t.Errorf("%s, alone %v: %d runs, %v", by, alone, runs, err)
			}
			if alone {
				done, err := handBack(t.Context(), s)
				switched(t, done, err)
				continue
			}
			if _, _, err := do(t.Context(), newKey(""), slow, LeaseFor(200*time.Millisecond), IdleFor(10*time.Second)); err != nil || runs != 2 {
				t.Errorf("%s, allowed to: %d runs, %v", by, runs, err)
			}
		}
	}
}

// What Redis has lost is asked of the ledger before work runs again, of keys with a resource and without.
func TestDoAsksTheLedgerFirst(t *testing.T) {
	for _, resource := range []string{"", "1"} {
		pool := newBank(t)
		server, c := newRedis(t)
		key, runs := newKey(resource), 0
		for range 3 {
			_, _, err := Do(t.Context(), c, pool, key, func(context.Context, pgx.Tx, *Lease) (int, error) {
				runs++
				return 0, nil
			})
			if err != nil {
				t.Error(err)
			}
			server.FlushAll()
		}
		if runs != 1 {
			t.Errorf("resource %q: %d runs", resource, runs)
		}
	}
}

// An outcome that is swept after it was seen, and before it was read, is none: the work runs, as it would a moment later.
func TestOutcomeThatIsJustSwept(t *testing.T) {
	for _, resource := range []string{"", "1"} {
		bank := newBank(t)
		server, c := newRedis(t)
		key, runs := newKey(resource), 0
		pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
			config.ConnConfig.Tracer = tracer(func(sql string) {
				if strings.Contains(sql, "SELECT token, attempt") {
					if _, err := Forget(t.Context(), bank, key); err != nil {
						t.Error(err)
					}
				}
			})
		})
		for range 2 {
			_, replayed, err := Do(t.Context(), c, pool, key, func(context.Context, pgx.Tx, *Lease) (int, error) {
				runs++
				return 0, nil
			})
			if err != nil || replayed {
				t.Errorf("resource %q: replayed %v, %v", resource, replayed, err)
			}
			server.FlushAll()
		}
		if runs != 2 {
			t.Errorf("resource %q: %d runs", resource, runs)
		}
	}
}

// Who waits for another holder of the resource learns of its outcome before its own work begins.
func TestWhoWaitsAtTheFenceDoesNotWork(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	key, working, goOn := newKey("1"), make(chan struct{}), make(chan struct{})
	var runs atomic.Int64
	work := func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		if runs.Add(1) == 1 {
			close(working)
			<-goOn
		}
		return withdraw("1", 10)(ctx, tx, l)
	}
	ended := make(chan error, 2)
	run := func(c *coordinator.Coordinator) {
		_, _, err := Do(t.Context(), c, pool, key, work)
		ended <- err
	}
	go run(c)
	<-working
	server.FlushAll()
	go run(newCoordinator(t, server.Addr()))
	blocked(t, pool, 1)
	close(goOn)
	if err := errors.Join(<-ended, <-ended); err != nil {
		t.Error(err)
	}
	if n := runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// The lease's context is the work's: with its end nothing is committed.
func TestLostLeaseCommitsNothing(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	key := newKey("1")
	_, _, err := Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		v, err := withdraw("1", 10)(ctx, tx, l)
		if err := c.Expire(context.Background(), key); err != nil {
			return 0, err
		}
		if err := l.Redis().Renew(context.Background()); !errors.Is(err, coordinator.ErrLeaseLost) && !errors.Is(err, coordinator.ErrStaleToken) {
			return 0, fmt.Errorf("renewed: %w", err)
		}
		<-ctx.Done()
		return v, err
	})
	if !errors.Is(err, coordinator.ErrLeaseLost) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err = Do(ctx, c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		v, err := withdraw("1", 10)(ctx, tx, l)
		cancel()
		return v, err
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := balance(t, pool, "1"); got != 1000 {
		t.Errorf("balance %d", got)
	}
}

// Redis refuses everything from the claim on: the commit counts, and whoever comes next tells Redis.
func TestCommitCountsWhenRedisCannotBeTold(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	key := newKey("1")
	v, replayed, err := Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		server.SetError("ERR out of order")
		return withdraw("1", 10)(ctx, tx, l)
	})
	if v != 990 || replayed || err != nil {
		t.Fatal(v, replayed, err)
	}
	server.SetError("")
	server.FastForward(time.Hour)
	server.FlushAll()
	if v, replayed, err := Do(t.Context(), c, pool, key, withdraw("1", 10)); v != 990 || !replayed || err != nil {
		t.Fatal(v, replayed, err)
	}
	if _, err := c.Result(t.Context(), key, nil); err != nil {
		t.Error(err)
	}
}

// The parts by hand: claim, complete in one's own transaction, die before Redis is told, recover.
func TestCompleteAndRecover(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	key := newKey("1")
	claim := func() *coordinator.Lease {
		t.Helper()
		lease, err := c.Claim(t.Context(), key, coordinator.Fingerprint([]byte("f")))
		if err != nil {
			t.Fatal(err)
		}
		return lease
	}
	first := claim()
	if _, err := Recover(t.Context(), pool, first); !errors.Is(err, coordinator.ErrNotFound) {
		t.Fatal(err)
	}
	book := func(lease *coordinator.Lease, result string) error {
		return inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
			if _, err := withdraw("1", 10)(t.Context(), tx, nil); err != nil {
				return err
			}
			return Complete(t.Context(), tx, lease, []byte(result), RetainFor(2*time.Hour), Emit(Event{Topic: "paid"}))
		})
	}
	if err := book(first, "done"); err != nil {
		t.Fatal(err)
	}
	if err := book(first, "done"); err != nil { // the same again is fine for the ledger; its effects are the caller's
		t.Error(err)
	}
	exec(t, pool, `UPDATE accounts SET balance = 990 WHERE id = '1'`)
	if err := book(first, "something else"); !errors.Is(err, coordinator.ErrCompleted) {
		t.Error(err)
	}
	server.FlushAll()
	second := claim()
	if err := book(second, "again"); !errors.Is(err, coordinator.ErrCompleted) {
		t.Error(err)
	}
	if got := balance(t, pool, "1"); got != 990 {
		t.Errorf("balance %d", got)
	}
	if err := book(first, "done"); !errors.Is(err, coordinator.ErrStaleToken) && !errors.Is(err, coordinator.ErrCompleted) && err != nil {
		t.Error(err)
	}
	result, err := Recover(t.Context(), pool, second)
	if err != nil || string(result.Payload) != "done" {
		t.Fatal(result, err)
	}
	if stored, err := c.Result(t.Context(), key, []byte("f")); err != nil || string(stored.Payload) != "done" {
		t.Error(stored, err)
	}
	server.FlushAll()
	other, err := c.Claim(t.Context(), key, coordinator.Fingerprint([]byte("g")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(t.Context(), pool, other); !errors.Is(err, coordinator.ErrMismatch) {
		t.Error(err)
	}
}

// Keys of any bytes keep their outcomes apart.
func TestLedgerKeepsKeysApart(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	all := []coordinator.Key{
		{ID: "a"}, {Scope: "a", ID: "a"}, {ID: "aa"}, {ID: "a", Resource: "a"}, {Scope: "a", ID: "a", Resource: "a"}, {ID: "\x00"}, {ID: "\x00\x00"},
		{Scope: "\xff", ID: "a"}, {ID: "\xffa"}, {ID: strings.Repeat("x", 255), Scope: strings.Repeat("\x00", maxNameBytes), Resource: strings.Repeat("\xfe", maxNameBytes)},
	}
	for round := range 2 {
		for i, key := range all {
			v, replayed, err := Do(t.Context(), c, pool, key, func(context.Context, pgx.Tx, *Lease) (int, error) { return i, nil })
			if v != i || replayed != (round > 0) || err != nil {
				t.Errorf("round %d, key %d: %d, %v, %v", round, i, v, replayed, err)
			}
		}
		server.FlushAll()
	}
	for _, key := range []coordinator.Key{{}, {ID: "a", Scope: strings.Repeat("x", maxNameBytes+1)}, {ID: "a", Resource: strings.Repeat("x", maxNameBytes+1)}} {
		if _, _, err := Do(t.Context(), c, pool, key, withdraw("1", 1)); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestDoRefusesBadOptions(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	s := newStandby(t, c, pool)
	done, err := takeOver(t.Context(), s) // by the options alone: there is no claim that would refuse them
	switched(t, done, err)
	for name, opt := range map[string]DoOption{
		"nothing as a fingerprint": Fingerprint(nil), "a long fingerprint": Fingerprint(make([]byte, 65)), "a wait before now": WaitUpTo(-1), "idle for years": IdleFor(1e5 * time.Hour),
		"nil": nil, "isolation": Isolation("snapshot"), "idle": IdleFor(0), "codec": WithCodec(nil), "retention": RetainFor(time.Hour),
		"topic": Emit(Event{}), "standby": WithStandby(nil), "lease": LeaseFor(time.Nanosecond), "schema": InSchema("No"),
	} {
		_, _, err := Do(t.Context(), c, pool, newKey("1"), withdraw("1", 1), WithStandby(s), opt)
		if !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Do(t.Context(), c, pool, newKey("1"), withdraw("1", 0), WithStandby(s), LeaseFor(1e5*time.Hour), WaitUpTo(1e5*time.Hour)); err != nil {
		t.Errorf("very long times: %v", err)
	}
	_, long := newRedis(t, coordinator.WithMaxLifetime(3*time.Hour))
	if _, _, err := Do(t.Context(), long, pool, newKey("1"), withdraw("1", 1), RetainFor(3*time.Hour)); !errors.Is(err, coordinator.ErrInvalid) {
		t.Errorf("an outcome that a lease outlives: %v", err)
	}
	if got := balance(t, pool, "1"); got != 1000 {
		t.Errorf("balance %d", got)
	}
}

// A failover of Redis: the replica that is promoted has seen the first operation and not the second.
func TestRedisFailsOver(t *testing.T) {
	pool := newBank(t)
	master := redistest.Run(t)
	replica := redistest.RunReplica(t, master)
	admin := replica.Client(nil)
	defer admin.Close()
	var tokens []coordinator.Token
	seen, unseen := newKey("1"), newKey("1")
	do := func(addr string, key coordinator.Key, want int64, again bool) {
		t.Helper()
		v, replayed, err := Do(t.Context(), newCoordinator(t, addr), pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			tokens = append(tokens, l.Token())
			return withdraw("1", 10)(ctx, tx, l)
		})
		if v != want || replayed != again || err != nil {
			t.Errorf("%s: %d, %v, %v; not %d", key.ID, v, replayed, err, want)
		}
	}
	do(master.Addr(), seen, 990, false)
	eventually(t, func() error {
		if n, err := admin.DBSize(t.Context()).Result(); n == 0 || err != nil {
			return fmt.Errorf("the replica has %d keys, %w", n, err)
		}
		return nil
	})
	if err := admin.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	do(master.Addr(), unseen, 980, false) // the master that is replaced still answers
	if err := master.Kill(); err != nil {
		t.Fatal(err)
	}
	do(replica.Addr(), unseen, 980, true)
	do(replica.Addr(), seen, 990, true)
	do(replica.Addr(), newKey("1"), 970, false)
	for i := 1; i < len(tokens); i++ {
		if tokens[i] <= tokens[i-1] {
			t.Errorf("tokens %v", tokens)
		}
	}
}

// A Redis that starts empty, between the first call and the second, and one that comes back with what it had.
func TestDoThroughARedisThatStartsEmpty(t *testing.T) {
	pool := newBank(t)
	old, fresh := miniredis.RunT(t), miniredis.RunT(t)
	key := newKey("1")
	for i, server := range []*miniredis.Miniredis{old, fresh, fresh, old} {
		if v, replayed, err := Do(t.Context(), newCoordinator(t, server.Addr()), pool, key, withdraw("1", 10)); v != 990 || replayed != (i > 0) || err != nil {
			t.Errorf("call %d: %d, %v, %v", i, v, replayed, err)
		}
	}
}

// Work that ends its transaction itself is told so, and what it did counts as it left it.
func TestWorkThatCommits(t *testing.T) {
	bank := newBank(t)
	_, c := newRedis(t)
	conn, err := bank.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for name, db := range map[string]Beginner{"pool": bank, "connection": conn.Conn()} {
		key := newKey("")
		_, _, err := Do(t.Context(), c, db, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) { return 0, tx.Commit(ctx) })
		if !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Lookup(t.Context(), bank, key); !errors.Is(err, coordinator.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if v, _, err := Do(t.Context(), c, db, key, withdraw("1", 10)); v != 990 && v != 980 || err != nil {
			t.Errorf("%s: %d, %v", name, v, err)
		}
	}
	db := stdlib.OpenDBFromPool(bank)
	_, _, err = DoSQL(t.Context(), c, db, newKey(""), func(ctx context.Context, tx *sql.Tx, l *Lease) (int, error) { return 0, tx.Commit() })
	if !errors.Is(err, coordinator.ErrInvalid) {
		t.Error(err)
	}
}

// The first statement goes out with the BEGIN, and the last one with the COMMIT.
func TestDoAddsNoRoundTrip(t *testing.T) {
	bank := newBank(t)
	_, c := newRedis(t)
	var writes atomic.Int64
	pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) {
		config.MaxConns = 1
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &counted{conn, &writes}, err
		}
	})
	for i := range 3 {
		before := writes.Load()
		if _, _, err := Do(t.Context(), c, pool, newKey("1"), withdraw("1", 10)); err != nil {
			t.Fatal(err)
		}
		if n := writes.Load() - before; i > 0 && n != 3 { // the first prepares its statements
			t.Errorf("%d round trips", n)
		}
	}
}

type counted struct {
	net.Conn
	writes *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// The transaction that work gets can do what pgx's own can.
func TestWorkHasAWholeTransaction(t *testing.T) {
	bank := newBank(t)
	_, c := newRedis(t)
	conn, err := bank.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for name, db := range map[string]Beginner{"pool": bank, "connection": conn.Conn(), "wrapped": struct{ Beginner }{bank}} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Do(t.Context(), c, db, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
				inner, err := tx.Begin(ctx)
				if err != nil {
					return 0, err
				}
				if _, err := withdraw("1", 500)(ctx, inner, l); err != nil {
					return 0, err
				}
				if err := inner.Rollback(ctx); err != nil {
					return 0, err
				}
				if err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { _, err := withdraw("1", 1)(ctx, inner, l); return err }); err != nil {
					return 0, err
				}
				large := tx.LargeObjects()
				id, err := large.Create(ctx, 0)
				if err != nil {
					return 0, err
				}
				if err := large.Unlink(ctx, id); err != nil {
					return 0, err
				}
				if n, err := tx.CopyFrom(ctx, pgx.Identifier{"accounts"}, []string{"id", "balance"}, pgx.CopyFromRows([][]any{{name, 1}})); n != 1 || err != nil {
					return 0, fmt.Errorf("%d, %w", n, err)
				}
				if _, err := tx.Prepare(ctx, "named "+name, "select 1"); err != nil {
					return 0, err
				}
				var batch pgx.Batch
				batch.Queue("select 1")
				if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
					return 0, err
				}
				rows, err := tx.Query(ctx, "select 1")
				if err != nil {
					return 0, err
				}
				rows.Close()
				if tx.Conn().PgConn().TxStatus() != 'T' {
					return 0, errors.New("no transaction")
				}
				_, err = tx.Exec(ctx, `INSERT INTO accounts VALUES ($1, 2)`, name+"!")
				return 0, err
			})
			if err != nil {
				t.Error(err)
			}
			if n := number(t, bank, `SELECT count(*) FROM accounts WHERE id IN ($1, $1 || '!')`, name); n != 2 {
				t.Errorf("%d rows", n)
			}
		})
	}
	if got := balance(t, bank, "1"); got != 997 {
		t.Errorf("balance %d", got)
	}
	// An error in the middle leaves it usable for nothing but a rollback, and the connection is as new.
	for range 3 {
		_, _, err := Do(t.Context(), c, bank, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
			_, _ = tx.Exec(ctx, "select 1/0")
			_ = tx.LargeObjects()
			if _, err := tx.Begin(ctx); err == nil {
				t.Error("a savepoint in a transaction that has failed")
			}
			return 0, nil
		})
		if err == nil {
			t.Error("committed")
		}
	}
	if _, _, err := Do(t.Context(), c, bank, newKey("1"), withdraw("1", 1)); err != nil {
		t.Error(err)
	}
}

// Where Redis has forgotten a key, a wrong request that comes first does not keep the right one out (P4).
func TestWrongRequestAfterLoss(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	for _, resource := range []string{"", "1"} {
		key := newKey(resource)
		ask := func(asked string) (int64, bool, error) {
			return Do(t.Context(), c, pool, key, withdraw("1", 10), Fingerprint([]byte(asked)))
		}
		want, _, err := ask("right")
		if err != nil {
			t.Fatal(err)
		}
		replays := func(when string) {
			t.Helper()
			if v, replayed, err := ask("right"); v != want || !replayed || err != nil {
				t.Errorf("resource %q, %s: %d, %v, %v", resource, when, v, replayed, err)
			}
			if v, replayed, err := ask("right"); v != want || !replayed || err != nil { // whatever the first has done to Redis
				t.Errorf("resource %q, %s, again: %d, %v, %v", resource, when, v, replayed, err)
			}
			if _, err := c.Result(t.Context(), key, []byte("right")); err != nil {
				t.Errorf("resource %q, %s, Redis: %v", resource, when, err)
			}
		}
		server.FlushAll()
		if _, _, err := ask("wrong"); !errors.Is(err, coordinator.ErrMismatch) {
			t.Errorf("resource %q: %v", resource, err)
		}
		replays("after a wrong one")

		// Who died before it could take that back.
		server.FlushAll()
		if _, err := c.Claim(t.Context(), key, coordinator.Fingerprint([]byte("wrong"))); err != nil {
			t.Fatal(err)
		}
		replays("under a wrong one")

		// A wrong one does not cost Redis what it has.
		if _, _, err := ask("wrong"); !errors.Is(err, coordinator.ErrMismatch) {
			t.Errorf("resource %q: %v", resource, err)
		}
		if _, err := c.Result(t.Context(), key, []byte("right")); err != nil {
			t.Errorf("resource %q: %v", resource, err)
		}
	}
	if got := balance(t, pool, "1"); got != 980 {
		t.Errorf("%d are left", got)
	}
}

// A connection that Do has given back is another caller's: what that one has begun on it is not rolled back.
func TestDoLeavesOthersTransactionsAlone(t *testing.T) {
	bank := newBank(t)
	_, c := newRedis(t)
	pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) { config.MaxConns = 2 })
	first, err := pool.Acquire(t.Context()) // so that who waits gets the connection of Do, the moment that it is given back
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	type begun struct {
		tx  pgx.Tx
		err error
	}
	other := make(chan begun, 1)
	v, replayed, err := Do(t.Context(), c, pool, newKey(""), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		go func() {
			tx, err := pool.Begin(t.Context())
			if err == nil {
				_, err = tx.Exec(t.Context(), `UPDATE accounts SET balance = 1 WHERE id = '9'`)
			}
			other <- begun{tx, err}
			first.Release() // for Do, which asks the ledger now
		}()
		time.Sleep(100 * time.Millisecond)                                                                     // that one waits by now
		_, err := (&completion{place: DefaultSchema, keep: defaultKeep}).write(ctx, bank, nil, l, []byte("7")) // somebody else was faster
		return 0, err
	})
	if v != 7 || !replayed || err != nil {
		t.Error(v, replayed, err)
	}
	b := <-other
	if b.err != nil {
		t.Fatal(b.err)
	}
	if err := b.tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	if got := balance(t, bank, "9"); got != 1 {
		t.Errorf("committed, and the balance is %d", got)
	}
}
