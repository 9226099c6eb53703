package coordpg

import (
	"context"
	"fmt"
	"time"

	"github.com/onceward/coordinator"
)

// Swept counts what a sweep has deleted.
type Swept struct {
	Outcomes int64 // of the ledger, past their retention
	Fences   int64 // of resources that have not been seen for long
}

// SweepOption configures [Sweep].
type SweepOption func(*sweeping) error

type sweeping struct {
	place    place
	marks    time.Duration
	batch    int
	progress func(Swept)
}

const leastMarks = leastKeep

// KeepFences sets how long the mark of a resource that nobody writes to is kept: 30 days unless set, at least 2h. Let it be longer
// than any lease can live ([coordinator.WithMaxLifetime]): a worker older than that could pass where the mark is gone.
func KeepFences(d time.Duration) SweepOption {
	return func(s *sweeping) error {
		if d < leastMarks {
			return fmt.Errorf("%w: KeepFences takes %v and more, not %v", coordinator.ErrInvalid, leastMarks, d)
		}
		s.marks = d
		return nil
	}
}

// SweepBatch sets how many rows one transaction deletes at most: 1000 unless set, 1 to 100000.
func SweepBatch(n int) SweepOption {
	return func(s *sweeping) error {
		if n < 1 || n > 100000 {
			return fmt.Errorf("%w: SweepBatch takes 1 to 100000, not %d", coordinator.ErrInvalid, n)
		}
		s.batch = n
		return nil
	}
}

// SweepProgress is told, after each batch, what has been deleted so far.
func SweepProgress(f func(Swept)) SweepOption {
	return func(s *sweeping) error { s.progress = f; return nil }
}

// SweepIn is [InSchema] for a sweep.
func SweepIn(schema string) SweepOption {
	return func(s *sweeping) error { return inSchema(schema).place(&s.place) }
}

// Sweep deletes outcomes whose retention is over, and marks of resources that have not been seen for long, in small
// transactions that pass by rows that are locked. It may run in several processes at once. db is a pool, whose role may delete.
func Sweep(ctx context.Context, db Querier, opts ...SweepOption) (done Swept, err error) {
	s := sweeping{place: DefaultSchema, marks: 30 * 24 * time.Hour, batch: 1000, progress: func(Swept) {}}
	for _, opt := range opts {
		if opt == nil {
			return done, errNilOption()
		}
		if err := opt(&s); err != nil {
			return done, err
		}
	}
	for n := int64(s.batch); n == int64(s.batch); {
		if n, err = s.outcomes(ctx, db); err != nil {
			return done, explain(err, coordinator.Key{}, coordinator.Grant{})
		}
		done.Outcomes += n
		s.progress(done)
	}
	for last, more := []byte{}, true; more; {
		var n int64
		if n, last, err = s.fences(ctx, db, last); err != nil {
			return done, explain(err, coordinator.Key{}, coordinator.Grant{})
		}
		more = last != nil
		done.Fences += n
		s.progress(done)
	}
	return done, nil
}

func (s *sweeping) outcomes(ctx context.Context, db Querier) (n int64, err error) {
	err = db.QueryRow(ctx, s.place.sql(`
		WITH gone AS (
			DELETE FROM @schema.ledger WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM @schema.ledger WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
			)) RETURNING 1
		) SELECT count(*) FROM gone`), s.batch).Scan(&n)
	return n, err
}

// fences goes through the marks in the order of their names, a page at a time: an index by age would make every write
// of a mark a write of that index. It returns the last name of the page, nil after the last page.
func (s *sweeping) fences(ctx context.Context, db Querier, after []byte) (n int64, last []byte, err error) {
	err = db.QueryRow(ctx, s.place.sql(`
		WITH page AS MATERIALIZED (
			SELECT resource FROM @schema.fences WHERE resource > $1 ORDER BY resource LIMIT $2
		), old AS MATERIALIZED (
			SELECT resource FROM @schema.fences WHERE resource IN (SELECT resource FROM page) AND seen_at < now() - $3 * interval '1 millisecond' FOR UPDATE SKIP LOCKED
		), gone AS (
			DELETE FROM @schema.fences WHERE resource IN (SELECT resource FROM old) RETURNING 1
		) SELECT (SELECT count(*) FROM gone), (SELECT resource FROM page ORDER BY resource DESC LIMIT 1)`),
		after, s.batch, s.marks.Milliseconds()).Scan(&n, &last)
	return n, last, err
}

// KeepSwept sweeps at once and then at every interval, until ctx ends, and returns ctx's cause. What goes wrong is told to
// failed, which may be nil, and tried again at the next turn.
func KeepSwept(ctx context.Context, db Querier, every time.Duration, failed func(error), opts ...SweepOption) error {
	if every < time.Second {
		return fmt.Errorf("%w: KeepSwept takes 1s and more, not %v", coordinator.ErrInvalid, every)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if _, err := Sweep(ctx, db, opts...); err != nil && ctx.Err() == nil && failed != nil {
			failed(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
