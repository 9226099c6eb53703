package coordpg

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
)

const (
	// tidyTime is for what goes on after the caller has gone: a commit, a question what has become of it, a rollback.
	tidyTime = time.Second
	// doubtTime is how long Do tries to learn what has become of a commit, unless it is set otherwise.
	doubtTime = 15 * time.Second
	// longestIdle is what fits into the server's settings, which are 32 bits of milliseconds.
	longestIdle = math.MaxInt32 * time.Millisecond
)

// query is a statement that returns one row at most.
type query struct {
	sql  string
	args []any
	row  []any // what to scan into
}

func (q *query) ask(ctx context.Context, on Querier) error {
	return on.QueryRow(ctx, q.sql, q.args...).Scan(q.row...)
}

// session is one transaction, of pgx or of database/sql.
type session[Tx any] struct {
	tx Tx
	q  Querier
	// finish runs the last statement and commits. Without an error both have taken place; otherwise sent says whether the
	// commit may have.
	finish   func(ctx context.Context, last *query) (sent bool, err error)
	rollback func() // after a commit it does nothing but give the connection back
}

// beginner begins a transaction with its first statement, nil for none. With errFirst there is a session to roll back.
type beginner[Tx any] func(ctx context.Context, first *query) (s *session[Tx], errFirst, err error)

// errNotOpen: the work has ended the transaction itself.
var errNotOpen = fmt.Errorf("%w: the work has committed or rolled back its transaction; it must leave that to Do", coordinator.ErrInvalid)

// beginPgx has three ways. On a connection of pgx, its own or one that a pool lends, the first statement goes out with the
// BEGIN and the last one with the COMMIT, so that they cost no round trip. Anything else begins and commits as it likes.
func beginPgx(db Beginner, level pgx.TxIsoLevel) beginner[pgx.Tx] {
	return func(ctx context.Context, first *query) (s *session[pgx.Tx], errFirst, err error) {
		switch db := db.(type) {
		case *pgx.Conn:
			return beginConn(ctx, db, func() {}, level, first)
		case *pgxpool.Pool: // and no type that embeds one, which may have a BeginTx of its own
			conn, err := db.Acquire(ctx)
			if err != nil {
				return nil, nil, err
			}
			return beginConn(ctx, conn.Conn(), conn.Release, level, first)
		}
		tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
		if err != nil {
			return nil, nil, err
		}
		if first != nil {
			errFirst = first.ask(ctx, tx)
		}
		return &session[pgx.Tx]{
			tx: tx, q: tx,
			finish: func(ctx context.Context, last *query) (sent bool, err error) {
				if err := last.ask(ctx, tx); err != nil {
					return false, err
				}
				return true, tx.Commit(ctx)
			},
			rollback: func() { rollBack(ctx, tx) },
		}, errFirst, nil
	}
}

// outliving returns a context that ends d after ctx.
func outliving(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return longer, func() {
		stop()
		cancel()
	}
}

func rollBack(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	_ = tx.Rollback(ctx) // what cannot be rolled back ends with its connection
}

func beginConn(ctx context.Context, conn *pgx.Conn, giveBack func(), level pgx.TxIsoLevel, first *query) (s *session[pgx.Tx], errFirst, err error) {
	begin := "begin"
	if level != "" {
		begin += " isolation level " + string(level)
	}
	if first == nil {
		_, err = conn.Exec(ctx, begin)
	} else {
		var both pgx.Batch
		both.Queue(begin)
		both.Queue(first.sql, first.args...)
		results := conn.SendBatch(ctx, &both)
		_, err = results.Exec()
		errFirst = results.QueryRow().Scan(first.row...)
		if errClose := results.Close(); errFirst == nil {
			errFirst = errClose
		}
	}
	tx := &connTx{conn: conn, ctx: ctx}
	s = &session[pgx.Tx]{
		tx: tx, q: tx,
		finish: func(ctx context.Context, last *query) (sent bool, err error) {
			sent, err = finishAtOnce(ctx, conn, last)
			return sent, err
		},
		rollback: sync.OnceFunc(func() { // once all of it: the next borrower of the connection may be in a transaction of its own
			if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
				rollBack(ctx, tx)
			}
			giveBack()
		}),
	}
	if err != nil {
		s.rollback()
		return nil, nil, err
	}
	return s, errFirst, nil
}

// finishAtOnce sends the last statement and the commit together: where the statement fails the server does not come to
// the commit.
func finishAtOnce(ctx context.Context, conn *pgx.Conn, last *query) (sent bool, err error) {
	switch {
	case conn.IsClosed():
		return false, pgconn.ErrConnClosed
	case conn.PgConn().IsBusy():
		return false, errBusy
	case conn.PgConn().TxStatus() == 'I':
		return false, errNotOpen
	}
	var both pgx.Batch
	both.Queue(last.sql, last.args...)
	both.Queue("commit")
	results := conn.SendBatch(ctx, &both)
	errLast := results.QueryRow().Scan(last.row...)
	tag, errCommit := results.Exec()
	errClose := results.Close()
	if _, refused := errors.AsType[*pgconn.PgError](errLast); refused {
		return false, errLast
	}
	if err := errors.Join(errLast, errCommit, errClose); err != nil {
		return true, err
	}
	if tag.String() != "COMMIT" {
		return true, pgx.ErrTxCommitRollback
	}
	return true, nil
}

// connTx is the transaction that is open on a connection. pgx makes a Tx only with a BEGIN of its own; where work
// asks for what only such a one has, savepoints and large objects, it gets one whose BEGIN does nothing.
type connTx struct {
	conn *pgx.Conn
	ctx  context.Context // for LargeObjects, which takes none
	real pgx.Tx
}

func (tx *connTx) whole(ctx context.Context) (_ pgx.Tx, err error) {
	if tx.real == nil {
		tx.real, err = tx.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: ";"})
	}
	return tx.real, err
}

func (tx *connTx) Begin(ctx context.Context) (pgx.Tx, error) {
	whole, err := tx.whole(ctx)
	if err != nil {
		return nil, err
	}
	return whole.Begin(ctx)
}

// LargeObjects has a transaction unless the connection is broken: an empty statement is allowed in every state.
func (tx *connTx) LargeObjects() pgx.LargeObjects {
	whole, err := tx.whole(tx.ctx)
	if err != nil {
		return pgx.LargeObjects{}
	}
	return whole.LargeObjects()
}

func (tx *connTx) end(ctx context.Context, how string) error {
	if tx.conn.IsClosed() || tx.conn.PgConn().TxStatus() == 'I' {
		return pgx.ErrTxClosed
	}
	tag, err := tx.conn.Exec(ctx, how)
	if err != nil && how == "rollback" { // as pgx does: rows that were left open, say; nobody is to go on in this transaction
		_ = tx.conn.Close(ctx)
	}
	if err == nil && how == "commit" && tag.String() != "COMMIT" {
		return pgx.ErrTxCommitRollback
	}
	return err
}

func (tx *connTx) Commit(ctx context.Context) error   { return tx.end(ctx, "commit") }
func (tx *connTx) Rollback(ctx context.Context) error { return tx.end(ctx, "rollback") }

func (tx *connTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return tx.conn.CopyFrom(ctx, table, columns, rows)
}

func (tx *connTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return tx.conn.SendBatch(ctx, b)
}

func (tx *connTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	return tx.conn.Prepare(ctx, name, sql)
}

func (tx *connTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return tx.conn.Exec(ctx, sql, args...)
}

func (tx *connTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return tx.conn.Query(ctx, sql, args...)
}

func (tx *connTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return tx.conn.QueryRow(ctx, sql, args...)
}

func (tx *connTx) Conn() *pgx.Conn { return tx.conn }

// beginSQL takes the transaction out of database/sql's habit of rolling back when the context ends, from the commit on.
func beginSQL(db SQLBeginner, level pgx.TxIsoLevel) beginner[*sql.Tx] {
	levels := map[pgx.TxIsoLevel]sql.IsolationLevel{
		pgx.ReadCommitted: sql.LevelReadCommitted, pgx.RepeatableRead: sql.LevelRepeatableRead, pgx.Serializable: sql.LevelSerializable,
	}
	return func(ctx context.Context, first *query) (s *session[*sql.Tx], errFirst, err error) {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stop := context.AfterFunc(ctx, cancel)
		tx, err := db.BeginTx(own, &sql.TxOptions{Isolation: levels[level]})
		if err != nil {
			stop()
			cancel()
			if cause := context.Cause(ctx); cause != nil {
				err = fmt.Errorf("%w: %w", cause, err)
			}
			return nil, nil, err
		}
		if first != nil {
			errFirst = first.ask(ctx, SQL(tx))
		}
		return &session[*sql.Tx]{
			tx: tx, q: SQL(tx),
			finish: func(ctx context.Context, last *query) (sent bool, err error) {
				if err := last.ask(ctx, SQL(tx)); err != nil {
					if errors.Is(err, sql.ErrTxDone) {
						err = errNotOpen
					}
					return false, err
				}
				stop()
				defer context.AfterFunc(ctx, cancel)()
				return true, tx.Commit()
			},
			rollback: func() {
				stop()
				_ = tx.Rollback()
				cancel()
			},
		}, errFirst, nil
	}
}

var (
	// errBehind: the claim's token is not above what the database has seen of the resource.
	errBehind = errors.New("coordpg: Redis granted a token that the database has seen exceeded")
	// errNotCommitted: the commit failed, and it is certain that nothing of it is left.
	errNotCommitted = errors.New("coordpg: the transaction was not committed")
)

// once is one run of the transaction. With a final error there is no work, and that becomes the outcome.
func (op *operation[Tx]) once(ctx context.Context, l *Lease, final error) (*outcome, error) {
	s, e, err := op.open(ctx, l)
	if err != nil {
		return nil, err
	}
	defer s.rollback()
	if e != nil {
		out, err := op.stored(e, l)
		if err == nil {
			err = op.confirm(ctx, s)
		}
		return out, err
	}
	c := &completion{place: op.place, keep: op.keep}
	var payload []byte
	if final != nil {
		c.failed, payload = true, []byte(final.Error())
	} else {
		working := ctx
		if l.redis == nil { // nobody else is let in before the server has ended a transaction that stands still
			var cancel context.CancelFunc
			working, cancel = context.WithDeadlineCause(coordinator.ContextWithGrant(ctx, l.grant), l.ends, coordinator.ErrLeaseLost)
			defer cancel()
		}
		if payload, err = op.work(working, s.tx, l); stoodStill(err) {
			return nil, explain(err, op.key, l.grant)
		} else if err != nil {
			if l.redis == nil && errors.Is(context.Cause(working), coordinator.ErrLeaseLost) {
				err = fmt.Errorf("%w: where the database grants, work ends after LeaseFor, and IdleFor: %w", coordinator.ErrLeaseLost, err)
			}
			return nil, err
		}
		if cause := context.Cause(working); cause != nil {
			return nil, fmt.Errorf("coordpg: not committed: %w", cause)
		}
		c.events = append(op.events[:len(op.events):len(op.events)], l.events...)
	}
	return op.commit(ctx, s, l, c, payload)
}

// commit writes the outcome and commits, and finds out what has become of that.
func (op *operation[Tx]) commit(ctx context.Context, s *session[Tx], l *Lease, c *completion, payload []byte) (*outcome, error) {
	// It is not cut short at once with its context: that would only make its outcome unknown.
	committing, cancel := outliving(ctx, tidyTime)
	defer cancel()
	done := &outcome{result: coordinator.Result{Payload: payload, Failed: c.failed, Token: l.grant.Token}}
	var first bool
	last := c.quick(l, payload)
	if len(c.events) > 0 {
		last = c.statement(nil, l, payload)
	}
	last.row = []any{&first, &done.result.CompletedAt}
	sent, err := s.finish(committing, last)
	if err == nil {
		return done, nil
	}
	s.rollback()
	if sent && unsure(err) {
		return op.doubt(ctx, l, done, err)
	}
	if err = explain(err, op.key, l.grant); !errors.Is(err, coordinator.ErrCompleted) && !op.place.taken(err) {
		return nil, err
	}
	e, err := op.lookup(ctx)
	if errors.Is(err, coordinator.ErrNotFound) {
		return nil, fmt.Errorf("%w: the work has called Complete itself; under Do it returns the result, and Lease.Emit takes events", coordinator.ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	return op.stored(e, l)
}

// unsure reports whether a commit that failed by err may have taken place. The server's answer is certain unless it ends the
// session, which it may do at any moment. What pgx calls safe to retry is not: it says so of answers that were lost, too.
func unsure(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return cmp.Or(pg.SeverityUnlocalized, pg.Severity) != "ERROR"
	}
	return !errors.Is(err, pgx.ErrTxCommitRollback) && !errors.Is(err, pgx.ErrTxClosed) && !busy(err)
}

// stored is the outcome that the ledger has. This run did not write it, so what it says counts, also if the grant is the same.
func (op *operation[Tx]) stored(e *Entry, l *Lease) (*outcome, error) {
	if err := e.matches(l.fingerprint); err != nil {
		return nil, err
	}
	return &outcome{result: e.Result, replayed: true}, nil
}

// alone is the lease where the database grants.
func (op *operation[Tx]) alone() time.Duration {
	if op.lease > 0 {
		return op.lease
	}
	return 30 * time.Second
}

// idling is how long the transaction may stand still.
func (op *operation[Tx]) idling(l *Lease) time.Duration {
	switch {
	case op.idle > 0:
		return op.idle
	case l.redis == nil:
		return min(op.alone(), longestIdle)
	}
	return min(max(time.Until(l.redis.Deadline()), 100*time.Millisecond), longestIdle)
}

// open begins the transaction. It returns what the ledger has, or nil: the work may begin.
func (op *operation[Tx]) open(ctx context.Context, l *Lease) (s *session[Tx], e *Entry, err error) {
	redis, done := true, false // who grants, whether the ledger has the outcome
	var waited *int64          // µs
	opened := time.Now()
	key, idle := op.key, op.idling(l).Milliseconds()
	scope, id, resource := []byte(key.Scope), []byte(key.ID), []byte(key.Resource)
	var first *query
	switch {
	case l.redis == nil:
		first = &query{
			sql:  op.place.sql(`SELECT _done, _token, _waited_us FROM @schema.open_alone($1, $2, $3, $4, $5, $6, $7, $8)`),
			args: []any{scope, id, resource, op.domain(), ownerOf(l.grant), runOf(l.grant), idle, min(op.wait, longestIdle).Milliseconds()},
			row:  []any{&done, (*int64)(&l.grant.Token), &waited},
		}
	case key.Resource != "":
		first = &query{
			sql:  op.place.sql(`SELECT @schema.open($1, $2, $3, $4, $5, $6, $7, $8)`),
			args: []any{scope, id, resource, int64(l.grant.Token), ownerOf(l.grant), runOf(l.grant), strconv.FormatInt(idle, 10), op.idle > 0},
			row:  []any{&done},
		}
	default: // the columns are worked out in their order: first the locks, then who grants
		first = &query{
			sql: op.place.sql(`SELECT pg_advisory_xact_lock_shared(1869505381, hashtext('@schema')) IS NULL, pg_advisory_xact_lock_shared($6) IS NULL,
				CASE WHEN $5 OR current_setting('idle_in_transaction_session_timeout') = '0' THEN set_config('idle_in_transaction_session_timeout', $4, true) END IS NULL,
				pg_sequence_last_value('@schema.side') % 2 = 1,
				EXISTS (SELECT FROM @schema.ledger WHERE scope = $1 AND id = $2 AND resource = $3)`),
			args: []any{scope, id, resource, strconv.FormatInt(idle, 10), op.idle > 0, runOf(l.grant)},
			row:  []any{new(bool), new(bool), new(bool), &redis, &done},
		}
	}
	s, err, errBegin := op.begin(ctx, first)
	if errBegin != nil {
		return nil, nil, explain(fmt.Errorf("begin: %w", errBegin), key, l.grant)
	}
	if err == nil && redis && done { // hardly ever, so that the first statement does not carry an outcome's columns
		if e, err = lookup(ctx, s.q, op.place, key); errors.Is(err, coordinator.ErrNotFound) {
			err = nil // it has just been swept
		}
	}
	err = explain(err, key, l.grant)
	switch {
	case err == nil && !redis:
		err = fmt.Errorf("%w: %w: this database grants alone until Redis is back", coordinator.ErrLeaseLost, errOtherSide)
	case errors.Is(err, coordinator.ErrStaleToken):
		err = fmt.Errorf("%w: %w", errBehind, err)
	case err == nil && e == nil && l.grant.Token == 0:
		err = &coordinator.InProgressError{Key: key}
	}
	if err != nil {
		s.rollback()
		return nil, nil, err
	}
	if waited != nil {
		l.ends = opened.Add(time.Duration(*waited)*time.Microsecond + min(op.alone(), op.idling(l))*9/10)
	}
	return s, e, nil
}

// domain is the number of the lock on the key's fence domain. Two domains with one number would keep each other waiting,
// no more.
func (op *operation[Tx]) domain() int64 {
	name := coordinator.JoinScope(string(op.place), "key", op.key.Scope, op.key.ID)
	if op.key.Resource != "" {
		name = coordinator.JoinScope(string(op.place), "resource", op.key.Resource)
	}
	sum := sha256.Sum256([]byte(name))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// runOf is the number of the lock that every transaction of a grant holds from its first statement to its end.
func runOf(g coordinator.Grant) int64 { return int64(binary.BigEndian.Uint64(ownerOf(g))) }

// doubt finds out what has become of a commit whose answer did not come.
func (op *operation[Tx]) doubt(ctx context.Context, l *Lease, done *outcome, cause error) (*outcome, error) {
	ctx, gone := outliving(ctx, tidyTime)
	defer gone()
	ctx, cancel := context.WithTimeout(ctx, op.doubting)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := op.probe(ctx, l, done)
		switch {
		case err == nil:
			return out, nil
		case errors.Is(err, errNotCommitted):
			return nil, fmt.Errorf("%w: %w", errNotCommitted, cause)
		case errors.Is(err, coordinator.ErrMismatch):
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, &coordinator.UnknownError{Key: op.key, Err: fmt.Errorf("coordpg: the answer to the commit was lost: %w (and the ledger does not say: %w)", cause, err)}
		}
	}
}

// probe waits until the transaction in doubt has ended, by the lock that it has held since it was opened: its commit may still be on
// its way to the server. Then there is its entry, or nothing and nothing to come.
func (op *operation[Tx]) probe(ctx context.Context, l *Lease, done *outcome) (*outcome, error) {
	err := op.reading(ctx, func(s *session[Tx]) error {
		return (&query{sql: `SELECT pg_advisory_xact_lock($1) IS NULL`, args: []any{runOf(l.grant)}, row: []any{new(bool)}}).ask(ctx, s.q)
	})
	if err != nil {
		return nil, err
	}
	e, err := op.lookup(ctx)
	switch {
	case errors.Is(err, coordinator.ErrNotFound):
		return nil, errNotCommitted
	case err != nil:
		return nil, err
	case e.by(l.grant) && e.Result.Failed == done.result.Failed && bytes.Equal(e.Result.Payload, done.result.Payload):
		return &outcome{result: e.Result}, nil
	}
	return op.stored(e, l)
}

// confirm ends a transaction that has read an outcome, once that is on the standbys that commits wait for. An outcome whose own wait
// for them was cut short can be seen all the same; whatever is logged after it waits for as much.
func (op *operation[Tx]) confirm(ctx context.Context, s *session[Tx]) error {
	sent, err := s.finish(ctx, &query{
		sql: `SELECT CASE WHEN current_setting('synchronous_standby_names') <> '' THEN pg_logical_emit_message(true, 'coordpg', '') END IS NULL`,
		row: []any{new(bool)},
	})
	if err != nil && sent && unsure(err) {
		return &coordinator.UnknownError{Key: op.key, Err: fmt.Errorf("coordpg: the ledger has the outcome, and the synchronous standbys have not confirmed it: %w", err)}
	}
	return explain(err, op.key, coordinator.Grant{})
}
