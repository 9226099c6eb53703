package coordpg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/faultproxy"
	"github.com/onceward/coordinator/internal/pgtest"
)

// takeOver and handBack switch by hand, and have s look at once.
func takeOver(ctx context.Context, s *Standby) (bool, error) {
	done, err := TakeOver(ctx, s.db, "test")
	return done, errors.Join(err, s.look(ctx))
}

func handBack(ctx context.Context, s *Standby) (bool, error) {
	done, err := HandBack(ctx, s.db, "test")
	return done, errors.Join(err, s.look(ctx))
}

func newStandby(t *testing.T, c *coordinator.Coordinator, pool *pgxpool.Pool, opts ...StandbyOption) *Standby {
	t.Helper()
	s, err := NewStandby(c, pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runStandby runs it until the test ends.
func runStandby(t *testing.T, s *Standby) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func switched(t *testing.T, changed bool, err error) {
	t.Helper()
	if !changed || err != nil {
		t.Fatal("not switched:", changed, err)
	}
}

// In both directions, by hand: the side that does not grant is refused, what was done stays done, tokens rise.
func TestSwitchByHand(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	s := newStandby(t, c, pool)
	other := newStandby(t, c, pool) // of a process that is not told
	var tokens []coordinator.Token
	work := func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		tokens = append(tokens, l.Token())
		if g, ok := coordinator.GrantFrom(ctx); !ok || g != l.Grant() {
			return 0, errors.New("the context does not carry the grant")
		}
		if (l.Redis() == nil) != s.Alone() {
			return 0, errors.New("granted by the wrong side")
		}
		return withdraw("1", 10)(ctx, tx, l)
	}
	before, during, after := newKey("1"), newKey("1"), newKey("1")
	do := func(key coordinator.Key, s *Standby, want int64, again bool) {
		t.Helper()
		if v, replayed, err := Do(t.Context(), c, pool, key, work, WithStandby(s), Fingerprint([]byte("f"))); v != want || replayed != again || err != nil {
			t.Errorf("%s: %d, %v, %v; not %d", key.ID, v, replayed, err, want)
		}
	}
	do(before, s, 990, false)
	done, err := takeOver(t.Context(), s)
	switched(t, done, err)
	if done, err := takeOver(t.Context(), s); done || err != nil {
		t.Error("taken over twice:", done, err)
	}
	do(during, other, 980, false)
	if !other.Alone() {
		t.Error("the other was not told")
	}
	do(during, s, 980, true)
	server.FlushAll()
	do(before, s, 990, true)
	if _, _, err := Do(t.Context(), c, pool, newKey("1"), work); !errors.Is(err, coordinator.ErrLeaseLost) {
		t.Errorf("without a standby: %v", err)
	}
	if _, _, err := Do(t.Context(), c, pool, during, work, WithStandby(s), Fingerprint([]byte("g"))); !errors.Is(err, coordinator.ErrMismatch) {
		t.Errorf("another fingerprint: %v", err)
	}
	lease, err := c.Claim(t.Context(), newKey("1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error { return Complete(t.Context(), tx, lease, nil) }); !errors.Is(err, coordinator.ErrLeaseLost) {
		t.Errorf("completed by hand: %v", err)
	}
	lease.Release(t.Context())
	done, err = handBack(t.Context(), s)
	switched(t, done, err)
	do(after, other, 970, false)
	do(during, s, 980, true)
	if _, err := c.Result(t.Context(), during, []byte("f")); err != nil {
		t.Errorf("Redis was not told: %v", err)
	}
	for i := 1; i < len(tokens); i++ {
		if tokens[i] <= tokens[i-1] {
			t.Errorf("tokens %v", tokens)
		}
	}
}

// By itself: Redis goes, the database takes over and nobody gets an error; Redis comes back and grants again.
func TestRedisAwayAndBack(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t, coordinator.WithTimeout(time.Second))
	s := newStandby(t, c, pool, AwayFor(500*time.Millisecond), BackFor(1100*time.Millisecond), Every(20*time.Millisecond)) // longer than a probe takes on a busy machine
	runStandby(t, s)
	do := func() bool {
		t.Helper()
		alone := false
		_, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			alone = l.Redis() == nil
			return withdraw("1", 1)(ctx, tx, l)
		}, WithStandby(s))
		if err != nil {
			t.Error(err)
		}
		return alone
	}
	done := int64(0)
	for round := range 2 {
		if do() {
			t.Error("the database grants while Redis is there")
		}
		server.Close()
		if !do() {
			t.Error("Redis grants while it is away")
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		done += 2
		eventually(t, func() error {
			done++
			if do() {
				return fmt.Errorf("round %d: the database grants on", round)
			}
			return nil
		})
	}
	if got := balance(t, pool, "1"); got != 1000-done {
		t.Errorf("balance %d after %d", got, done)
	}
}

// The same where Redis hangs, so that nobody knows whether it has granted.
func TestRedisHangs(t *testing.T) {
	pool := newBank(t)
	proxy, err := faultproxy.New(miniredis.RunT(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	c := newCoordinator(t, proxy.Addr(), coordinator.WithTimeout(300*time.Millisecond))
	s := newStandby(t, c, pool, AwayFor(500*time.Millisecond), BackFor(1100*time.Millisecond), Every(20*time.Millisecond)) // longer than a probe takes on a busy machine
	runStandby(t, s)
	for _, alone := range []bool{false, true, true} {
		_, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			if (l.Redis() == nil) != alone {
				return 0, errors.New("granted by the wrong side")
			}
			return withdraw("1", 1)(ctx, tx, l)
		}, WithStandby(s))
		if err != nil {
			t.Error(err)
		}
		proxy.BlackHole()
	}
}

// While one process cannot reach Redis nobody hands back.
func TestNobodyHandsBackWhileOneCannotReachRedis(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	gone := miniredis.RunT(t)
	cut := newCoordinator(t, gone.Addr())
	gone.Close()
	one := newStandby(t, cut, pool, AwayFor(50*time.Millisecond), BackFor(1200*time.Millisecond), Every(20*time.Millisecond))
	two := newStandby(t, c, pool, AwayFor(50*time.Millisecond), BackFor(1200*time.Millisecond), Every(20*time.Millisecond))
	runStandby(t, one)
	eventually(t, func() error {
		if !one.Alone() {
			return errors.New("not taken over")
		}
		return nil
	})
	runStandby(t, two)
	epoch := number(t, pool, `SELECT last_value FROM coordinator.side`)
	begun := time.Now()
	eventually(t, func() error {
		if time.Since(begun) < 3*time.Second {
			return errors.New("too early")
		}
		return nil
	})
	if now := number(t, pool, `SELECT last_value FROM coordinator.side`); now != epoch {
		t.Errorf("handed over %d times", now-epoch)
	}
}

// A switch waits for the transactions of the other side, and new ones wait for the switch.
func TestSwitchWaitsForTransactions(t *testing.T) {
	for i := range 4 {
		toDatabase, first, after := i%2 == 0, []string{"1", ""}[i/2], []string{"2", ""}[i/2]
		t.Run(fmt.Sprintf("to the database %v, resource %q", toDatabase, first), func(t *testing.T) {
			pool := newBank(t)
			_, c := newRedis(t)
			s := newStandby(t, c, pool)
			if !toDatabase {
				done, err := takeOver(t.Context(), s)
				switched(t, done, err)
			}
			working, goOn, firstEnded := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			letGo := sync.OnceFunc(func() { close(goOn) })
			t.Cleanup(letGo) // also where the test fails before that
			var over atomic.Bool
			go func() {
				_, _, err := Do(t.Context(), c, pool, newKey(first), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
					close(working)
					<-goOn
					over.Store(true)
					return withdraw("1", 10)(ctx, tx, l)
				}, WithStandby(s))
				firstEnded <- err
			}()
			<-working
			handed := make(chan error, 1)
			go func() {
				var done bool
				var err error
				if toDatabase {
					done, err = takeOver(t.Context(), s)
				} else {
					done, err = handBack(t.Context(), s)
				}
				if !done && err == nil {
					err = errors.New("not handed over")
				}
				handed <- err
			}()
			blocked(t, pool, 1)
			second := make(chan error, 1)
			go func() {
				_, _, err := Do(t.Context(), c, pool, newKey(after), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
					if !over.Load() {
						return 0, errors.New("both sides grant")
					}
					if (l.Redis() == nil) != toDatabase {
						return 0, errors.New("the wrong side grants")
					}
					return withdraw("2", 10)(ctx, tx, l)
				}, WithStandby(s))
				second <- err
			}()
			blocked(t, pool, 2)
			letGo()
			for name, ended := range map[string]chan error{"first": firstEnded, "switch": handed, "second": second} {
				if err := <-ended; err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// Callers of both sides at once while the sides change: of one resource at most one works at any moment, and every
// operation takes place once.
func TestNeverBothSides(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	const workers, each, accounts = 6, 60, 3
	var running sync.Map // fence domain to *atomic.Int64
	var group sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	flips := 0
	var flipping sync.WaitGroup
	flipping.Go(func() {
		s := newStandby(t, c, pool)
		for ctx.Err() == nil {
			if done, err := takeOver(ctx, s); err == nil && done {
				flips++
			}
			if done, err := handBack(ctx, s); err == nil && done {
				flips++
			}
		}
	})
	var alone atomic.Int64
	for w := range workers {
		c := newCoordinator(t, server.Addr())
		s := newStandby(t, c, pool)
		group.Go(func() {
			for i := range each {
				account := rand.IntN(accounts)
				id := fmt.Sprint(account + 1)
				key := coordinator.Key{ID: fmt.Sprint("both ", w/2, " ", i, " ", id), Resource: "account/" + id} // some are asked for twice
				if i%2 == 0 {
					key.Resource = ""
				}
				domain := key.Resource + "/" + strings.Repeat(key.ID, 1-min(1, len(key.Resource)))
				counter, _ := running.LoadOrStore(domain, new(atomic.Int64))
				working := counter.(*atomic.Int64)
				work := func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
					if working.Add(1) != 1 {
						t.Error("two work on one resource, or key")
					}
					defer working.Add(-1)
					if l.Redis() == nil {
						alone.Add(1)
					}
					return withdraw(id, 1)(ctx, tx, l)
				}
				eventually(t, func() error {
					_, _, err := Do(ctx, c, pool, key, work, WithStandby(s), WaitUpTo(time.Second))
					return err
				})
			}
		})
	}
	group.Wait()
	stop()
	flipping.Wait()
	entries := number(t, pool, `SELECT count(*) FROM coordinator.ledger`)
	if sum := number(t, pool, `SELECT sum(1000 - balance)::bigint FROM accounts`); sum != entries {
		t.Errorf("%d taken by %d operations", sum, entries)
	}
	t.Logf("%d operations, %d granted by the database, %d switches", entries, alone.Load(), flips)
	if flips < 4 || alone.Load() == 0 || alone.Load() == entries {
		t.Error("this test shows nothing")
	}
}

// Where the database grants: one holder at a time, the others are told or wait, and a holder that stands still is
// replaced, after its context has ended (P6).
func TestDatabaseGrants(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	s := newStandby(t, c, pool)
	done, err := takeOver(t.Context(), s)
	switched(t, done, err)
	key, working, goOn := newKey("1"), make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(letGo)
	ended := make(chan error, 1)
	go func() {
		_, _, err := Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			close(working)
			<-goOn
			return withdraw("1", 10)(ctx, tx, l)
		}, WithStandby(s))
		ended <- err
	}()
	<-working
	for _, k := range []coordinator.Key{key, newKey("1")} {
		if _, _, err := Do(t.Context(), c, pool, k, withdraw("1", 10), WithStandby(s)); !errors.Is(err, coordinator.ErrInProgress) {
			t.Error(err)
		}
		if _, _, err := Do(t.Context(), c, pool, k, withdraw("1", 10), WithStandby(s), WaitUpTo(50*time.Millisecond)); !errors.Is(err, coordinator.ErrInProgress) {
			t.Error(err)
		}
	}
	if _, _, err := Do(t.Context(), c, pool, newKey("2"), withdraw("2", 10), WithStandby(s)); err != nil {
		t.Errorf("another resource: %v", err)
	}
	waiter := make(chan error, 1)
	go func() {
		v, replayed, err := Do(t.Context(), c, pool, key, withdraw("1", 10), WithStandby(s), WaitUpTo(10*time.Second))
		if v != 990 || !replayed {
			err = fmt.Errorf("%d, %v, %w", v, replayed, err)
		}
		waiter <- err
	}()
	blocked(t, pool, 1)
	letGo()
	if err := errors.Join(<-ended, <-waiter); err != nil {
		t.Error(err)
	}

	// Who has waited gets a whole lease.
	holding, held := make(chan struct{}), make(chan error, 1)
	go func() {
		_, _, err := Do(t.Context(), c, pool, newKey("3"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
			close(holding)
			time.Sleep(time.Second)
			return 0, nil
		}, WithStandby(s))
		held <- err
	}()
	<-holding
	if _, _, err := Do(t.Context(), c, pool, newKey("3"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
		time.Sleep(50 * time.Millisecond)
		return 0, context.Cause(ctx)
	}, WithStandby(s), LeaseFor(900*time.Millisecond), WaitUpTo(10*time.Second)); err != nil {
		t.Errorf("after a wait: %v", err)
	}
	if err := <-held; err != nil {
		t.Error(err)
	}

	var contextEnded atomic.Int64 // ns since 1970
	var replaced time.Time
	stuck := make(chan struct{})
	go func() {
		_, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
			close(stuck)
			<-ctx.Done()
			contextEnded.Store(time.Now().UnixNano())
			if !errors.Is(context.Cause(ctx), coordinator.ErrLeaseLost) {
				return 0, fmt.Errorf("the cause is %w", context.Cause(ctx))
			}
			<-t.Context().Done() // and does not notice
			return 0, nil
		}, WithStandby(s), LeaseFor(2*time.Second)) // a tenth of it is what the context is before the server
		ended <- err
	}()
	<-stuck
	_, _, err = Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		replaced = time.Now()
		return withdraw("1", 10)(ctx, tx, l)
	}, WithStandby(s), WaitUpTo(10*time.Second))
	if over := time.Unix(0, contextEnded.Load()); err != nil || contextEnded.Load() == 0 || !over.Before(replaced) {
		t.Errorf("%v; the context ended %v before", err, replaced.Sub(over))
	}
}

// The side is safe from a crash of the database.
func TestSideSurvivesACrash(t *testing.T) {
	server := pgtest.Run(t)
	pool := newPool(t, server.URL())
	if _, err := Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	_, c := newRedis(t)
	s := newStandby(t, c, pool)
	alone := false
	for i := range 4 {
		for range i + 1 { // several between two crashes, and so with several states of the sequence's log
			var done bool
			var err error
			if alone = !alone; alone {
				done, err = takeOver(t.Context(), s)
			} else {
				done, err = handBack(t.Context(), s)
			}
			switched(t, done, err)
		}
		server.Kill()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return s.look(t.Context()) })
		if s.Alone() != alone {
			t.Errorf("after crash %d the database grants: %v", i, s.Alone())
		}
	}
}

// What was taken over by hand is handed back by hand.
func TestTakenOverByHandStays(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	s := newStandby(t, c, pool, AwayFor(20*time.Millisecond), BackFor(300*time.Millisecond), Every(20*time.Millisecond))
	done, err := takeOver(t.Context(), s)
	switched(t, done, err)
	runStandby(t, s)
	begun := time.Now()
	eventually(t, func() error {
		if time.Since(begun) < time.Second {
			return errors.New("too early")
		}
		return nil
	})
	if !s.Alone() {
		t.Error("handed back")
	}
	done, err = handBack(t.Context(), s)
	switched(t, done, err)
}

func TestStandbyRefusesBadOptions(t *testing.T) {
	_, c := newRedis(t)
	for name, opt := range map[string]StandbyOption{"nil": nil, "away": AwayFor(0), "back": BackFor(0), "back before every process is heard": BackFor(time.Second), "every": Every(0), "schema": StandbyIn("?")} {
		if _, err := NewStandby(c, nil, opt); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Fences count as long as the side of their grants does: a switch waits for who was admitted, and then refuses.
func TestFencesHoldTheirSide(t *testing.T) {
	pool := newBank(t)
	guarded(t, pool)
	_, c := newRedis(t)
	s := newStandby(t, c, pool)
	lease, err := c.Claim(t.Context(), newKey("1"))
	if err != nil {
		t.Fatal(err)
	}
	pay := func(tx pgx.Tx) error { _, err := withdraw("1", 10)(t.Context(), tx, nil); return err }
	handed := make(chan error, 1)
	over := false
	if err := BeginFunc(t.Context(), pool, "account/1", lease.Grant(), func(tx pgx.Tx) error {
		go func() {
			_, err := takeOver(t.Context(), s)
			handed <- err
		}()
		blocked(t, pool, 1)
		over = true
		return pay(tx)
	}); err != nil {
		t.Error(err)
	}
	if err := <-handed; err != nil || !over {
		t.Fatal(err, over)
	}
	for name, err := range map[string]error{
		"BeginFunc": BeginFunc(t.Context(), pool, "account/1", lease.Grant(), pay),
		"Admit": inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
			return errors.Join(Admit(t.Context(), tx, "account/1", lease.Grant()), pay(tx))
		}),
		"a new resource": BeginFunc(t.Context(), pool, "account/3", lease.Grant(), pay),
	} {
		if !errors.Is(err, coordinator.ErrLeaseLost) || errors.Is(err, coordinator.ErrStaleToken) {
			t.Errorf("%s while the database grants: %v", name, err)
		}
	}
	// Work that the database has granted may ask for more resources.
	_, _, err = Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
		if err := Admit(ctx, tx, "account/2", l.Grant()); err != nil {
			return 0, err
		}
		if _, err := withdraw("2", 10)(ctx, tx, l); err != nil {
			return 0, err
		}
		return withdraw("1", 10)(ctx, tx, l)
	}, WithStandby(s))
	if err != nil {
		t.Error(err)
	}
	if a, b := balance(t, pool, "1"), balance(t, pool, "2"); a != 980 || b != 990 {
		t.Errorf("balances %d and %d", a, b)
	}
	done, err := handBack(t.Context(), s)
	switched(t, done, err)
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	mark, err := HighWater(t.Context(), pool, "account/1")
	if err != nil {
		t.Fatal(err)
	}
	next, err := c.Claim(t.Context(), newKey("1"), coordinator.MinToken(mark))
	if err != nil {
		t.Fatal(err)
	}
	if err := BeginFunc(t.Context(), pool, "account/1", next.Grant(), pay); err != nil {
		t.Error(err)
	}
}

// A transaction that nobody ends keeps the side from changing, and nobody from working.
func TestForgottenTransactionStopsNobody(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t)
	gone := miniredis.RunT(t)
	cut := newCoordinator(t, gone.Addr(), coordinator.WithTimeout(300*time.Millisecond))
	gone.Close()
	forgotten, err := c.Claim(t.Context(), newKey("2"))
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if err := Admit(t.Context(), tx, "account/2", forgotten.Grant()); err != nil {
		t.Fatal(err)
	}
	s := newStandby(t, cut, pool, AwayFor(20*time.Millisecond), BackFor(300*time.Millisecond), Every(20*time.Millisecond))
	runStandby(t, s)
	blocked(t, pool, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 3 {
		if _, _, err := Do(ctx, newCoordinator(t, server.Addr()), pool, newKey("1"), withdraw("1", 1)); err != nil {
			t.Error(err)
		}
	}
	if s.Alone() {
		t.Error("switched while a transaction of the other side lives")
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		if !s.Alone() {
			return errors.New("not taken over")
		}
		return nil
	})
}

// A switch in a transaction could not be rolled back.
func TestSwitchIsNoPartOfATransaction(t *testing.T) {
	pool := newBank(t)
	for _, hand := range []func(context.Context, Querier, string, ...Option) (bool, error){TakeOver, HandBack} {
		if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error { _, err := hand(t.Context(), tx, "test"); return err }); !errors.Is(err, coordinator.ErrInvalid) {
			t.Error(err)
		}
	}
	// Where the rest of a switch fails, the side has not changed.
	exec(t, pool, `ALTER TABLE coordinator.standby ADD CHECK (reason <> 'refused')`)
	if _, err := TakeOver(t.Context(), pool, "refused"); err == nil {
		t.Fatal("not refused")
	}
	if s, err := Look(t.Context(), pool); err != nil || s.Alone {
		t.Errorf("%+v, %v", s, err)
	}
}
