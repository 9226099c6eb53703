package faults

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator/chaos/history"
)

func databases() []Fault { return []Fault{killPostgres{}, terminateSessions{}} }

// killPostgres kills the postmaster with -9 while a transaction is under way, and starts it again.
type killPostgres struct{}

func (killPostgres) Name() string  { return "kill-postgres" }
func (killPostgres) Group() string { return Databases }

func (k killPostgres) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	if t.Postgres == nil {
		return nil, ErrUnsupported
	}
	f := history.Fault{Name: k.Name(), Effect: history.Database}
	busy, err := t.transacting(ctx)
	if err != nil || ctx.Err() != nil {
		return nil, err
	}
	if busy {
		f.Detail = "with a transaction under way"
	}
	f.Start, f.Count = history.Now(), 1
	t.Postgres.Kill()
	pause(ctx, t.between(0, t.Lease))
	kept, cancel := detached(ctx)
	defer cancel()
	if err := t.Postgres.Restart(kept); err != nil {
		return happened(f), fmt.Errorf("faults: %w", err)
	}
	return happened(f), nil
}

// transacting waits until a session is in the middle of a transaction, and says whether there is one.
func (t *Target) transacting(ctx context.Context) (bool, error) {
	n := 0
	err := t.untilSome(ctx, &n, `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL`)
	return n > 0, err
}

// terminateSessions ends those sessions that are at work, several times.
type terminateSessions struct{}

func (terminateSessions) Name() string  { return "terminate-sessions" }
func (terminateSessions) Group() string { return Databases }

func (s terminateSessions) Inject(ctx context.Context, t *Target) ([]history.Fault, error) {
	if t.Postgres == nil {
		return nil, ErrUnsupported
	}
	const times = 5
	f := history.Fault{Name: s.Name(), Effect: history.Database, Start: history.Now()}
	for range times {
		n := 0
		err := t.untilSome(ctx, &n, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'`)
		if f.Count += int64(n); err != nil {
			return happened(f), err
		}
		if !pause(ctx, t.between(10*time.Millisecond, 100*time.Millisecond)) {
			break
		}
	}
	if f.Count == 0 {
		return nil, ErrNothing
	}
	return happened(f), nil
}

// untilSome asks for a number until it is not 0, or long enough.
func (t *Target) untilSome(ctx context.Context, n *int, query string) error {
	const (
		patience = time.Second
		every    = time.Millisecond
	)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, t.Postgres.URL())
	if err == nil {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for more := true; more && err == nil && *n == 0; more = pause(ctx, every) {
			err = conn.QueryRow(ctx, query).Scan(n)
		}
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("faults: ask PostgreSQL who is at work: %w", err)
	}
	return nil // the time is over
}
