package coordpg

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
)

// cutter is a connection that is lost at the next commit: before the server has got it, or after, so that only the answer is.
type cutter struct {
	net.Conn
	plan *cuts
	lost bool
}

type cuts struct {
	mu     sync.Mutex
	before int       // commits that do not arrive
	after  int       // commits whose answers do not arrive
	flight int       // commits that the server is still at when the connection is lost
	cut    time.Time // when one in flight was lost
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
		c.plan.mu.Unlock()
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
