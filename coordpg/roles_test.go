package coordpg

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
)

// grantsOf are the statements of docs/postgres.md, by the heading of each part.
func grantsOf(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/postgres.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- run: TestRolesSuffice -->\n```sql\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("docs/postgres.md has no block for this test")
	}
	parts := map[string]string{}
	for _, part := range regexp.MustCompile(`(?m)^-- `).Split(string(block[1]), -1)[1:] {
		title, text, _ := strings.Cut(part, "\n")
		parts[title[:strings.IndexAny(title+":", ":,")]] = text
	}
	return parts
}

// Each role can do its task, and no more.
func TestRolesSuffice(t *testing.T) {
	bank := newBank(t)
	for _, role := range []string{"app", "relay", "sweeper", "watcher"} {
		exec(t, bank, "CREATE ROLE "+role+" LOGIN")
	}
	exec(t, bank, `GRANT SELECT, UPDATE ON accounts TO app`)
	exec(t, bank, FenceColumns(pgx.Identifier{"accounts"}))
	grants := grantsOf(t)
	as := func(role, part string) *pgxpool.Pool {
		t.Helper()
		if grants[part] == "" {
			t.Fatalf("there is no part %q among %v", part, grants)
		}
		exec(t, bank, grants[part])
		return newPool(t, strings.Replace(bank.Config().ConnString(), "tester@", role+"@", 1))
	}
	allowed := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(pool *pgxpool.Pool, sql string) {
		t.Helper()
		_, err := pool.Exec(t.Context(), sql)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	server, c := newRedis(t)

	app := as("app", "operations")
	key := newKey("1")
	for range 2 {
		_, _, err := Do(t.Context(), c, app, key, withdraw("1", 10), Emit(Event{Topic: "told"}))
		allowed("Do", err)
		server.FlushAll()
	}
	lease, err := c.Claim(t.Context(), newKey("2"))
	allowed("Claim", err)
	_, err = Recover(t.Context(), app, lease)
	if !errors.Is(err, coordinator.ErrNotFound) {
		t.Error(err)
	}
	allowed("Complete", inTx(t.Context(), app, "", func(tx pgx.Tx) error {
		if err := Admit(t.Context(), tx, "account/2", lease.Grant()); err != nil {
			return err
		}
		if _, err := FencedUpdate(t.Context(), tx, lease.Grant(), Update{Table: pgx.Identifier{"accounts"}, Set: "balance = 1", Where: "id = '2'"}); err != nil {
			return err
		}
		return Complete(t.Context(), tx, lease, nil)
	}))
	_, err = Lookup(t.Context(), app, lease.Key())
	allowed("Lookup", err)
	_, err = HighWater(t.Context(), app, "account/2")
	allowed("HighWater", err)
	for _, sql := range []string{`DELETE FROM coordinator.ledger`, `UPDATE coordinator.ledger SET payload = ''`, `DELETE FROM coordinator.fences`, `SELECT * FROM coordinator.outbox`, `SELECT coordinator.switch(false, '', NULL)`} {
		refused(app, sql)
	}

	app = as("app", "those and a Standby")
	s := newStandby(t, c, app, AwayFor(50*time.Millisecond), BackFor(400*time.Millisecond), Every(20*time.Millisecond))
	runStandby(t, s)
	for _, alone := range []bool{true, false} {
		if alone {
			server.Close()
		} else {
			allowed("Restart", server.Restart())
		}
		eventually(t, func() error {
			if s.Alone() != alone {
				return errors.New("not switched")
			}
			return nil
		})
		_, _, err := Do(t.Context(), c, app, newKey("1"), withdraw("1", 10), WithStandby(s))
		allowed("Do with a standby", err)
	}

	relay := as("relay", "a Relay")
	published := make(chan Event, 10)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := NewRelay(c, relay, func(_ context.Context, events []Event) error {
		for _, e := range events {
			published <- e
		}
		return nil
	}, OnFailure(func(err error) { t.Error(err) }))
	allowed("NewRelay", err)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	if e := <-published; e.Topic != "told" {
		t.Errorf("%+v", e)
	}
	eventually(t, func() error {
		if n := number(t, bank, `SELECT count(*) FROM coordinator.outbox`); n > 0 {
			return errors.New("events are left")
		}
		return nil
	})
	cancel()
	<-ended
	refused(relay, `SELECT * FROM coordinator.ledger`)
	refused(relay, `UPDATE coordinator.outbox SET payload = ''`)

	sweeper := as("sweeper", "coordctl pg sweep")
	exec(t, bank, `UPDATE coordinator.ledger SET expires_at = now() - interval '1 day'`)
	exec(t, bank, `UPDATE coordinator.fences SET seen_at = now() - interval '40 days'`)
	done, err := Sweep(t.Context(), sweeper)
	allowed("Sweep", err)
	if done.Outcomes != 4 || done.Fences == 0 {
		t.Errorf("%+v", done)
	}
	refused(sweeper, `UPDATE coordinator.ledger SET payload = ''`)
	refused(sweeper, `UPDATE coordinator.fences SET token = 1`)

	watcher := as("watcher", "coordctl pg status")
	_, err = Status(t.Context(), watcher)
	allowed("Status", err)
	_, err = Look(t.Context(), watcher)
	allowed("Look", err)
	refused(watcher, `DELETE FROM coordinator.outbox`)
}
