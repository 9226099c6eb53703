// Package coordpg takes operations that must take effect once into PostgreSQL: rows that refuse late writers, and
// outcomes that survive Redis.
//
//	receipt, replayed, err := coordpg.Do(ctx, c, pool, key, func(ctx context.Context, tx pgx.Tx, lease *coordpg.Lease) (Receipt, error) {
//		_, err := tx.Exec(ctx, `UPDATE accounts SET balance = balance - $1 WHERE id = $2`, amount, account)
//		return Receipt{Amount: amount}, err
//	})
//
// Redis is the fast side: it decides who works and answers everybody else, and may lose its last second of
// writes. The database is the authority. [Do] writes the outcome in the transaction of the effects, under a primary key of
// scope, id and resource, so the effects of a key in this database take place once, whatever Redis has lost and
// whoever died when. Effects elsewhere take place at least once.
//
// The parts can be had alone:
//
//   - [BeginFunc] and [Admit] let a transaction go on only if no later grant has been seen for its resource (P3); [FencedUpdate] does
//     the same by two columns of one's own table, and [Trigger] refuses writes of code that forgot to ask.
//     [HighWater] is what [coordinator.MinToken] asks for.
//   - [Complete] writes an outcome into the ledger, with events for the outbox; [Lookup] and [Recover] read it.
//   - [Standby] lets the database grant alone while Redis is away.
//   - [Relay] publishes the outbox, [Sweep] deletes what is old, [Migrate] makes the tables.
//
// All of them take a [Querier]: a transaction of pgx, or [SQL] of one of database/sql. docs/postgres.md has a table of
// what each combination guarantees when which part dies, the tables, and their sizes.
//
// # Errors
//
// Refusals are raised in the server, so a transaction that was refused cannot be committed by mistake. They are the
// errors of package coordinator: ErrStaleToken, ErrCompleted, ErrMismatch, ErrUnknown, ErrInvalid. The database's
// own errors are wrapped, so that errors.As finds a *pgconn.PgError; [Retryable] knows those after which
// the whole transaction should run again.
package coordpg
