package coordpg

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/onceward/coordinator"
)

// Querier runs a statement that returns a row: a pgx.Tx, or [SQL] of a transaction of database/sql. Where a call only
// reads, a *pgxpool.Pool will do.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// SQL makes a Querier of a *sql.Tx (or *sql.DB, *sql.Conn) whose driver is pgx's stdlib.
func SQL(tx interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) Querier {
	return querier(func(ctx context.Context, sql string, args ...any) pgx.Row {
		return tx.QueryRowContext(ctx, sql, args...)
	})
}

type querier func(ctx context.Context, sql string, args ...any) pgx.Row

func (q querier) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return q(ctx, sql, args...)
}

// Retryable reports whether err is one after which the whole transaction should run again: a deadlock, a
// serialization failure, or a server that was shut down or lost before the commit was sent. Not after a
// commit: what a lost answer to that means only the ledger can tell. [Do] runs again by itself.
func Retryable(err error) bool {
	if errors.Is(err, coordinator.ErrUnknown) || busy(err) || stoodStill(err) { // the last two would come about again
		return false
	}
	if errors.Is(err, errNotCommitted) {
		return true
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "40001", "40P01", // serialization failure, deadlock
			"57P01", "57P02", "57P03": // the server shuts down, crashed, starts
			return true
		}
		return strings.HasPrefix(pg.Code, "08")
	}
	// The bare ends of a connection; the context's own end is none of them.
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	network, isNetwork := errors.AsType[net.Error](err)
	return pgconn.SafeToRetry(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, sql.ErrConnDone) || isNetwork && !network.Timeout() || err != nil && strings.Contains(err.Error(), "conn closed")
}

// busy reports whether rows are still open, so that nothing could be sent. pgx has no other mark for that than its words.
func busy(err error) bool { return err != nil && strings.HasSuffix(err.Error(), errBusy.Error()) }

var errBusy = errors.New("conn busy")

// stoodStill reports whether the server has ended a session that did nothing in its transaction for too long.
func stoodStill(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "25P03"
}

// What the functions of the schema raise.
const (
	raisedStale     = "ON001"
	raisedCompleted = "ON002"
	raisedSide      = "ON003"
)

// errOtherSide: Redis grants, or the database alone, and not whom the transaction's grant is from.
var errOtherSide = errors.New("coordpg: the grant is not from the side that grants now")

// explain turns what the database answered into this project's errors.
func explain(err error, key coordinator.Key, g coordinator.Grant) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if err == nil {
			return nil
		}
		if busy(err) {
			return fmt.Errorf("%w: the work has left rows open; it must close them: %w", coordinator.ErrInvalid, err)
		}
		return fmt.Errorf("coordpg: %w", err)
	}
	switch pg.Code {
	case raisedStale:
		seen, _ := strconv.ParseInt(pg.Detail, 10, 64)
		stale := &coordinator.StaleTokenError{Key: key, Token: g.Token, Current: coordinator.Token(seen)}
		return fmt.Errorf("%w: %w", stale, err)
	case raisedCompleted:
		return fmt.Errorf("%w: roll back, and Lookup has the outcome: %w", coordinator.ErrCompleted, err)
	case raisedSide:
		return fmt.Errorf("%w: %w: %w", coordinator.ErrLeaseLost, errOtherSide, err)
	case "25P03":
		return fmt.Errorf("coordpg: the transaction stood still for so long that the server ended it; IdleFor allows more (PublishWithin for a relay), or do slow work before it: %w", err)
	case "3F000", "42P01", "42883": // no such schema, table, function
		return fmt.Errorf("coordpg: the schema is not there, or not up to date (coordctl pg migrate makes it so): %w", err)
	}
	return fmt.Errorf("coordpg: %w", err)
}

// ownerOf is what the database keeps of a grant's owner, which itself is a credential.
func ownerOf(g coordinator.Grant) []byte {
	sum := sha256.Sum256([]byte(g.Owner))
	return sum[:16]
}

const maxNameBytes = 1000

// checkKey refuses keys that the tables have no room for: an entry of an index has at most 2,700 bytes.
func checkKey(key coordinator.Key) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if len(key.Scope) > maxNameBytes {
		return fmt.Errorf("%w: Key.Scope has %d bytes, coordpg takes %d; use its digest", coordinator.ErrInvalid, len(key.Scope), maxNameBytes)
	}
	return checkResource(key.Resource)
}

func checkResource(resource string) error {
	if len(resource) > maxNameBytes {
		return fmt.Errorf("%w: the resource has %d bytes, coordpg takes %d; use its digest", coordinator.ErrInvalid, len(resource), maxNameBytes)
	}
	return nil
}

// checkGrant refuses what is no grant, before the database sees it.
func checkGrant(g coordinator.Grant) error {
	_, err := coordinator.ParseGrant(g.String())
	return err
}
