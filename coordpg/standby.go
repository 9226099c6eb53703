package coordpg

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator"
)

// Standby lets the database grant alone while Redis is away. One per process watches Redis, and all that share a schema
// agree through it: [Do] with [WithStandby] asks the side that grants, and is refused by the other.
//
// There is no moment in which both sides grant: a transaction holds on to its side from its first statement to its end, and a
// switch waits until those of the other side have ended, which [IdleFor] bounds. Meanwhile new ones wait: a switch by itself gives
// way to them after a second, and tries again. What was granted by
// Redis before a switch cannot be completed after it, until Redis grants again. Leases that never come to the
// database are not held back; let a Fence in Redis refuse them.
type Standby struct {
	c     *coordinator.Coordinator
	db    Querier
	place place
	away  time.Duration
	back  time.Duration
	every time.Duration
	probe func(context.Context) error
	alone atomic.Bool
	runs  atomic.Int64       // calls of Run
	asked chan chan struct{} // to look now, and be told
}

// StandbyOption configures a [Standby].
type StandbyOption func(*Standby) error

// AwayFor sets how long Redis must have been out of reach of a process before the database takes over: 2s unless set.
func AwayFor(d time.Duration) StandbyOption {
	return func(s *Standby) error { return positive("AwayFor", d, &s.away) }
}

// BackFor sets how long Redis must have been in reach of every process before it grants again: 10s unless set.
func BackFor(d time.Duration) StandbyOption {
	return func(s *Standby) error { return positive("BackFor", d, &s.back) }
}

// Every sets how often Redis and the database are asked: every 500ms unless set.
func Every(d time.Duration) StandbyOption {
	return func(s *Standby) error { return positive("Every", d, &s.every) }
}

// StandbyIn is [InSchema] for a Standby.
func StandbyIn(schema string) StandbyOption {
	return func(s *Standby) error { return inSchema(schema).place(&s.place) }
}

func positive(name string, d time.Duration, to *time.Duration) error {
	if d < time.Millisecond {
		return fmt.Errorf("%w: %s takes 1ms and more, not %v", coordinator.ErrInvalid, name, d)
	}
	*to = d
	return nil
}

// NewStandby makes a Standby that finds out by claims of its own whether c's Redis is there. db is a pool. Nothing happens
// before [Standby.Run].
func NewStandby(c *coordinator.Coordinator, db Querier, opts ...StandbyOption) (*Standby, error) {
	s := &Standby{c: c, db: db, place: DefaultSchema, away: 2 * time.Second, back: 10 * time.Second, every: 500 * time.Millisecond, asked: make(chan chan struct{})}
	for _, opt := range opts {
		if opt == nil {
			return nil, errNilOption()
		}
		if err := opt(s); err != nil {
			return nil, err
		}
	}
	if least := 2 * (s.every + s.patience()); s.back < least {
		return nil, fmt.Errorf("%w: BackFor is %v; at least %v are needed to hear of every process that cannot reach Redis", coordinator.ErrInvalid, s.back, least)
	}
	name := make([]byte, 8)
	if _, err := rand.Read(name); err != nil {
		return nil, err
	}
	key := coordinator.Key{Scope: "coordpg", ID: "standby/" + hex.EncodeToString(name)}
	s.probe = func(ctx context.Context) error {
		lease, err := c.Claim(ctx, key, coordinator.ManualRenewal())
		if err == nil {
			return lease.Release(ctx)
		}
		if unknown, ok := errors.AsType[*coordinator.UnknownError](err); ok {
			_ = c.GiveBack(ctx, key, unknown.Owner)
		}
		return err
	}
	return s, nil
}

// WithStandby lets Do go on while Redis is away.
func WithStandby(s *Standby) DoOption {
	return doOption(func(o *doing) error {
		if s == nil {
			return fmt.Errorf("%w: WithStandby needs a Standby", coordinator.ErrInvalid)
		}
		o.standby = s
		return nil
	})
}

// Alone reports whether the database grants, as far as this process knows.
func (s *Standby) Alone() bool { return s.alone.Load() }

// look asks the database who grants now.
func (s *Standby) look(ctx context.Context) error {
	var redis bool
	if err := s.db.QueryRow(ctx, s.place.sql(`SELECT @schema.redis_grants()`)).Scan(&redis); err != nil {
		return explain(err, coordinator.Key{}, coordinator.Grant{})
	}
	s.alone.Store(!redis)
	return nil
}

// TakeOver lets the database grant alone from now on, for every process of the schema, until [HandBack]: [Standby.Run] does
// not hand back what was taken over by hand. It waits until every transaction under a grant of Redis has ended, and reports
// whether the side has changed. Where ctx ends first, the switch may still come about, unless the connection is of a kind that
// asks the server to stop (pgconn.CancelRequestContextWatcherHandler); [Look] tells.
//
// db is a pool or a connection, and not a transaction, which is ErrInvalid: the side is changed for everybody before that
// commits, and stays so if it is rolled back.
func TakeOver(ctx context.Context, db Querier, reason string, opts ...Option) (changed bool, err error) {
	return handByHand(ctx, db, false, reason, opts)
}

// HandBack lets Redis grant from now on, whatever [BackFor] says. It waits until every transaction under a grant of the
// database has ended, and reports whether the side has changed. What [TakeOver] says of ctx holds here too.
func HandBack(ctx context.Context, db Querier, reason string, opts ...Option) (changed bool, err error) {
	return handByHand(ctx, db, true, reason, opts)
}

func handByHand(ctx context.Context, db Querier, redis bool, reason string, opts []Option) (bool, error) {
	p, err := placeOf(opts)
	if err != nil {
		return false, err
	}
	if _, ok := db.(pgx.Tx); ok {
		return false, fmt.Errorf("%w: a switch takes a pool or a connection, not a transaction, which could not be rolled back", coordinator.ErrInvalid)
	}
	return hand(ctx, db, p, redis, reason, nil)
}

func hand(ctx context.Context, db Querier, p place, redis bool, reason string, calm *int64) (changed bool, err error) {
	err = db.QueryRow(ctx, p.sql(`SELECT @schema.switch($1, $2, $3)`), redis, reason, calm).Scan(&changed)
	return changed, explain(err, coordinator.Key{}, coordinator.Grant{})
}

func (s *Standby) hand(ctx context.Context, redis bool, reason string, calm int64) error {
	if _, err := hand(ctx, s.db, s.place, redis, reason, &calm); err != nil {
		return err
	}
	return s.look(ctx)
}

// Run watches until ctx ends, and returns ctx's cause. It hands over by itself: to the database when Redis has been
// out of reach for [AwayFor], back when it has been in reach of everybody for [BackFor].
func (s *Standby) Run(ctx context.Context) error {
	s.runs.Add(1)
	defer s.runs.Add(-1)
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	var waiting []chan struct{}
	var since time.Time // the first of the probes, without a break, that said what the last one says
	reachable := true
	for {
		begun := time.Now()
		err := s.ask(ctx)
		if since.IsZero() || (err == nil) != reachable {
			since, reachable = begun, err == nil
		}
		_ = s.act(ctx, err, time.Since(since)) // the database is away too: the next round asks again
		for _, told := range waiting {
			close(told)
		}
		waiting = waiting[:0]
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case told := <-s.asked:
			waiting = append(waiting, told)
		case <-tick.C:
		}
	}
}

// patience is how long a probe may take: a call to a Redis that is away is repeated until then.
func (s *Standby) patience() time.Duration {
	return max(100*time.Millisecond, min(s.away, time.Second))
}

// ask probes Redis. Answers of every kind show that it is there, also those that it is out of memory or cannot save.
func (s *Standby) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	err := s.probe(ctx)
	if errors.Is(err, coordinator.ErrUnavailable) || errors.Is(err, coordinator.ErrUnknown) || errors.Is(err, coordinator.ErrNotReplicated) || ctx.Err() != nil {
		return err
	}
	return nil
}

// act does what follows from Redis having been as it is for so long.
func (s *Standby) act(ctx context.Context, away error, since time.Duration) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	switch {
	case away != nil && s.Alone():
		return explain(s.db.QueryRow(ctx, s.place.sql(`UPDATE @schema.standby SET away_at = clock_timestamp() RETURNING 1`)).Scan(new(int)), coordinator.Key{}, coordinator.Grant{})
	case away != nil && since >= s.away:
		return s.hand(ctx, false, "Redis is out of reach: "+away.Error(), 0)
	case away == nil && s.Alone() && since >= s.back:
		return s.hand(ctx, true, "Redis is back", s.back.Milliseconds())
	}
	return nil
}

// decide waits, after a call to Redis that failed, until Redis is there or the database grants. It reports whether that is so; not
// when nobody watches, or it takes too long.
func (s *Standby) decide(ctx context.Context) bool {
	if s.runs.Load() == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, s.away+10*time.Second)
	defer cancel()
	for {
		told := make(chan struct{})
		select {
		case s.asked <- told:
		case <-ctx.Done():
			return false // nobody runs it, or the caller has gone
		}
		select {
		case <-told:
		case <-ctx.Done():
			return false
		}
		if s.Alone() || s.ask(ctx) == nil {
			return true
		}
	}
}
