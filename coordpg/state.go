package coordpg

import (
	"context"
	"time"

	"github.com/onceward/coordinator"
)

// State is what an operator asks of the tables.
type State struct {
	Alone      bool      // the database grants, and Redis does not
	ByHand     bool      // it was taken over by hand, and is handed back by hand: [TakeOver], [HandBack]
	SwitchedAt time.Time // when that began
	Reason     string    // and why

	Ledger, Fences, Outbox Table

	Overdue int64     // outcomes that [Sweep] would delete now; not counted beyond 100000
	Waiting int64     // events that no relay has published yet; not counted beyond 100000
	Oldest  time.Time // when the first of them was written; zero for none
}

// Table is the size of one.
type Table struct {
	Rows  int64 // as the server's statistics have it
	Bytes int64 // with its indexes
}

// Look reads the state. It locks nothing, and counts what is bounded only.
func Look(ctx context.Context, db Querier, opts ...Option) (s State, err error) {
	p, err := placeOf(opts)
	if err != nil {
		return s, err
	}
	var oldest *time.Time
	err = db.QueryRow(ctx, p.sql(`
		SELECT NOT @schema.redis_grants(), pinned, switched_at, reason,
			pg_stat_get_live_tuples('@schema.ledger'::regclass), pg_total_relation_size('@schema.ledger'),
			pg_stat_get_live_tuples('@schema.fences'::regclass), pg_total_relation_size('@schema.fences'),
			pg_stat_get_live_tuples('@schema.outbox'::regclass), pg_total_relation_size('@schema.outbox'),
			(SELECT count(*) FROM (SELECT FROM @schema.ledger WHERE expires_at < now() LIMIT 100000) AS overdue),
			(SELECT count(*) FROM (SELECT FROM @schema.outbox LIMIT 100000) AS waiting),
			(SELECT created_at FROM @schema.outbox ORDER BY seq LIMIT 1)
		FROM @schema.standby`)).Scan(&s.Alone, &s.ByHand, &s.SwitchedAt, &s.Reason,
		&s.Ledger.Rows, &s.Ledger.Bytes, &s.Fences.Rows, &s.Fences.Bytes, &s.Outbox.Rows, &s.Outbox.Bytes,
		&s.Overdue, &s.Waiting, &oldest)
	if err != nil {
		return State{}, explain(err, coordinator.Key{}, coordinator.Grant{})
	}
	if oldest != nil {
		s.Oldest = *oldest
	}
	return s, nil
}
