package coordpg

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceward/coordinator"
)

// Pool is what a [Relay] needs of a *pgxpool.Pool.
type Pool interface {
	Beginner
	Querier
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
}

// Publisher hands events on, in order, and returns nil once they are safe. Its context ends with the relay, its lease, or
// [PublishWithin]. One that stops by then is called by one relay at a time.
type Publisher func(ctx context.Context, events []Event) error

// Relay publishes the outbox: the events of one resource in the order of their operations, each at least once. Those of
// different resources, or of none, come about in the order of their commits. Run one in every process: one of them
// works, by a lease of its own, and a relay that was replaced is refused by the fence of the outbox. An event
// that cannot be published holds up those behind it.
//
// It holds a transaction while it publishes, for [PublishWithin] at most, and is woken by NOTIFY; [PollEvery] is for notifications that are lost.
type Relay struct {
	c       *coordinator.Coordinator
	db      Pool
	publish Publisher
	place   place
	batch   int
	poll    time.Duration
	within  time.Duration
	failed  func(error)
	standby *Standby
}

// RelayOption configures a [Relay].
type RelayOption interface{ relay(*Relay) error }

type relayOption func(*Relay) error

func (f relayOption) relay(r *Relay) error { return f(r) }

// Batch sets how many events are published at once, at most: 100 unless set, 1 to 10000.
func Batch(n int) RelayOption {
	return relayOption(func(r *Relay) error {
		if n < 1 || n > 10000 {
			return fmt.Errorf("%w: Batch takes 1 to 10000, not %d", coordinator.ErrInvalid, n)
		}
		r.batch = n
		return nil
	})
}

// PollEvery sets how often the outbox is looked at without a notification: every 5s unless set.
func PollEvery(d time.Duration) RelayOption {
	return relayOption(func(r *Relay) error { return positive("PollEvery", d, &r.poll) })
}

// PublishWithin sets for how long a Publisher may take for one [Batch]: 30s unless set, up to 20 days. Then its context ends,
// and the batch is published again; a moment later the server ends the transaction, so that a relay that stands still gives way to
// another (P8).
func PublishWithin(d time.Duration) RelayOption {
	return relayOption(func(r *Relay) error {
		if d > 20*24*time.Hour {
			return fmt.Errorf("%w: PublishWithin takes up to 20 days, not %v", coordinator.ErrInvalid, d)
		}
		return positive("PublishWithin", d, &r.within)
	})
}

// OnFailure is told what went wrong before the relay tries again.
func OnFailure(f func(error)) RelayOption {
	return relayOption(func(r *Relay) error {
		if f == nil {
			return fmt.Errorf("%w: OnFailure needs a function", coordinator.ErrInvalid)
		}
		r.failed = f
		return nil
	})
}

// RelayWithStandby lets the relay go on while Redis is away.
func RelayWithStandby(s *Standby) RelayOption {
	return relayOption(func(r *Relay) error {
		if s == nil {
			return fmt.Errorf("%w: RelayWithStandby needs a Standby", coordinator.ErrInvalid)
		}
		r.standby = s
		return nil
	})
}

// NewRelay makes a relay; nothing happens before [Relay.Run].
func NewRelay(c *coordinator.Coordinator, db Pool, publish Publisher, opts ...RelayOption) (*Relay, error) {
	if publish == nil {
		return nil, fmt.Errorf("%w: NewRelay needs a Publisher", coordinator.ErrInvalid)
	}
	r := &Relay{c: c, db: db, publish: publish, place: DefaultSchema, batch: 100, poll: 5 * time.Second, within: 30 * time.Second, failed: func(error) {}}
	for _, opt := range opts {
		if opt == nil {
			return nil, errNilOption()
		}
		if err := opt.relay(r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Run publishes until ctx ends, and returns ctx's cause. What goes wrong on the way is told to [OnFailure] and tried again,
// after a pause that grows to a minute.
func (r *Relay) Run(ctx context.Context) error {
	news := make(chan struct{}, 1)
	var listening sync.WaitGroup
	listening.Go(func() { r.listen(ctx, news) })
	defer listening.Wait()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 50 * time.Millisecond
	for ctx.Err() == nil {
		err := r.reign(ctx, news, pause.Reset)
		if ctx.Err() != nil {
			break
		}
		wait := time.Duration(0)
		if errors.Is(err, coordinator.ErrInProgress) {
			wait = min(r.poll, time.Second) // another relay works
		} else if err != nil {
			r.failed(err)
			wait = pause.NextBackOff()
		}
		sleep(ctx, wait)
	}
	return context.Cause(ctx)
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r *Relay) resource() string { return "coordpg/outbox/" + string(r.place) }

// reign takes the relay's lease, and publishes for as long as it lasts and all goes well.
func (r *Relay) reign(ctx context.Context, news <-chan struct{}, well func()) error {
	if r.standby != nil && r.standby.Alone() {
		return r.reignAlone(ctx, news, well)
	}
	mark, err := HighWater(ctx, r.db, r.resource(), inSchema(r.place))
	if err != nil {
		return err
	}
	key := coordinator.Key{Scope: "coordpg", ID: "outbox/" + string(r.place), Resource: r.resource()}
	lease, err := r.c.Claim(ctx, key, coordinator.MinToken(mark))
	if err != nil {
		if unknown, ok := errors.AsType[*coordinator.UnknownError](err); ok {
			_ = r.c.GiveBack(ctx, key, unknown.Owner)
		}
		if r.standby != nil && errors.Is(err, coordinator.ErrUnavailable) {
			r.standby.decide(ctx)
		}
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = lease.Release(ctx) // it lapses by itself; where Redis is away, the database's turn should not wait for it
	}()
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()
	for working.Err() == nil {
		n, err := r.once(working, true, lease.Grant()) // the lease renews itself meanwhile
		if err != nil {
			if errors.Is(err, errOtherSide) && r.standby != nil {
				return r.standby.look(ctx)
			}
			return err
		}
		well()
		r.rest(working, n, news)
	}
	return context.Cause(lease.Context())
}

// reignAlone publishes while the database grants. The row of the outbox's fence is the lease.
func (r *Relay) reignAlone(ctx context.Context, news <-chan struct{}, well func()) error {
	owner := make([]byte, 16)
	if _, err := rand.Read(owner); err != nil {
		return err
	}
	for ctx.Err() == nil && r.standby.Alone() {
		n, err := r.once(ctx, false, coordinator.Grant{Owner: hex.EncodeToString(owner)})
		if errors.Is(err, errOtherSide) {
			return r.standby.look(ctx)
		}
		if err != nil {
			return err
		}
		well()
		r.rest(ctx, n, news)
	}
	return nil
}

// rest waits for news unless the last batch was full.
func (r *Relay) rest(ctx context.Context, n int, news <-chan struct{}) {
	if n == r.batch {
		return
	}
	timer := time.NewTimer(r.poll)
	defer timer.Stop()
	select {
	case <-news:
	case <-timer.C:
	case <-ctx.Done():
	}
}

var errSlow = errors.New("coordpg: the publisher has taken longer than PublishWithin")

// once publishes one batch, and returns how many events it had.
func (r *Relay) once(ctx context.Context, redis bool, g coordinator.Grant) (n int, err error) {
	something := false
	if err := r.db.QueryRow(ctx, r.place.sql(`SELECT EXISTS (SELECT FROM @schema.outbox)`)).Scan(&something); err != nil || !something {
		return 0, explain(err, coordinator.Key{}, g)
	}
	err = pgx.BeginTxFunc(ctx, r.db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		// The fence comes before the events, so that nobody publishes later ones while another holds earlier ones.
		err := tx.QueryRow(ctx, r.place.sql(`SELECT @schema.relay($1, $2, $3, $4, $5)`),
			redis, []byte(r.resource()), int64(g.Token), ownerOf(g), (r.within + max(r.within/10, 100*time.Millisecond)).Milliseconds()).Scan(new(int64))
		if err != nil {
			return err
		}
		events, err := r.take(ctx, tx)
		if err != nil || len(events) == 0 {
			return err
		}
		publishing, cancel := context.WithTimeoutCause(ctx, r.within, errSlow)
		defer cancel()
		if err := r.publish(publishing, events); err != nil {
			return fmt.Errorf("publish %d events from %d on: %w", len(events), events[0].Seq, err)
		}
		gone := make([]int64, len(events))
		for i, e := range events {
			gone[i] = e.Seq
		}
		n = len(events)
		_, err = tx.Exec(ctx, r.place.sql(`DELETE FROM @schema.outbox WHERE seq = ANY ($1)`), gone)
		return err
	})
	return n, explain(err, coordinator.Key{Resource: r.resource()}, g)
}

// take passes by events that somebody has locked, an operator who deletes them, say, and so those behind them of the same resource.
func (r *Relay) take(ctx context.Context, tx pgx.Tx) ([]Event, error) {
	rows, err := tx.Query(ctx, r.place.sql(`
		WITH free AS MATERIALIZED (
			SELECT seq, topic, payload, scope, id, resource, token, created_at FROM @schema.outbox ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED
		), passed AS MATERIALIZED (
			SELECT resource, min(seq) AS seq FROM @schema.outbox
			WHERE resource <> '' AND seq < (SELECT max(seq) FROM free) AND seq NOT IN (SELECT seq FROM free) GROUP BY resource
		)
		SELECT free.* FROM free LEFT JOIN passed USING (resource) WHERE passed.seq IS NULL OR passed.seq > free.seq ORDER BY free.seq`), r.batch)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Event, err error) {
		var scope, id, resource []byte
		err = row.Scan(&e.Seq, &e.Topic, &e.Payload, &scope, &id, &resource, (*int64)(&e.Token), &e.CreatedAt)
		e.Key = coordinator.Key{Scope: string(scope), ID: string(id), Resource: string(resource)}
		return e, err
	})
}

// listen turns notifications into news, on a connection of its own, until ctx ends.
func (r *Relay) listen(ctx context.Context, news chan<- struct{}) {
	pause := backoff.NewExponentialBackOff()
	for ctx.Err() == nil {
		err := r.listenOnce(ctx, news, pause.Reset)
		if ctx.Err() != nil {
			return
		}
		r.failed(fmt.Errorf("coordpg: listen: %w", err))
		sleep(ctx, pause.NextBackOff())
	}
}

func (r *Relay) listenOnce(ctx context.Context, news chan<- struct{}, well func()) error {
	pooled, err := r.db.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack() // it listens, so it must not go back
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{r.place.channel()}.Sanitize()); err != nil {
		return err
	}
	well()
	for {
		select {
		case news <- struct{}{}: // also at first: what came before is not notified of
		default:
		}
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}
