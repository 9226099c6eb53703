package coordpg

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/onceward/coordinator"
)

// holder is what the ledger needs to know of a lease.
type holder interface {
	Key() coordinator.Key
	Grant() coordinator.Grant
	Attempt() int
	Fingerprint() []byte
}

// Entry is an outcome in the ledger.
type Entry struct {
	Key         coordinator.Key
	Result      coordinator.Result
	Fingerprint []byte // nil for none
	Attempt     int
	ExpiresAt   time.Time // when [Sweep] may delete it
	owner       []byte
}

// by reports whether this grant has written the entry.
func (e *Entry) by(g coordinator.Grant) bool {
	return e.Result.Token == g.Token && bytes.Equal(e.owner, ownerOf(g))
}

var errBound = fmt.Errorf("%w: the ledger has the key's outcome for another one", coordinator.ErrMismatch)

// matches is ErrMismatch unless the entry is bound to this fingerprint (P4).
func (e *Entry) matches(fingerprint []byte) error {
	if bytes.Equal(e.Fingerprint, fingerprint) {
		return nil
	}
	return errBound
}

// Lookup returns what the ledger has of key; ErrNotFound where it has nothing. It waits for nobody: an operation whose
// transaction is under way is not found.
func Lookup(ctx context.Context, db Querier, key coordinator.Key, opts ...Option) (*Entry, error) {
	p, err := placeOf(opts)
	if err != nil {
		return nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return lookup(ctx, db, p, key)
}

func lookup(ctx context.Context, db Querier, p place, key coordinator.Key) (*Entry, error) {
	e := &Entry{Key: key}
	r := &e.Result
	err := db.QueryRow(ctx, p.sql(`
		SELECT token, attempt, failed, owner, fingerprint, payload, completed_at, expires_at
		FROM @schema.ledger WHERE scope = $1 AND id = $2 AND resource = $3`),
		[]byte(key.Scope), []byte(key.ID), []byte(key.Resource),
	).Scan((*int64)(&r.Token), &e.Attempt, &r.Failed, &e.owner, &e.Fingerprint, &r.Payload, &r.CompletedAt, &e.ExpiresAt)
	if errors.Is(err, sql.ErrNoRows) { // pgx's own is that too
		return nil, fmt.Errorf("%w: the ledger has no outcome", coordinator.ErrNotFound)
	}
	if err != nil {
		return nil, explain(err, key, coordinator.Grant{})
	}
	if len(e.Fingerprint) == 0 {
		e.Fingerprint = nil
	}
	return e, nil
}

// Recover answers from the ledger before work is run again: call it after a claim whose Attempt is over 1, or after
// every claim if Redis may have forgotten. If the operation was done its result is stored in Redis too, under
// the lease, which ends that way; the result counts whatever becomes of that. ErrNotFound: it was not, go on and
// work. ErrMismatch: it was, for another fingerprint; expire the key, or Redis stays bound to the wrong one. [Do] does
// all of this by itself.
func Recover(ctx context.Context, db Querier, lease *coordinator.Lease, opts ...Option) (coordinator.Result, error) {
	e, err := Lookup(ctx, db, lease.Key(), opts...)
	if err != nil {
		return coordinator.Result{}, err
	}
	if err := e.matches(lease.Fingerprint()); err != nil {
		return coordinator.Result{}, err
	}
	tell := lease.Complete
	if e.Result.Failed {
		tell = lease.Fail
	}
	_ = tell(ctx, e.Result.Payload) // whoever comes next finds the ledger's answer again
	return e.Result, nil
}

// Forget deletes what the ledger has of key, so that the operation may run again; [coordinator.Coordinator.Expire] does the
// same in Redis. It reports whether there was anything.
func Forget(ctx context.Context, db Querier, key coordinator.Key, opts ...Option) (bool, error) {
	p, err := placeOf(opts)
	if err != nil {
		return false, err
	}
	if err := checkKey(key); err != nil {
		return false, err
	}
	var n int
	err = db.QueryRow(ctx, p.sql(`WITH gone AS (DELETE FROM @schema.ledger WHERE scope = $1 AND id = $2 AND resource = $3 RETURNING 1) SELECT count(*) FROM gone`),
		[]byte(key.Scope), []byte(key.ID), []byte(key.Resource)).Scan(&n)
	return n > 0, explain(err, key, coordinator.Grant{})
}

// completion is what can be said of an outcome.
type completion struct {
	place  place
	keep   time.Duration
	failed bool
	events []Event
}

// CompleteOption configures [Complete]; every one is a [DoOption] as well.
type CompleteOption interface {
	DoOption
	complete(*completion) error
}

const (
	leastKeep   = 2 * time.Hour // more than a lease can live where the coordinator is set to nothing else
	defaultKeep = 30 * 24 * time.Hour
	longestKeep = 100 * 366 * 24 * time.Hour
)

type retainFor time.Duration

func (d retainFor) keep(to *time.Duration) error {
	if time.Duration(d) < leastKeep || time.Duration(d) > longestKeep {
		return fmt.Errorf("%w: RetainFor takes %v to 100 years, not %v", coordinator.ErrInvalid, leastKeep, time.Duration(d))
	}
	*to = time.Duration(d)
	return nil
}
func (d retainFor) complete(o *completion) error { return d.keep(&o.keep) }
func (d retainFor) do(o *doing) error            { return d.keep(&o.keep) }

// RetainFor sets how long the ledger keeps the outcome: the default is 30 days, the least 2h. Until [Sweep] deletes it the operation
// does not run again. Let it be no less than what Redis keeps ([coordinator.WithRetention]), and longer than any retry. It must be longer
// than a lease can live, or else a worker that was stopped before the outcome was written does the work again after it is gone: [Do]
// refuses less than [coordinator.Coordinator.LeastRetention]; [Complete] cannot know that of a coordinator whose maximum lifetime was raised.
func RetainFor(d time.Duration) CompleteOption { return retainFor(d) }

// Complete writes the result of the lease's operation into the ledger, in the transaction of its effects: with its
// commit the operation is done. Tell Redis afterwards, by [coordinator.Lease.Complete]; if that fails, or the worker
// dies before, [Recover] or [Do] does so for whoever comes next. Under Do it is of no use: that completes by itself.
//
// If the key has a resource, the grant is admitted as by [Admit]. ErrCompleted: the operation was done before; roll
// back, and [Lookup] has its outcome. ErrStaleToken, ErrLeaseLost: this worker has been replaced; roll back.
// After any of them the transaction cannot be committed. Another transaction that is completing the same key is waited for.
func Complete(ctx context.Context, tx Querier, lease *coordinator.Lease, result []byte, opts ...CompleteOption) error {
	o := completion{place: DefaultSchema, keep: defaultKeep}
	for _, opt := range opts {
		if opt == nil {
			return errNilOption()
		}
		if err := opt.complete(&o); err != nil {
			return err
		}
	}
	if err := checkKey(lease.Key()); err != nil {
		return err
	}
	if err := checkGrant(lease.Grant()); err != nil {
		return err
	}
	redis := true
	_, err := o.write(ctx, tx, &redis, lease, result)
	return err
}

// write completes; false: this grant had written the same before. redis is as in [completion.statement].
func (o *completion) write(ctx context.Context, tx Querier, redis *bool, lease holder, result []byte) (first bool, err error) {
	last := o.statement(redis, lease, result)
	last.row = []any{&first, new(time.Time)}
	err = last.ask(ctx, tx)
	return first, explain(err, lease.Key(), lease.Grant())
}

// statement is the one that completes. redis is whose grant it is, nil in a transaction that was opened by [operation.open].
func (o *completion) statement(redis *bool, lease holder, result []byte) *query {
	key, g := lease.Key(), lease.Grant()
	topics, payloads := make([]string, len(o.events)), make([][]byte, len(o.events))
	for i, e := range o.events {
		topics[i], payloads[i] = e.Topic, notNil(e.Payload)
	}
	return &query{sql: o.place.sql(`SELECT o._first, o._at FROM @schema.complete($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS o`), args: []any{
		redis, []byte(key.Scope), []byte(key.ID), []byte(key.Resource), int64(g.Token), ownerOf(g), lease.Attempt(),
		notNil(lease.Fingerprint()), o.failed, notNil(result), o.keep.Milliseconds(), topics, payloads,
	}}
}

// quick is the statement for a transaction that was opened by [operation.open], and has no events. Where the outcome is there
// already it fails: it goes out with the commit, which must not be come to then.
func (o *completion) quick(lease holder, result []byte) *query {
	key, g := lease.Key(), lease.Grant()
	return &query{sql: o.place.sql(`
		INSERT INTO @schema.ledger (expires_at, token, attempt, failed, owner, scope, id, resource, fingerprint, payload)
		VALUES (clock_timestamp() + $1 * interval '1 millisecond', $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING true, completed_at`), args: []any{
		o.keep.Milliseconds(), int64(g.Token), lease.Attempt(), o.failed, ownerOf(g), []byte(key.Scope), []byte(key.ID), []byte(key.Resource),
		notNil(lease.Fingerprint()), notNil(result),
	}}
}

// taken reports whether err is of [completion.quick], and says that the outcome is there: of this schema's ledger, not of a table of the
// user's whose name is the same.
func (p place) taken(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "23505" && pg.SchemaName == string(p) && pg.TableName == "ledger" && pg.ConstraintName == "ledger_pkey"
}

// notNil keeps what is empty from becoming NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
