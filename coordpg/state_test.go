package coordpg

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestLook(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	look := func() State {
		t.Helper()
		s, err := Look(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := look(); s.Alone || s.ByHand || s.Waiting != 0 || s.Overdue != 0 || !s.Oldest.IsZero() || s.Ledger.Bytes == 0 || s.Reason == "" || time.Since(s.SwitchedAt) > time.Minute {
		t.Errorf("%+v", s)
	}
	for range 2 {
		_, _, err := Do(t.Context(), c, pool, newKey("1"), func(_ context.Context, _ pgx.Tx, l *Lease) (int, error) {
			return 1, l.Emit(Event{Topic: "a"}, Event{Topic: "b"})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `UPDATE coordinator.ledger SET expires_at = now() WHERE id = (SELECT id FROM coordinator.ledger LIMIT 1)`)
	if done, err := TakeOver(t.Context(), pool, "why"); !done || err != nil {
		t.Fatal(done, err)
	}
	if s := look(); !s.Alone || !s.ByHand || s.Reason != "why" || s.Overdue != 1 || s.Waiting != 4 || time.Since(s.Oldest) > time.Minute {
		t.Errorf("%+v", s)
	}
}
