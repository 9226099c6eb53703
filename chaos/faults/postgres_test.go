package faults

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/pgtest"
)

// working gives the target a server, with a session in the middle of a transaction that has written, and one that is idle.
func working(t *testing.T, to *Target) (busy, idle *pgx.Conn) {
	t.Helper()
	to.Postgres = pgtest.Run(t)
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(ctx, to.Postgres.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	busy, idle = connect(), connect()
	for _, sql := range []string{`CREATE TABLE written (n int)`, `INSERT INTO written VALUES (1)`, `BEGIN`, `INSERT INTO written VALUES (2)`} {
		if _, err := busy.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	return busy, idle
}

// written says what stands in the table.
func written(t *testing.T, to *Target) (sum int) {
	t.Helper()
	conn, err := pgx.Connect(ctx, to.Postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, `SELECT sum(n) FROM written`).Scan(&sum); err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestKillPostgres: what was committed is there afterwards, and what was under way is not.
func TestKillPostgres(t *testing.T) {
	to := target(t, 0)
	busy, idle := working(t, to)
	f := inject(t, to, "kill-postgres")
	if f.Effect != history.Database || f.Detail == "" || f.Count != 1 {
		t.Errorf("%+v", f)
	}
	for _, conn := range []*pgx.Conn{busy, idle} {
		if err := conn.Ping(ctx); err == nil {
			t.Error("a session outlives the server")
		}
	}
	if sum := written(t, to); sum != 1 {
		t.Errorf("there is %d", sum)
	}
}

func TestTerminateSessions(t *testing.T) {
	to := target(t, 0)
	busy, idle := working(t, to)
	f := inject(t, to, "terminate-sessions")
	if f.Effect != history.Database || f.Count != 1 {
		t.Errorf("%+v", f)
	}
	if err := busy.Ping(ctx); err == nil {
		t.Error("a session that was at work goes on")
	}
	if err := idle.Ping(ctx); err != nil {
		t.Errorf("an idle session was ended: %v", err)
	}
	if sum := written(t, to); sum != 1 {
		t.Errorf("there is %d", sum)
	}
}
