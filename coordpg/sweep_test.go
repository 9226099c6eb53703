package coordpg

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/onceward/coordinator"
)

func TestSweep(t *testing.T) {
	pool := newBank(t)
	exec(t, pool, `INSERT INTO coordinator.ledger (expires_at, token, attempt, failed, owner, scope, id, resource, fingerprint, payload)
		SELECT now() + CASE WHEN i % 3 = 0 THEN interval '1 day' ELSE interval '-1 second' END, 1, 1, false, '', '', convert_to(i::text, 'UTF8'), '', '', '' FROM generate_series(1, 3000) AS i`)
	exec(t, pool, `INSERT INTO coordinator.fences (resource, token, owner, admitted, seen_at)
		SELECT convert_to(i::text, 'UTF8'), 1, '', pg_current_xact_id(), now() - CASE WHEN i % 5 = 0 THEN interval '1 hour' ELSE interval '40 days' END FROM generate_series(1, 1000) AS i`)
	// Rows that somebody holds are passed by.
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `SELECT FROM coordinator.ledger WHERE id = '1' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	if err := Admit(t.Context(), tx, "1", grant(2, 2)); err != nil {
		t.Fatal(err)
	}
	calls := 0
	done, err := Sweep(t.Context(), pool, SweepBatch(64), SweepProgress(func(s Swept) { calls++ }))
	if err != nil || done.Outcomes != 1999 || done.Fences != 799 || calls < 1999/64 {
		t.Errorf("%+v in %d batches, %v", done, calls, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	done, err = Sweep(t.Context(), pool)
	if err != nil || done.Outcomes != 1 || done.Fences != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if a, b := number(t, pool, `SELECT count(*) FROM coordinator.ledger`), number(t, pool, `SELECT count(*) FROM coordinator.fences`); a != 1000 || b != 201 {
		t.Errorf("%d outcomes and %d marks are left", a, b)
	}
	for name, opt := range map[string]SweepOption{"nil": nil, "fences": KeepFences(time.Minute), "batch": SweepBatch(0), "schema": SweepIn("?")} {
		if _, err := Sweep(t.Context(), pool, opt); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeepSwept(t *testing.T) {
	pool := newBank(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- KeepSwept(ctx, pool, time.Second, func(err error) { t.Error(err) }) }()
	for range 2 {
		exec(t, pool, `INSERT INTO coordinator.ledger (expires_at, token, attempt, failed, owner, scope, id, resource, fingerprint, payload) VALUES (now(), 1, 1, false, '', '', 'a', '', '', '')`)
		eventually(t, func() error {
			if number(t, pool, `SELECT count(*) FROM coordinator.ledger`) != 0 {
				return errors.New("not swept")
			}
			return nil
		})
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := KeepSwept(t.Context(), pool, 0, nil); !errors.Is(err, coordinator.ErrInvalid) {
		t.Error(err)
	}
}
