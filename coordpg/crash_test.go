package coordpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
)

// The steps at which a process is killed: each is a statement to the database or a command to Redis, before it is sent or after
// its answer. The claim is the first command to Redis, the completion the second.
var crashes = []string{
	"before redis 1", "after redis 1", "before begin", "after open(", // the first statement goes out with the begin
	"before UPDATE", "after UPDATE",
	"before ledger (", "after commit", "before redis 2", "after redis 2", // the last statement goes out with the commit
}

// A crash test is this binary again, told by its environment where to kill itself.
const (
	crashAt       = "COORDPG_CRASH_AT"
	crashPostgres = "COORDPG_CRASH_POSTGRES"
	crashRedis    = "COORDPG_CRASH_REDIS"
	crashKey      = "COORDPG_CRASH_KEY"

	crashPublish = "publish"
	crashLease   = 500 * time.Millisecond
)

func crashing() bool { return os.Getenv(crashAt) != "" }

// killer does something when its step is there for the first time: it kills this process with SIGKILL, mostly.
type killer struct {
	at       string
	act      func()
	done     bool
	commands int
}

func killed() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func (k *killer) step(when, what string) {
	if !k.done && what != "" && strings.HasPrefix(k.at, when+" ") && strings.Contains(what, strings.TrimPrefix(k.at, when+" ")) {
		k.done = true
		k.act()
	}
}

type statement struct{}

func (k *killer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	k.step("before", data.SQL)
	return context.WithValue(ctx, statement{}, data.SQL)
}

func (k *killer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	sql, _ := ctx.Value(statement{}).(string)
	k.step("after", sql)
}

func (k *killer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		k.step("before", q.SQL)
	}
	return ctx
}

func (k *killer) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if data.Err == nil {
		k.step("after", data.SQL)
	}
}

func (k *killer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (k *killer) DialHook(next redis.DialHook) redis.DialHook { return next }
func (k *killer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (k *killer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !strings.HasPrefix(cmd.Name(), "eval") {
			return next(ctx, cmd)
		}
		k.commands++
		name := fmt.Sprint("redis ", k.commands)
		k.step("before", name)
		err := next(ctx, cmd)
		if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") {
			k.commands-- // it will be sent again
			return err
		}
		k.step("after", name)
		return err
	}
}

// crash is the process that is killed.
func crash() int {
	k := &killer{at: os.Getenv(crashAt), act: killed}
	config, err := pgxpool.ParseConfig(os.Getenv(crashPostgres))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	config.ConnConfig.Tracer = k
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	client := redis.NewClient(&redis.Options{Addr: os.Getenv(crashRedis)})
	client.AddHook(k)
	c, err := coordinator.New(client, coordinator.WithLease(crashLease))
	if err == nil {
		err = pool.Ping(context.Background()) // connecting is not to take from the lease
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if k.at == crashPublish {
		r, err := NewRelay(c, pool, func(context.Context, []Event) error { killed(); return nil })
		fmt.Println("not killed:", err, r.Run(context.Background()))
		return 2
	}
	v, replayed, err := Do(context.Background(), c, pool, coordinator.Key{ID: os.Getenv(crashKey), Resource: "account/1"}, withdraw("1", 10), Claiming(coordinator.ManualRenewal()))
	fmt.Println("not killed:", v, replayed, err)
	return 2
}

// killChild runs a process that is killed at its step.
func killChild(t *testing.T, at string, pool *pgxpool.Pool, redisAddr string, key coordinator.Key) {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashAt+"="+at, crashPostgres+"="+pool.Config().ConnString(), crashRedis+"="+redisAddr, crashKey+"="+key.ID)
	out, err := cmd.CombinedOutput()
	if ended, ok := errors.AsType[*osexec.ExitError](err); !ok || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", err, out)
	}
}

// A relay that is killed while it publishes: the next one publishes the same, within a lease.
func TestKilledRelay(t *testing.T) {
	pool := newBank(t)
	server := redistest.Run(t)
	c := newCoordinator(t, server.Addr())
	emit(t, c, pool, "1", "a")
	killChild(t, crashPublish, pool, server.Addr(), coordinator.Key{})
	if n := number(t, pool, `SELECT count(*) FROM coordinator.outbox`); n != 2 {
		t.Fatalf("%d events are left", n)
	}
	b := &broker{}
	begun := time.Now()
	runRelay(t, c, pool, b.publish)
	eventually(t, func() error {
		if n := number(t, pool, `SELECT count(*) FROM coordinator.outbox`); n > 0 {
			return fmt.Errorf("%d events are left", n)
		}
		return nil
	})
	if n, took := len(b.seen()), time.Since(begun); n != 2 || took > 5*time.Second {
		t.Errorf("%d events, after %v", n, took)
	}
}

// kill -9 at every step: the operation takes place once, and the next caller gets its result, within a lease.
func TestKilledAtEveryStep(t *testing.T) {
	pool := newBank(t)
	server := redistest.Run(t)
	c := newCoordinator(t, server.Addr())
	for i, at := range crashes {
		for _, flush := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, flush %v", at, flush), func(t *testing.T) {
				key := coordinator.Key{ID: fmt.Sprint("killed ", i, flush), Resource: "account/1"}
				exec(t, pool, `UPDATE accounts SET balance = 1000`)
				killChild(t, at, pool, server.Addr(), key)
				if flush {
					if err := server.Client(nil).FlushAll(t.Context()).Err(); err != nil {
						t.Fatal(err)
					}
				}
				committed := strings.HasSuffix(at, "after commit") || strings.HasSuffix(at, "redis 2")
				v, replayed, err := Do(t.Context(), c, pool, key, withdraw("1", 10), WaitUpTo(5*time.Second))
				if v != 990 || replayed != committed || err != nil {
					t.Errorf("%d, %v, %v", v, replayed, err)
				}
				if got := balance(t, pool, "1"); got != 990 {
					t.Errorf("balance %d", got)
				}
				if _, err := c.Result(t.Context(), key, nil); err != nil {
					t.Errorf("Redis was not told: %v", err)
				}
			})
		}
	}
}
