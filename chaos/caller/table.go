package caller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordpg"
)

// Table is the sink in PostgreSQL. Its numbers are drawn after the admission, while the fence's row is locked, so that
// they order the lines of a domain as they were admitted.
type Table struct{ pool *pgxpool.Pool }

// longestInsert bounds a transaction whose caller has no deadline; calls to Redis have the coordinator's.
const longestInsert = 5 * time.Second

// OpenTable makes a client for so many callers; open counts its connections. The server need not be there yet.
func OpenTable(url string, callers int, open *atomic.Int64) (*Table, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("connection string of PostgreSQL: %w", err)
	}
	config.MaxConns = int32(callers)
	config.ConnConfig.RuntimeParams["application_name"] = ClientName
	config.ConnConfig.DialFunc = counted((&net.Dialer{Timeout: longestInsert}).DialContext, open)
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("client of PostgreSQL: %w", err)
	}
	return &Table{pool}, nil
}

// Close ends all connections.
func (t *Table) Close() { t.pool.Close() }

// Create makes the table, and those of coordpg.
func (t *Table) Create(ctx context.Context) error {
	if _, err := coordpg.Migrate(ctx, t.pool); err != nil {
		return err
	}
	_, err := t.pool.Exec(ctx, `CREATE TABLE lines (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, domain text NOT NULL, line text NOT NULL)`)
	if err != nil {
		return fmt.Errorf("create the table of lines: %w", err)
	}
	return nil
}

// Lines returns the lines of each domain, in the order of admission.
func (t *Table) Lines(ctx context.Context) (map[string][]string, error) {
	rows, err := t.pool.Query(ctx, `SELECT domain, line FROM lines ORDER BY number`)
	if err != nil {
		return nil, fmt.Errorf("read the table of lines: %w", err)
	}
	lines := map[string][]string{}
	var domain, line string
	if _, err := pgx.ForEachRow(rows, []any{&domain, &line}, func() error {
		lines[domain] = append(lines[domain], line)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the table of lines: %w", err)
	}
	return lines, nil
}

// Sessions counts those that callers have.
func (t *Table) Sessions(ctx context.Context) (n int, err error) {
	err = t.pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()`, ClientName).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the sessions in PostgreSQL: %w", err)
	}
	return n, nil
}

// insert adds a line if the grant is admitted, in one transaction. The error is ErrUnknown when that may have been
// committed, and ErrUnavailable when it was not because the server or the time was gone.
func (t *Table) insert(ctx context.Context, domain string, g coordinator.Grant, line string) error {
	ctx, cancel := context.WithTimeout(ctx, longestInsert)
	defer cancel()
	tx, err := t.pool.Begin(ctx)
	if err != nil {
		return notRun(ctx, fmt.Errorf("begin: %w", err))
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longestInsert)
		defer cancel()
		_ = tx.Rollback(ctx) // after the commit it does nothing; what cannot be rolled back ends with its connection
	}()
	if err := coordpg.Admit(ctx, tx, domain, g); err != nil {
		return notRun(ctx, err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO lines (domain, line) VALUES ($1, $2)`, domain, line); err != nil {
		return notRun(ctx, fmt.Errorf("insert: %w", err))
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("%w: commit: %w", coordinator.ErrUnknown, err)
	}
	return nil
}

// notRun tells what faults do to a transaction that was not committed from all other errors, which are failures of the run.
func notRun(ctx context.Context, err error) error {
	if !errors.Is(err, coordinator.ErrStaleToken) && (ctx.Err() != nil || coordpg.Retryable(err)) {
		return fmt.Errorf("%w: %w", coordinator.ErrUnavailable, err)
	}
	return err
}
