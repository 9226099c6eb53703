package coordpg

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator"
)

// DefaultSchema is the database schema that holds the tables, unless [InSchema] names another.
const DefaultSchema = "coordinator"

// place is a schema: the one place that writes names of tables and functions.
type place string

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

// sql puts the schema's name into a statement.
func (p place) sql(text string) string { return strings.ReplaceAll(text, "@schema", `"`+string(p)+`"`) }

// channel is what the outbox's notifications come by.
func (p place) channel() string { return string(p) + "_outbox" }

// Option says where the tables are. It can be given wherever options are taken.
type Option interface {
	CompleteOption
	RelayOption
	place(*place) error
}

type inSchema string

func (s inSchema) place(p *place) error {
	if !schemaName.MatchString(string(s)) {
		return fmt.Errorf("%w: InSchema takes 1 to 40 of a-z, 0-9 and _, not beginning with a digit, and not %q", coordinator.ErrInvalid, string(s))
	}
	*p = place(s)
	return nil
}

func (s inSchema) complete(o *completion) error { return s.place(&o.place) }
func (s inSchema) do(o *doing) error            { return s.place(&o.place) }
func (s inSchema) relay(o *Relay) error         { return s.place(&o.place) }

// InSchema names the schema that holds the tables, in place of [DefaultSchema]. Coordinators whose keys mean different
// operations, such as those with different prefixes, need different schemas or different scopes.
func InSchema(name string) Option { return inSchema(name) }

func placeOf(opts []Option) (place, error) {
	p := place(DefaultSchema)
	for _, opt := range opts {
		if opt == nil {
			return p, errNilOption()
		}
		if err := opt.place(&p); err != nil {
			return p, err
		}
	}
	return p, nil
}

func errNilOption() error {
	return fmt.Errorf("%w: an option is nil; leave it out", coordinator.ErrInvalid)
}

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migration is one step of the schema.
type Migration struct {
	Version   int
	Name      string
	AppliedAt time.Time // zero while it is pending
	text      string
}

// ErrNewerSchema: the tables were made by a later release than this one, and were left as they are.
var ErrNewerSchema = errors.New("coordpg: the schema is newer than this release")

// migrations returns the steps that this release knows, in order.
func migrations() ([]Migration, error) {
	var all []Migration
	err := fs.WalkDir(migrationFiles, "migrations", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		number, name, _ := strings.Cut(strings.TrimSuffix(entry.Name(), ".sql"), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		text, err := fs.ReadFile(migrationFiles, path)
		all = append(all, Migration{Version: version, Name: name, text: string(text)})
		return err
	})
	return all, err
}

// Beginner begins transactions: a *pgxpool.Pool, or a *pgx.Conn.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// Migrate brings the schema up to this release in one transaction, and returns the steps that it took: none where
// there was nothing to do. It may run in several processes at once. Its role must be allowed to create the schema,
// or be its owner; docs/postgres.md has the roles that the other calls need.
func Migrate(ctx context.Context, db Beginner, opts ...Option) (taken []Migration, err error) {
	p, err := placeOf(opts)
	if err != nil {
		return nil, err
	}
	err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, p.sql(`SELECT pg_advisory_xact_lock(1869505382, hashtext('@schema'))`)); err != nil {
			return err
		}
		// Asked of the tables: to_regclass answers from a cache, which is as old as this transaction. And CREATE SCHEMA IF NOT
		// EXISTS asks for the right to create one even where it is there.
		var schema, table bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1),
			EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'migrations')`, string(p)).Scan(&schema, &table)
		if err != nil {
			return err
		}
		if !schema {
			if _, err := tx.Exec(ctx, p.sql(`CREATE SCHEMA @schema`)); err != nil {
				return err
			}
		}
		if !table {
			if _, err := tx.Exec(ctx, p.sql(`CREATE TABLE @schema.migrations (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())`)); err != nil {
				return err
			}
		}
		all, err := statusIn(ctx, tx, p)
		if err != nil {
			return err
		}
		for _, m := range all {
			if !m.AppliedAt.IsZero() {
				continue
			}
			if _, err := tx.Exec(ctx, strings.ReplaceAll(p.sql(m.text), "@channel", p.channel())); err != nil {
				return fmt.Errorf("migration %d, %s: %w", m.Version, m.Name, err)
			}
			row := tx.QueryRow(ctx, p.sql(`INSERT INTO @schema.migrations (version, name) VALUES ($1, $2) RETURNING applied_at`), m.Version, m.Name)
			if err := row.Scan(&m.AppliedAt); err != nil {
				return err
			}
			taken = append(taken, m)
		}
		return nil
	})
	if err != nil {
		return nil, explain(err, coordinator.Key{}, coordinator.Grant{})
	}
	return taken, nil
}

// Status returns the steps of the schema that this release knows, applied and pending. Where the schema has more,
// the error is [ErrNewerSchema].
func Status(ctx context.Context, db Beginner, opts ...Option) (all []Migration, err error) {
	p, err := placeOf(opts)
	if err != nil {
		return nil, err
	}
	err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		there := false
		if err := tx.QueryRow(ctx, p.sql(`SELECT to_regclass('@schema.migrations') IS NOT NULL`)).Scan(&there); err != nil {
			return err
		}
		if !there {
			all, err = migrations()
			return err
		}
		all, err = statusIn(ctx, tx, p)
		return err
	})
	if err != nil {
		return nil, explain(err, coordinator.Key{}, coordinator.Grant{})
	}
	return all, nil
}

func statusIn(ctx context.Context, tx pgx.Tx, p place) ([]Migration, error) {
	all, err := migrations()
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, p.sql(`SELECT version, name, applied_at FROM @schema.migrations ORDER BY version`))
	if err != nil {
		return nil, err
	}
	applied, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Migration, err error) {
		return m, row.Scan(&m.Version, &m.Name, &m.AppliedAt)
	})
	if err != nil {
		return nil, err
	}
	for i, m := range applied {
		if i >= len(all) || all[i].Version != m.Version {
			return nil, fmt.Errorf("%w: %s has step %d, %s; use the release that made it, or a later one", ErrNewerSchema, p, m.Version, m.Name)
		}
		all[i].AppliedAt = m.AppliedAt
	}
	return all, nil
}
