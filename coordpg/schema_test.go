package coordpg

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator"
)

func TestMigrate(t *testing.T) {
	pool := newPool(t, newDatabase(t))
	for _, schema := range []string{DefaultSchema, "user"} { // a reserved word
		all, err := Status(t.Context(), pool, InSchema(schema))
		if err != nil || len(all) == 0 || !all[0].AppliedAt.IsZero() {
			t.Fatal(all, err)
		}
		var taken []Migration
		var mu sync.Mutex
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				steps, err := Migrate(t.Context(), pool, InSchema(schema))
				mu.Lock()
				defer mu.Unlock()
				taken = append(taken, steps...)
				if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if len(taken) != len(all) {
			t.Errorf("%d steps were taken of %d", len(taken), len(all))
		}
		all, err = Status(t.Context(), pool, InSchema(schema))
		for i, m := range all {
			if err != nil || m.Version != i+1 || m.AppliedAt.IsZero() || m.Name == "" {
				t.Error(m, err)
			}
		}
		_, c := newRedis(t)
		exec(t, pool, `CREATE TABLE IF NOT EXISTS accounts (id text, balance bigint)`)
		for range 2 {
			if _, _, err := Do(t.Context(), c, pool, coordinator.Key{ID: "x", Resource: "r"}, func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) { return 1, l.Emit(Event{Topic: "x"}) }, InSchema(schema)); err != nil {
				t.Error(err)
			}
		}
	}
	exec(t, pool, `INSERT INTO coordinator.migrations VALUES (999, 'later')`)
	if _, err := Migrate(t.Context(), pool); !errors.Is(err, ErrNewerSchema) {
		t.Error(err)
	}
	if _, err := Status(t.Context(), pool); !errors.Is(err, ErrNewerSchema) {
		t.Error(err)
	}
}

func TestWithoutTheSchema(t *testing.T) {
	pool := newPool(t, newDatabase(t))
	_, c := newRedis(t)
	_, _, err := Do(t.Context(), c, pool, newKey("1"), withdraw("1", 1))
	if err == nil || !strings.Contains(err.Error(), "coordctl pg migrate") {
		t.Error(err)
	}
	if _, err := Lookup(t.Context(), pool, newKey("1")); err == nil || !strings.Contains(err.Error(), "coordctl pg migrate") {
		t.Error(err)
	}
}
