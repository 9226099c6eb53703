package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/onceward/coordinator/coordpg"
)

// pgCommands look after the tables of package coordpg.
type pgCommands struct {
	Migrate  pgMigrate  `cmd:"" help:"Make the tables, or bring them up to this release."`
	Status   pgStatus   `cmd:"" help:"Show the schema's steps, its tables and who grants. The exit status is 1 while steps are pending."`
	Sweep    pgSweep    `cmd:"" help:"Delete outcomes whose retention is over, and marks of resources that nobody has written to for long."`
	TakeOver pgTakeOver `cmd:"" help:"Let the database grant alone from now on, until hand-back; for programs that have a Standby."`
	HandBack pgHandBack `cmd:"" help:"Let Redis grant again."`
}

// database says where the tables are.
type database struct {
	Postgres string `env:"COORDCTL_POSTGRES" placeholder:"URL" help:"Where PostgreSQL is: postgres://user:password@host:5432/database, or host=... dbname=...; what is left out comes from PGUSER, PGPASSWORD, PGPASSFILE and the like, as for psql."`
	Schema   string `default:"coordinator" help:"The schema of the tables (default ${default})."`
	JSON     bool   `name:"json" help:"Print one JSON object."`
}

// bounded is for commands that are over soon, unless somebody holds locks that they need.
type bounded struct {
	Timeout time.Duration `default:"1m" help:"How long all of it may take, 0 for as long as it takes (default ${default})."`
}

var errNoDatabase = errors.New("say where PostgreSQL is: --postgres postgres://user@host:5432/database, or COORDCTL_POSTGRES")

// use connects for as long as f takes; a timeout of 0 is none.
func (d *database) use(ctx context.Context, timeout time.Duration, f func(context.Context, *pgx.Conn) error) error {
	if d.Postgres == "" {
		return errNoDatabase
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %v; --timeout says how long it may take", timeout))
		defer cancel()
	}
	config, err := pgx.ParseConfig(d.Postgres)
	if err != nil {
		return fmt.Errorf("--postgres: %w", err) // without the password
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "coordctl"
	}
	// When ctx ends, the server is asked to stop, and what it answers counts: a statement that is merely left alone may still be
	// carried out after its caller was told that it was not.
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 5 * time.Second}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("cannot reach PostgreSQL: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // only a goodbye: what f did is committed or has failed
	if err := f(ctx, conn); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	return nil
}

func (d *database) schema() coordpg.Option { return coordpg.InSchema(d.Schema) }

// print writes v as JSON, or what text writes for people.
func (d *database) print(out io.Writer, v any, text func(io.Writer)) error {
	if d.JSON {
		return json.NewEncoder(out).Encode(v)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	text(w)
	return w.Flush()
}

// step is one migration, as it is printed.
type step struct {
	Version   int        `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"` // null while it is pending
}

func stepsOf(migrations []coordpg.Migration) []step {
	steps := []step{}
	for _, m := range migrations {
		s := step{Version: m.Version, Name: m.Name}
		if !m.AppliedAt.IsZero() {
			s.AppliedAt = &m.AppliedAt
		}
		steps = append(steps, s)
	}
	return steps
}

func printSteps(w io.Writer, steps []step) {
	fmt.Fprintln(w, "STEP\tNAME\tAPPLIED")
	for _, s := range steps {
		applied := "pending"
		if s.AppliedAt != nil {
			applied = s.AppliedAt.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", s.Version, s.Name, applied)
	}
}

type pgMigrate struct {
	database
	bounded
}

func (m *pgMigrate) Run(ctx context.Context, std streams) error {
	return m.use(ctx, m.Timeout, func(ctx context.Context, conn *pgx.Conn) error {
		taken, err := coordpg.Migrate(ctx, conn, m.schema())
		if err != nil {
			return err
		}
		steps := stepsOf(taken)
		return m.print(std.out, map[string]any{"schema": m.Schema, "taken": steps}, func(w io.Writer) {
			if len(steps) == 0 {
				fmt.Fprintf(w, "nothing to do: the schema %s is up to date\n", m.Schema)
				return
			}
			printSteps(w, steps)
		})
	})
}

type pgStatus struct {
	database
	bounded
}

// pgState is the state of the tables, as it is printed.
type pgState struct {
	Schema     string               `json:"schema"`
	Steps      []step               `json:"steps"`
	Grants     string               `json:"grants,omitempty"` // "redis" or "postgres"; nothing while steps are pending, as all below
	ByHand     bool                 `json:"by_hand,omitempty"`
	SwitchedAt *time.Time           `json:"switched_at,omitempty"`
	Reason     string               `json:"reason,omitempty"`
	Tables     map[string]tableSize `json:"tables,omitempty"`
	Overdue    int64                `json:"overdue"`
	Waiting    int64                `json:"waiting"`
	Oldest     *time.Time           `json:"oldest,omitempty"`
}

type tableSize struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
}

func (s *pgStatus) Run(ctx context.Context, std streams) error {
	return s.use(ctx, s.Timeout, func(ctx context.Context, conn *pgx.Conn) error {
		migrations, err := coordpg.Status(ctx, conn, s.schema())
		if err != nil {
			return err
		}
		state := pgState{Schema: s.Schema, Steps: stepsOf(migrations)}
		pending := 0
		for _, step := range state.Steps {
			if step.AppliedAt == nil {
				pending++
			}
		}
		if pending == 0 {
			now, err := coordpg.Look(ctx, conn, s.schema())
			if err != nil {
				return err
			}
			state.tell(now)
		}
		if err := s.print(std.out, state, state.text); err != nil {
			return err
		}
		if pending > 0 {
			return fmt.Errorf("%d of %d steps are pending; take them by coordctl pg migrate", pending, len(state.Steps))
		}
		return nil
	})
}

func (s *pgState) tell(now coordpg.State) {
	s.Grants, s.ByHand, s.SwitchedAt, s.Reason = "redis", now.ByHand, &now.SwitchedAt, now.Reason
	if now.Alone {
		s.Grants = "postgres"
	}
	s.Tables = map[string]tableSize{"ledger": tableSize(now.Ledger), "fences": tableSize(now.Fences), "outbox": tableSize(now.Outbox)}
	s.Overdue, s.Waiting = now.Overdue, now.Waiting
	if now.Waiting > 0 {
		s.Oldest = &now.Oldest
	}
}

func (s *pgState) text(w io.Writer) {
	printSteps(w, s.Steps)
	if s.Tables == nil {
		return
	}
	remarks := map[string]string{}
	if s.Overdue > 0 {
		remarks["ledger"] = fmt.Sprintf("%d past their retention, for coordctl pg sweep", s.Overdue)
	}
	if s.Waiting > 0 {
		remarks["outbox"] = fmt.Sprintf("%d wait for a relay, the first since %s", s.Waiting, s.Oldest.Format(time.RFC3339))
	}
	fmt.Fprintln(w, "\t\t\t")
	fmt.Fprintln(w, "TABLE\tROWS\tSIZE\t")
	for _, name := range []string{"ledger", "fences", "outbox"} {
		fmt.Fprintf(w, "%s\t%d\t%.1f MB\t%s\n", name, s.Tables[name].Rows, float64(s.Tables[name].Bytes)/1e6, remarks[name])
	}
	who := "Redis grants"
	if s.Grants == "postgres" {
		who = "PostgreSQL grants alone"
	}
	if s.ByHand {
		who += " until coordctl pg hand-back"
	}
	fmt.Fprintf(w, "\n%s, since %s: %s.\n", who, s.SwitchedAt.Format(time.RFC3339), s.Reason)
}

type pgSweep struct {
	database
	Timeout    time.Duration `help:"How long it may take; what is left is for the next time (default as long as it takes)."`
	KeepFences time.Duration `default:"720h" help:"How long the mark of a resource is kept that nobody writes to; longer than any lease can live (default ${default})."`
	Batch      int           `default:"1000" help:"How many rows one transaction deletes at most (default ${default})."`
}

func (s *pgSweep) Run(ctx context.Context, std streams) error {
	return s.use(ctx, s.Timeout, func(ctx context.Context, conn *pgx.Conn) error {
		told := time.Now()
		progress := func(done coordpg.Swept) {
			if time.Since(told) >= time.Second {
				told = time.Now()
				fmt.Fprintf(std.err, "%d outcomes and %d marks are deleted\n", done.Outcomes, done.Fences)
			}
		}
		done, err := coordpg.Sweep(ctx, conn, coordpg.SweepIn(s.Schema), coordpg.KeepFences(s.KeepFences), coordpg.SweepBatch(s.Batch), coordpg.SweepProgress(progress))
		if err != nil {
			return fmt.Errorf("%d outcomes and %d marks are deleted, then: %w", done.Outcomes, done.Fences, err)
		}
		return s.print(std.out, map[string]int64{"outcomes": done.Outcomes, "fences": done.Fences}, func(w io.Writer) {
			fmt.Fprintf(w, "deleted %d outcomes past their retention, and %d marks of idle resources\n", done.Outcomes, done.Fences)
		})
	})
}

// switching is a switch by hand.
type switching struct {
	database
	bounded
	Reason string `required:"" help:"Why; coordctl pg status shows it."`
}

type pgTakeOver struct{ switching }
type pgHandBack struct{ switching }

func (t *pgTakeOver) Run(ctx context.Context, std streams) error {
	return t.hand(ctx, std, "PostgreSQL", coordpg.TakeOver)
}

func (h *pgHandBack) Run(ctx context.Context, std streams) error {
	return h.hand(ctx, std, "Redis", coordpg.HandBack)
}

func (s *switching) hand(ctx context.Context, std streams, to string, hand func(context.Context, coordpg.Querier, string, ...coordpg.Option) (bool, error)) error {
	return s.use(ctx, s.Timeout, func(ctx context.Context, conn *pgx.Conn) error {
		changed, err := hand(ctx, conn, s.Reason, s.schema())
		if err != nil {
			return err
		}
		return s.print(std.out, map[string]bool{"changed": changed}, func(w io.Writer) {
			if changed {
				fmt.Fprintf(w, "%s grants from now on\n", to)
			} else {
				fmt.Fprintf(w, "%s granted already\n", to)
			}
		})
	})
}
