package coordpg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator"
)

// Admit lets the transaction go on if no later grant has been seen for the resource, and makes g the highest (P3). A lower
// token, or the same one of another owner, is ErrStaleToken, and the transaction cannot be committed any
// more. Called before the work begins it also fences out every earlier grant from that moment on.
//
// It is one statement and locks one row until the transaction ends: transactions of one resource go one after
// another. With REPEATABLE READ and SERIALIZABLE the one that waited ends with a serialization failure; with several
// resources in one transaction admit them in a fixed order, or one of two may end as a deadlock's victim. Both are
// [Retryable], and nothing was changed.
//
// While this database grants alone ([Standby]) leases of Redis are refused with ErrLeaseLost, and a switch waits for
// transactions that were admitted.
func Admit(ctx context.Context, tx Querier, resource string, g coordinator.Grant, opts ...Option) error {
	p, err := fenced(resource, g, opts)
	if err != nil {
		return err
	}
	return p.admitted(ctx, tx, resource, g, p.admission(resource, g).ask(ctx, tx))
}

// admission is the statement that admits; it returns nothing where it does not. The columns of side are worked out in their order:
// first the lock that a switch waits for, then who grants.
func (p place) admission(resource string, g coordinator.Grant) *query {
	return &query{sql: p.sql(`
		INSERT INTO @schema.fences AS f (resource, token, owner, admitted)
		SELECT $1::bytea, $2::bigint, $3::bytea, pg_current_xact_id() FROM (
			SELECT pg_advisory_xact_lock_shared(1869505381, hashtext('@schema')),
				pg_sequence_last_value('@schema.side') % 2 = 1 OR current_setting('coordpg.alone', true) = 'on' AS grants
			OFFSET 0
		) AS side WHERE side.grants
		ON CONFLICT (resource) DO UPDATE
			SET token = excluded.token, owner = excluded.owner, admitted = excluded.admitted, seen_at = excluded.seen_at
			WHERE f.token < excluded.token OR f.token = excluded.token AND f.owner = excluded.owner
		RETURNING 1`), args: []any{[]byte(resource), int64(g.Token), ownerOf(g)}, row: []any{new(int)}}
}

// admitted says what came of the admission. A refusal is raised by the function that does the same, at twice the cost.
func (p place) admitted(ctx context.Context, tx Querier, resource string, g coordinator.Grant, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		again := p.admission(resource, g)
		again.sql = p.sql(`SELECT 1 FROM @schema.admit($1, $2, $3)`)
		err = again.ask(ctx, tx)
	}
	return explain(err, coordinator.Key{Resource: resource}, g)
}

// BeginFunc runs fn in a transaction that is admitted to the resource, as by [Admit], and commits it unless fn returns an
// error. With a pool or a connection of pgx the admission goes out with the BEGIN, and costs no round trip.
// ErrUnknown: the answer to the commit was lost, so fn's effects may be there or not. [Do] knows, by its ledger.
func BeginFunc(ctx context.Context, db Beginner, resource string, g coordinator.Grant, fn func(pgx.Tx) error, opts ...Option) error {
	p, err := fenced(resource, g, opts)
	if err != nil {
		return err
	}
	s, err, errBegin := beginPgx(db, "")(ctx, p.admission(resource, g))
	if errBegin != nil {
		return explain(fmt.Errorf("begin: %w", errBegin), coordinator.Key{}, g)
	}
	defer s.rollback()
	if err := p.admitted(ctx, s.q, resource, g, err); err != nil {
		return err
	}
	if err := fn(s.tx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("coordpg: not committed: %w", cause)
	}
	if err = s.tx.Commit(ctx); err != nil && unsure(err) {
		return &coordinator.UnknownError{Key: coordinator.Key{Resource: resource}, Err: fmt.Errorf("coordpg: the answer to the commit was lost: %w", err)}
	}
	return explain(err, coordinator.Key{}, g)
}

func fenced(resource string, g coordinator.Grant, opts []Option) (place, error) {
	p, err := placeOf(opts)
	if err != nil {
		return p, err
	}
	if err := checkGrant(g); err != nil {
		return p, err
	}
	if resource == "" {
		return p, fmt.Errorf("%w: the resource is empty; name what the writes go to", coordinator.ErrInvalid)
	}
	return p, checkResource(resource)
}

// HighWater returns the highest token that the database has seen for the resource, 0 for none. Give it to
// [coordinator.MinToken], so that a grant exceeds it also when Redis has lost everything and its clock was set
// back (P2). [Do] does that by itself.
func HighWater(ctx context.Context, db Querier, resource string, opts ...Option) (coordinator.Token, error) {
	p, err := placeOf(opts)
	if err != nil {
		return 0, err
	}
	var token int64
	err = db.QueryRow(ctx, p.sql(`SELECT coalesce(max(token), 0) FROM @schema.fences WHERE resource = $1`), []byte(resource)).Scan(&token)
	return coordinator.Token(token), explain(err, coordinator.Key{Resource: resource}, coordinator.Grant{})
}

// FenceColumns returns the statement that gives a table the two columns that [FencedUpdate] needs.
func FenceColumns(table pgx.Identifier) string {
	return "ALTER TABLE " + table.Sanitize() + " ADD COLUMN fence_token bigint NOT NULL DEFAULT 0, ADD COLUMN fence_owner bytea NOT NULL DEFAULT ''"
}

// Update is an UPDATE of rows that have [FenceColumns]: SQL with $1, $2, … for Args.
type Update struct {
	Table pgx.Identifier
	Set   string
	Where string // names the rows, and does nothing else
	Args  []any
}

// FencedUpdate updates rows and raises their marks to g, in one statement: each row is its own fence, and no other table
// is touched.
//
//	n, err := coordpg.FencedUpdate(ctx, tx, lease.Grant(), coordpg.Update{
//		Table: pgx.Identifier{"accounts"}, Set: `balance = balance - $1`, Where: `id = $2`, Args: []any{amount, id},
//	})
//
// It returns how many rows there were. If one of them has seen a later grant the error is ErrStaleToken, nothing
// is changed, and the transaction cannot be committed. A row that another transaction changes at the same moment, so
// that Where no longer holds, counts as refused.
//
// It knows nothing of a [Standby]: after a switch a lease of the other side can change a row until a grant of the side that grants now
// has changed it. Where that matters, call [Admit] in the same transaction, or use [Do].
func FencedUpdate(ctx context.Context, tx Querier, g coordinator.Grant, u Update, opts ...Option) (rows int64, err error) {
	p, err := placeOf(opts)
	if err != nil {
		return 0, err
	}
	if err := checkGrant(g); err != nil {
		return 0, err
	}
	if len(u.Table) == 0 || u.Set == "" || u.Where == "" {
		return 0, fmt.Errorf("%w: an Update needs Table, Set and Where", coordinator.ErrInvalid)
	}
	token, owner := len(u.Args)+1, len(u.Args)+2
	// The caller's parts end with their lines, lest a comment in one of them takes the mark away.
	// "there" reads the statement's snapshot, "changed" the newest rows: fewer of them means that a mark refused.
	text := fmt.Sprintf(p.sql(`
		WITH there AS (SELECT count(*) AS n, max(fence_token) AS seen FROM %[1]s WHERE (%[3]s
			)),
		changed AS (
			UPDATE %[1]s SET %[2]s
			, fence_token = $%[4]d::bigint, fence_owner = $%[5]d::bytea
			WHERE (%[3]s
			) AND (fence_token < $%[4]d OR fence_token = $%[4]d AND fence_owner = $%[5]d) RETURNING 1
		)
		SELECT CASE WHEN c.n < there.n THEN @schema.stale('a row of ' || $%[6]d, $%[4]d, there.seen) ELSE c.n END
		FROM there, (SELECT count(*) AS n FROM changed) AS c`),
		u.Table.Sanitize(), u.Set, u.Where, token, owner, owner+1)
	args := append(append([]any{}, u.Args...), int64(g.Token), ownerOf(g), u.Table.Sanitize())
	err = tx.QueryRow(ctx, text, args...).Scan(&rows)
	return rows, explain(err, coordinator.Key{}, g)
}

// Trigger returns the statement that makes a table refuse every INSERT, UPDATE and DELETE of a transaction that was not
// admitted to the row's resource: by [Admit], or by [Do] or [Complete] with a key of that resource. It holds for
// code that forgot to ask as well. The resource is what prefix and the row's column make: with "account/" and "id",
// the row whose id is 42 belongs to "account/42". It may be run again.
//
// It is checked after the row was written, as other triggers have left it. TRUNCATE is not held back. For maintenance, a superuser sets session_replication_role to replica, or the table's owner
// disables the trigger "coordinator_guard".
func Trigger(table pgx.Identifier, prefix, column string, opts ...Option) (string, error) {
	p, err := placeOf(opts)
	if err != nil {
		return "", err
	}
	if len(table) == 0 || column == "" {
		return "", fmt.Errorf("%w: Trigger needs a table and the column that names the resource", coordinator.ErrInvalid)
	}
	return fmt.Sprintf(p.sql("CREATE OR REPLACE TRIGGER coordinator_guard AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION @schema.guard(%s, %s)"),
		table.Sanitize(), literal(column), literal(prefix)), nil
}

// literal quotes text for SQL, whatever standard_conforming_strings says.
func literal(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		quoted = "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
