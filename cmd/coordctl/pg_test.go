package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordpg"
	"github.com/onceward/coordinator/internal/pgtest"
)

// pg invokes a command of coordctl pg on server.
func pg(t *testing.T, server *pgtest.Server, args ...string) outcome {
	t.Helper()
	return invoke(t.Context(), append([]string{"pg", args[0], "--postgres", server.URL()}, args[1:]...)...)
}

func decoded(t *testing.T, got outcome, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(got.out), v); err != nil {
		t.Fatalf("%v: %+v", err, got)
	}
}

func TestPG(t *testing.T) {
	server := pgtest.Run(t)
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())

	// Nothing is there.
	got := pg(t, server, "status")
	if got.status != exitFailed || !strings.Contains(got.err, "coordctl pg migrate") || strings.Count(got.out, "pending") != 3 {
		t.Errorf("%+v", got)
	}
	var state pgState
	if got = pg(t, server, "status", "--json"); got.status != exitFailed {
		t.Errorf("%+v", got)
	}
	if decoded(t, got, &state); len(state.Steps) != 3 || state.Steps[0].AppliedAt != nil || state.Grants != "" || state.Tables != nil {
		t.Errorf("%+v", state)
	}
	if got = pg(t, server, "sweep"); got.status != exitFailed || !strings.Contains(got.err, "coordctl pg migrate") {
		t.Errorf("%+v", got)
	}

	// It is made, once.
	var made struct {
		Schema string
		Taken  []step
	}
	if decoded(t, pg(t, server, "migrate", "--json"), &made); made.Schema != "coordinator" || len(made.Taken) != 3 || made.Taken[0].AppliedAt == nil {
		t.Errorf("%+v", made)
	}
	if got = pg(t, server, "migrate"); got.status != exitOK || !strings.Contains(got.out, "nothing to do") {
		t.Errorf("%+v", got)
	}
	if got = pg(t, server, "migrate", "--schema", "other"); got.status != exitOK || strings.Count(got.out, time.Now().Format("2006-01")) != 3 {
		t.Errorf("%+v", got)
	}
	got = pg(t, server, "status")
	if got.status != exitOK || strings.Contains(got.out, "pending") || !strings.Contains(got.out, "Redis grants, since") {
		t.Errorf("%+v", got)
	}

	// There is something in it.
	if _, err := conn.Exec(t.Context(), `INSERT INTO coordinator.ledger (expires_at, token, attempt, failed, owner, scope, id, resource, fingerprint, payload)
		SELECT now() - interval '1 second', 1, 1, false, '', '', convert_to(i::text, 'UTF8'), '', '', '' FROM generate_series(1, 2500) AS i`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO coordinator.outbox (token, topic, scope, id, resource, payload) VALUES (1, 't', '', 'a', '', ''), (1, 't', '', 'b', '', '')`); err != nil {
		t.Fatal(err)
	}
	if err := coordpg.Admit(t.Context(), conn, "account/1", coordinator.Grant{Token: 5, Owner: strings.Repeat("ab", 16)}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `UPDATE coordinator.fences SET seen_at = now() - interval '3 hours'`); err != nil {
		t.Fatal(err)
	}
	if decoded(t, pg(t, server, "status", "--json"), &state); state.Overdue != 2500 || state.Waiting != 2 || state.Oldest == nil || state.Tables["ledger"].Bytes < 2500*100 {
		t.Errorf("%+v", state)
	}
	got = pg(t, server, "status")
	for _, want := range []string{"2500 past their retention", "2 wait for a relay, the first since 2"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is not in %+v", want, got)
		}
	}
	if got = pg(t, server, "sweep", "--batch", "100"); got.status != exitOK || !strings.Contains(got.out, "2500 outcomes") || !strings.Contains(got.out, "0 marks") {
		t.Errorf("%+v", got)
	}
	var swept map[string]int
	if decoded(t, pg(t, server, "sweep", "--keep-fences", "2h", "--json"), &swept); swept["outcomes"] != 0 || swept["fences"] != 1 {
		t.Errorf("%+v", swept)
	}

	// The side is switched by hand, and back.
	var changed struct{ Changed bool }
	for range 2 {
		if got = pg(t, server, "take-over", "--reason", "the cluster moves"); got.status != exitOK || !strings.HasPrefix(got.out, "PostgreSQL grant") {
			t.Errorf("%+v", got)
		}
	}
	if decoded(t, pg(t, server, "status", "--json"), &state); state.Grants != "postgres" || !state.ByHand || state.Reason != "the cluster moves" || time.Since(*state.SwitchedAt) > time.Minute {
		t.Errorf("%+v", state)
	}
	if got = pg(t, server, "status"); !strings.Contains(got.out, "PostgreSQL grants alone until coordctl pg hand-back") {
		t.Errorf("%+v", got)
	}
	for _, want := range []bool{true, false} {
		if decoded(t, pg(t, server, "hand-back", "--reason", "it has moved", "--json"), &changed); changed.Changed != want {
			t.Errorf("%+v", changed)
		}
	}
	if got = pg(t, server, "status"); !strings.Contains(got.out, "Redis grants, since") {
		t.Errorf("%+v", got)
	}
}

// Who cannot have what it needs in time is told so, and what is in the way is left alone.
func TestPGTimeout(t *testing.T) {
	server := pgtest.Run(t)
	if got := pg(t, server, "migrate"); got.status != exitOK {
		t.Fatalf("%+v", got)
	}
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT coordinator.stay(true)`); err != nil { // an operation under way
		t.Fatal(err)
	}
	got := pg(t, server, "take-over", "--reason", "test", "--timeout", "200ms")
	if got.status != exitFailed || !strings.Contains(got.err, "not done after 200ms") {
		t.Errorf("%+v", got)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	if state, err := coordpg.Look(t.Context(), conn); err != nil || state.Alone {
		t.Error(state, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no more"))
	if got := invoke(ctx, "pg", "sweep", "--postgres", server.URL()); got.status != exitFailed || got.out != "" {
		t.Errorf("%+v", got)
	}
}

func TestPGRefuses(t *testing.T) {
	t.Setenv("COORDCTL_POSTGRES", "")
	for _, test := range []struct {
		args, says string
		status     int
	}{
		{"pg", "--help", exitUsage},
		{"pg status", "COORDCTL_POSTGRES", exitFailed},
		{"pg take-over", "--reason", exitUsage},
		{"pg status --postgres postgres://u:secret@127.0.0.1:port/b", "invalid port", exitFailed},
		{"pg status --postgres postgres://u:secret@127.0.0.1:1/b", "cannot reach PostgreSQL", exitFailed},
	} {
		got := invoke(t.Context(), strings.Fields(test.args)...)
		if got.status != test.status || got.out != "" || !strings.Contains(got.err, test.says) || strings.Contains(got.err, "secret") {
			t.Errorf("coordctl %s: %+v", test.args, got)
		}
	}
	server := pgtest.Run(t)
	for _, args := range [][]string{{"migrate", "--schema", "No Schema"}, {"sweep", "--keep-fences", "1s"}, {"sweep", "--batch", "0"}, {"status", "--schema", "1"}} {
		if got := pg(t, server, args...); got.status != exitFailed || got.out != "" || !strings.Contains(got.err, "takes") {
			t.Errorf("%v: %+v", args, got)
		}
	}
}
