package coordpg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
)

// machine is a process of a service, as far as its servers can tell: its connections, which all die at once, or all stand still. It is no
// process of its own: those that SIGKILL ends are in crash_test.go.
// What kills it is one of its own writes, so that it dies between any two steps, before the server has got what it wrote or after.
type machine struct {
	c     *coordinator.Coordinator
	redis *redis.Client
	pool  *pgxpool.Pool
	fate  *fate
}

type fate struct {
	mu       sync.Mutex
	conns    map[net.Conn]bool
	writes   int           // until it happens; 0: nothing is planned
	stall    time.Duration // 0: it dies
	deliver  bool          // that write still arrives
	dead     bool
	died     chan struct{} // closed then
	awake    chan struct{} // closed unless it stands still
	happened func(stall bool)
}

var errDead = errors.New("this process is dead")

type wire struct {
	net.Conn
	fate *fate
}

func (f *fate) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	f.mu.Lock()
	dead := f.dead
	f.mu.Unlock()
	if dead {
		return nil, errDead
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		conn.Close()
		return nil, errDead
	}
	f.conns[conn] = true
	return &wire{conn, f}, nil
}

// plan lets something happen at the n-th write from now.
func (f *fate) plan(n int, stall time.Duration, deliver bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes == 0 {
		f.writes, f.stall, f.deliver = n, stall, deliver
	}
}

// step is before each write: whether that still arrives.
func (f *fate) step() (deliver bool, after func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return false, nil, errDead
	}
	if f.writes == 0 {
		return true, nil, nil
	}
	if f.writes--; f.writes > 0 {
		return true, nil, nil
	}
	f.happened(f.stall > 0)
	if f.stall > 0 {
		awake := make(chan struct{})
		f.awake = awake
		time.AfterFunc(f.stall, func() { close(awake) })
		return true, nil, nil
	}
	return f.deliver, f.die, nil
}

func (f *fate) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dead {
		f.dead = true
		close(f.died)
	}
	for conn := range f.conns {
		conn.Close()
	}
}

func (f *fate) wait() {
	f.mu.Lock()
	awake := f.awake
	f.mu.Unlock()
	<-awake
}

func (w *wire) Write(b []byte) (int, error) {
	deliver, after, err := w.fate.step()
	if err != nil {
		return 0, err
	}
	w.fate.wait()
	n := 0
	if deliver {
		n, err = w.Conn.Write(b)
	}
	if after != nil {
		after()
		return n, errDead
	}
	return n, err
}

func (w *wire) Read(b []byte) (int, error) {
	w.fate.wait()
	n, err := w.Conn.Read(b)
	w.fate.wait() // what has arrived is looked at later
	return n, err
}

func (w *wire) Close() error {
	w.fate.mu.Lock()
	delete(w.fate.conns, w.Conn)
	w.fate.mu.Unlock()
	return w.Conn.Close()
}

func boot(redisAddr, url string, happened func(bool)) (*machine, error) {
	f := &fate{conns: map[net.Conn]bool{}, died: make(chan struct{}), awake: make(chan struct{}), happened: happened}
	close(f.awake)
	m := &machine{fate: f}
	m.redis = redis.NewClient(&redis.Options{Addr: redisAddr, Dialer: f.dial, MaxRetries: -1, DialerRetries: 1, PoolSize: 3, ContextTimeoutEnabled: true})
	var err error
	if m.c, err = coordinator.New(m.redis, coordinator.WithLease(200*time.Millisecond), coordinator.WithTimeout(time.Second)); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.ConnConfig.DialFunc = 3, f.dial
	m.pool, err = pgxpool.NewWithConfig(context.Background(), config)
	return m, err
}

// stop ends it for good, dead or not.
func (m *machine) stop() {
	m.fate.wait()
	m.fate.die()
	m.c.Close()
	m.redis.Close()
	m.pool.Close()
}

// storm is what a run of many operations saw.
type storm struct {
	crashes, stalls, flushes, calls, replays atomic.Int64
}

// weather lets a number of clients do so many operations, each until it has its answer and some of them twice, on machines that crash and
// stall, while Redis loses everything now and then.
func weather(t *testing.T, operations int, pool *pgxpool.Pool, do func(context.Context, *machine, coordinator.Key) (bool, error)) *storm {
	server := redistest.Run(t)
	var s storm
	happened := func(stall bool) {
		if stall {
			s.stalls.Add(1)
		} else {
			s.crashes.Add(1)
		}
	}
	url := pool.Config().ConnString()
	ctx, stop := context.WithCancel(t.Context())
	var flushing sync.WaitGroup
	flushing.Go(func() {
		admin := server.Client(nil)
		defer admin.Close()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if admin.FlushAll(ctx).Err() == nil {
					s.flushes.Add(1)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	const clients = 8
	var next atomic.Int64
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			var m *machine
			defer func() {
				if m != nil {
					m.stop()
				}
			}()
			for i := next.Add(1); i <= int64(operations); i = next.Add(1) {
				key := coordinator.Key{Scope: "storm", ID: fmt.Sprint(i), Resource: fmt.Sprint("account/", i%40+1)}
				if i%2 == 0 {
					key.Resource = ""
				}
				answers := 1
				if i%5 == 0 {
					answers = 2 // the client lost the first
				}
				for begun := time.Now(); answers > 0; {
					if m == nil {
						var err error
						if m, err = boot(server.Addr(), url, happened); err != nil {
							t.Error(err)
							return
						}
					}
					if rand.IntN(25) == 0 {
						stall := time.Duration(0)
						if rand.IntN(4) == 0 {
							stall = 400 * time.Millisecond
						}
						m.fate.plan(1+rand.IntN(10), stall, rand.IntN(2) == 0)
					}
					s.calls.Add(1)
					type answer struct {
						replayed bool
						err      error
					}
					answered, on := make(chan answer, 1), m
					group.Go(func() {
						replayed, err := do(ctx, on, key)
						answered <- answer{replayed, err}
					})
					var a answer
					select {
					case a = <-answered:
					case <-m.fate.died: // nobody hears what becomes of it
						group.Go(on.stop)
						m, a.err = nil, errDead
					}
					if a.err == nil {
						if answers--; a.replayed {
							s.replays.Add(1)
						}
						continue
					}
					if time.Since(begun) > time.Minute {
						t.Errorf("operation %d does not end: %v", i, a.err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	stop()
	flushing.Wait()
	return &s
}

// EnvOperations is how many operations the long test does; its own target does all.
const envOperations = "COORDPG_OPERATIONS"

// Each operation is in the business table exactly once with the ledger, and without it is not: crashes between any two steps,
// stalls past the lease, and a Redis that loses everything ten times a second.
func TestManyOperationsThroughAStorm(t *testing.T) {
	operations := 2000
	if text := os.Getenv(envOperations); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("%s=%s is not a number of operations", envOperations, text)
		}
		operations = n
	}
	effect := func(ctx context.Context, tx pgx.Tx, key coordinator.Key) error {
		_, err := tx.Exec(ctx, `INSERT INTO effects (operation) VALUES ($1)`, key.ID)
		return err
	}
	count := func(pool *pgxpool.Pool) (once, more, none int64) {
		exec(t, pool, `CREATE TABLE times AS SELECT operation, count(*) AS n FROM effects GROUP BY operation`)
		once = number(t, pool, `SELECT count(*) FROM times WHERE n = 1`)
		more = number(t, pool, `SELECT count(*) FROM times WHERE n > 1`)
		return once, more, int64(operations) - once - more
	}
	report := func(t *testing.T, s *storm, once, more, none int64) {
		t.Logf("%d operations in %d calls, %d replays, %d crashes, %d stalls, %d times FLUSHALL: %d took place once, %d more than once, %d not at all",
			operations, s.calls.Load(), s.replays.Load(), s.crashes.Load(), s.stalls.Load(), s.flushes.Load(), once, more, none)
		if s.crashes.Load() < int64(operations/100) || s.stalls.Load() < int64(operations/500) || s.flushes.Load() < 3 || s.replays.Load() == 0 {
			t.Error("too little happened for this to show anything")
		}
	}
	t.Run("with the ledger", func(t *testing.T) {
		pool := newBank(t)
		exec(t, pool, `CREATE TABLE effects (operation text NOT NULL)`)
		s := weather(t, operations, pool, func(ctx context.Context, m *machine, key coordinator.Key) (bool, error) {
			_, replayed, err := Do(ctx, m.c, m.pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (int64, error) {
				if err := effect(ctx, tx, key); err != nil {
					return 0, err
				}
				return int64(l.Token()), nil
			}, WaitUpTo(time.Second), impatient)
			return replayed, err
		})
		once, more, none := count(pool)
		report(t, s, once, more, none)
		if once != int64(operations) {
			t.Error("not each of them exactly once")
		}
		if n := number(t, pool, `SELECT count(*) FROM coordinator.ledger`); n != int64(operations) {
			t.Errorf("the ledger has %d", n)
		}
	})
	t.Run("without it", func(t *testing.T) {
		pool := newBank(t)
		exec(t, pool, `CREATE TABLE effects (operation text NOT NULL)`)
		s := weather(t, operations, pool, func(ctx context.Context, m *machine, key coordinator.Key) (bool, error) {
			_, replayed, err := coordinator.Do(ctx, m.c, key, func(ctx context.Context, l *coordinator.Lease) (int64, error) {
				return int64(l.Token()), pgx.BeginFunc(ctx, m.pool, func(tx pgx.Tx) error { return effect(ctx, tx, key) })
			}, coordinator.WaitUpTo(time.Second))
			return replayed, err
		})
		once, more, none := count(pool)
		report(t, s, once, more, none)
		if more == 0 {
			t.Error("the ledger makes no difference: this test shows nothing")
		}
	})
}
