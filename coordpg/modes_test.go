package coordpg

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// In every way in which pgx sends statements, those for poolers between it and the server too.
func TestQueryModes(t *testing.T) {
	bank := newBank(t)
	guarded(t, bank)
	exec(t, bank, FenceColumns(pgx.Identifier{"accounts"}))
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			server, c := newRedis(t)
			pool := newPool(t, bank.Config().ConnString(), func(config *pgxpool.Config) { config.ConnConfig.DefaultQueryExecMode = mode })
			s := newStandby(t, c, pool)
			before := balance(t, bank, "1")
			for _, resource := range []string{"", "1"} {
				for _, alone := range []bool{false, true} {
					if alone {
						done, err := takeOver(t.Context(), s)
						switched(t, done, err)
					}
					key := newKey(resource)
					key.ID += "'\\\x00\xff"
					for i := range 3 {
						_, replayed, err := Do(t.Context(), c, pool, key, func(ctx context.Context, tx pgx.Tx, l *Lease) (string, error) {
							if resource == "" {
								return "it's \\ \x00", nil
							}
							n, err := FencedUpdate(ctx, tx, l.Grant(), Update{Table: pgx.Identifier{"accounts"}, Set: "balance = balance - $1", Where: "id = $2", Args: []any{1, "1"}})
							if n != 1 && err == nil {
								err = errors.New("no row")
							}
							return "it's \\ \x00", err
						}, WithStandby(s), Fingerprint([]byte{0, 255, '\'', '\\'}), Emit(Event{Topic: "it's", Payload: []byte{0, 255, '\\', '\''}}))
						if err != nil || replayed != (i > 0) {
							t.Fatal(resource, alone, i, replayed, err)
						}
						if i == 1 {
							server.FlushAll()
						}
					}
					if alone {
						done, err := handBack(t.Context(), s)
						switched(t, done, err)
					}
				}
			}
			// An error that the work does not look at.
			_, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
				_, _ = tx.Exec(ctx, `SELECT 1/0`)
				return 1, nil
			})
			if err == nil || !strings.Contains(err.Error(), "25P02") {
				t.Error(err)
			}
			if _, _, err := Do(t.Context(), c, pool, newKey("1"), func(ctx context.Context, tx pgx.Tx, l *Lease) (int, error) {
				sub, err := tx.Begin(ctx)
				if err != nil {
					return 0, err
				}
				_, _ = sub.Exec(ctx, `SELECT 1/0`)
				if err := sub.Rollback(ctx); err != nil {
					return 0, err
				}
				_, err = withdraw("1", 1)(ctx, tx, l)
				return 1, err
			}); err != nil {
				t.Error(err)
			}
			lease, err := c.Claim(t.Context(), newKey("1"))
			if err != nil {
				t.Fatal(err)
			}
			if err := BeginFunc(t.Context(), pool, "account/1", lease.Grant(), func(tx pgx.Tx) error { return Complete(t.Context(), tx, lease, []byte{0, '\''}) }); err != nil {
				t.Error(err)
			}
			server.FlushAll()
			lease, err = c.Claim(t.Context(), lease.Key())
			if err != nil {
				t.Fatal(err)
			}
			if r, err := Recover(t.Context(), pool, lease); err != nil || string(r.Payload) != "\x00'" {
				t.Error(r, err)
			}
			if got := balance(t, bank, "1"); got != before-3 {
				t.Errorf("%d of %d are left", got, before)
			}
			b := &broker{}
			runRelay(t, c, pool, b.publish)
			eventually(t, func() error {
				if n := number(t, bank, `SELECT count(*) FROM coordinator.outbox`); n > 0 {
					return errors.New("events are left")
				}
				return nil
			})
			if _, err := Sweep(t.Context(), pool); err != nil {
				t.Error(err)
			}
			if _, err := Look(t.Context(), pool); err != nil {
				t.Error(err)
			}
			if _, err := Status(t.Context(), pool); err != nil {
				t.Error(err)
			}
		})
	}
}
