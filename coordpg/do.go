package coordpg

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"

	"github.com/onceward/coordinator"
)

// Lease is what work under [Do] knows of its grant.
type Lease struct {
	key         coordinator.Key
	grant       coordinator.Grant
	attempt     int
	fingerprint []byte
	redis       *coordinator.Lease // nil where the database granted
	ends        time.Time          // and when that ends
	events      []Event
}

// Key returns what was claimed.
func (l *Lease) Key() coordinator.Key { return l.key }

// Grant returns the proof of the grant.
func (l *Lease) Grant() coordinator.Grant { return l.grant }

// Token returns the fencing token.
func (l *Lease) Token() coordinator.Token { return l.grant.Token }

// Attempt returns the number of the run, as far as Redis remembers; 1 where the database granted.
func (l *Lease) Attempt() int { return l.attempt }

// Fingerprint returns what the key is bound to, nil for nothing.
func (l *Lease) Fingerprint() []byte { return l.fingerprint }

// Redis returns the lease in Redis, for checkpoints and fences there; nil where the database granted.
func (l *Lease) Redis() *coordinator.Lease { return l.redis }

// Emit adds events to what the transaction writes when the work has succeeded. A run that is rolled back emits nothing.
func (l *Lease) Emit(events ...Event) error {
	for _, e := range events {
		if err := e.check(); err != nil {
			return err
		}
	}
	l.events = append(l.events, events...)
	return nil
}

// doing is one call of Do, as the caller has it.
type doing struct {
	place       place
	keep        time.Duration
	events      []Event
	fingerprint []byte
	wait        time.Duration
	lease       time.Duration // 0: the coordinator's
	idle        time.Duration // 0: the lease
	isolation   pgx.TxIsoLevel
	codec       coordinator.Codec
	claim       []coordinator.DoOption
	standby     *Standby
	doubting    time.Duration
}

// DoOption configures one [Do].
type DoOption interface{ do(*doing) error }

type doOption func(*doing) error

func (f doOption) do(o *doing) error { return f(o) }

// Fingerprint binds the key to what was asked for, as [coordinator.Fingerprint] does, in Redis and in the ledger.
func Fingerprint(sum []byte) DoOption {
	return doOption(func(o *doing) error {
		if len(sum) == 0 || len(sum) > 64 { // asked here, as where the database grants there is no claim to ask
			return fmt.Errorf("%w: Fingerprint takes 1 to 64 bytes, not %d", coordinator.ErrInvalid, len(sum))
		}
		o.fingerprint = sum
		o.claim = append(o.claim, coordinator.Fingerprint(sum))
		return nil
	})
}

// WaitUpTo waits for another holder's result, as [coordinator.WaitUpTo] does.
func WaitUpTo(d time.Duration) DoOption {
	return doOption(func(o *doing) error {
		if d < 0 {
			return fmt.Errorf("%w: WaitUpTo takes 0 and more, not %v", coordinator.ErrInvalid, d)
		}
		o.wait = d
		o.claim = append(o.claim, coordinator.WaitUpTo(d))
		return nil
	})
}

// LeaseFor sets the lease of this call, as [coordinator.LeaseFor] does. Where the database grants, work ends after one
// lease, as nothing renews it there; 30s unless set.
func LeaseFor(d time.Duration) DoOption {
	return doOption(func(o *doing) error {
		if d < 100*time.Millisecond {
			return fmt.Errorf("%w: LeaseFor takes 100ms and more, not %v", coordinator.ErrInvalid, d)
		}
		o.lease = d
		o.claim = append(o.claim, coordinator.LeaseFor(d))
		return nil
	})
}

// Claiming passes options to the claim in Redis: [coordinator.IssuedAt], [coordinator.QuarantineLapsed] and the like. They
// do not hold where the database grants, so what has an option here is given by that.
func Claiming(opts ...coordinator.ClaimOption) DoOption {
	return doOption(func(o *doing) error {
		for _, opt := range opts {
			o.claim = append(o.claim, opt)
		}
		return nil
	})
}

// Isolation sets the transaction's isolation level: the database's own by default, which is READ COMMITTED mostly.
func Isolation(level pgx.TxIsoLevel) DoOption {
	return doOption(func(o *doing) error {
		switch level {
		case pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable:
			o.isolation = level
			return nil
		}
		return fmt.Errorf("%w: Isolation takes pgx.ReadCommitted, RepeatableRead or Serializable, not %q", coordinator.ErrInvalid, level)
	})
}

// IdleFor sets how long the transaction may stand still between two statements until the server ends it, 1ms to 24 days:
// so a paused worker does not keep its locks for ever (P8). The default is what is left of the lease when the transaction
// begins. Renewals do not prolong it: work that calls something slow between two statements needs more. Such work
// learns of it at its next statement, and is not run again.
func IdleFor(d time.Duration) DoOption {
	return doOption(func(o *doing) error {
		if d < time.Millisecond || d > longestIdle {
			return fmt.Errorf("%w: IdleFor takes 1ms to %v, not %v", coordinator.ErrInvalid, longestIdle, d)
		}
		o.idle = d
		return nil
	})
}

// WithCodec sets how results are stored; the default is JSON.
func WithCodec(codec coordinator.Codec) DoOption {
	return doOption(func(o *doing) error {
		if codec == nil {
			return fmt.Errorf("%w: WithCodec needs a Codec; leave it out for JSON", coordinator.ErrInvalid)
		}
		o.codec = codec
		return nil
	})
}

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// raw stores payloads that are encoded already.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

// Do claims key, runs fn in a transaction of db, writes its result into the ledger in that transaction, commits, and
// stores the result in Redis for everybody else; replayed says that v is from an earlier run.
//
// What is guaranteed: fn's effects through tx take place once for a key, until [Sweep] deletes its entry. That rests on
// the database alone: on a second run, whatever its cause, the ledger's primary key refuses the commit, the
// run is rolled back, and the caller gets the stored result. fn's other effects take place at least once. A nil error says
// that the transaction has been committed, by this call or an earlier one; whether Redis could be told does not matter.
//
// fn must leave tx open, and its context ends with ctx or the lease. It runs again after a deadlock, a
// serialization failure or a lost connection ([Retryable]), up to ten times. An error or a panic of fn rolls back and releases
// the key; a [coordinator.Final] error rolls back, and is stored as the operation's outcome.
// If the answer to the commit is lost, Do finds out by the ledger; ErrUnknown: it could not, call again. A commit is not cut short
// at once when ctx ends, so Do may return some three seconds after that: one each for the commit, for finding out, and for tidying up.
// Where the server waits for synchronous standbys, nil says that they have the outcome.
//
// If the key has a resource, the transaction is admitted to it first, as by [Admit]: it locks the resource's row until it ends.
// The server ends a transaction that stands still for longer than [IdleFor].
func Do[T any](ctx context.Context, c *coordinator.Coordinator, db Beginner, key coordinator.Key, fn func(ctx context.Context, tx pgx.Tx, lease *Lease) (T, error), opts ...DoOption) (v T, replayed bool, err error) {
	return do(ctx, c, key, fn, func(o *doing) beginner[pgx.Tx] { return beginPgx(db, o.isolation) }, opts)
}

// SQLBeginner begins transactions of database/sql: a *sql.DB, whose driver is pgx's stdlib.
type SQLBeginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// DoSQL is [Do] for database/sql.
func DoSQL[T any](ctx context.Context, c *coordinator.Coordinator, db SQLBeginner, key coordinator.Key, fn func(ctx context.Context, tx *sql.Tx, lease *Lease) (T, error), opts ...DoOption) (v T, replayed bool, err error) {
	return do(ctx, c, key, fn, func(o *doing) beginner[*sql.Tx] { return beginSQL(db, o.isolation) }, opts)
}

func do[T, Tx any](ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, fn func(context.Context, Tx, *Lease) (T, error), begin func(*doing) beginner[Tx], opts []DoOption) (v T, replayed bool, err error) {
	o := &doing{place: DefaultSchema, keep: defaultKeep, codec: jsonCodec{}, doubting: doubtTime}
	for _, opt := range opts {
		if opt == nil {
			return v, false, errNilOption()
		}
		if err := opt.do(o); err != nil {
			return v, false, err
		}
	}
	if err := checkKey(key); err != nil {
		return v, false, err
	}
	if least := c.LeastRetention(); o.keep < least {
		return v, false, fmt.Errorf("%w: the ledger keeps outcomes for %v; it must for %v, the maximum lifetime of a lease and its grace: use RetainFor", coordinator.ErrInvalid, o.keep, least)
	}
	var own T
	op := &operation[Tx]{doing: o, c: c, key: key, begin: begin(o)}
	op.work = func(ctx context.Context, tx Tx, l *Lease) (payload []byte, err error) {
		if own, err = fn(ctx, tx, l); err != nil {
			return nil, err
		}
		if payload, err = o.codec.Marshal(own); err != nil {
			return nil, fmt.Errorf("%w: the result does not encode: %w", coordinator.ErrInvalid, err)
		}
		return payload, nil
	}
	outcome, err := op.run(ctx)
	switch {
	case err != nil:
		return v, false, err
	case outcome.result.Failed:
		return v, outcome.replayed, &coordinator.CompletedError{Key: key, Result: outcome.result}
	case !outcome.replayed:
		return own, false, nil
	}
	if err := o.codec.Unmarshal(outcome.result.Payload, &v); err != nil {
		return v, true, fmt.Errorf("%w: the stored result does not decode into %T: %w", coordinator.ErrCorrupt, v, err)
	}
	return v, true, nil
}

// operation is one Do for a kind of transaction.
type operation[Tx any] struct {
	*doing
	c     *coordinator.Coordinator
	key   coordinator.Key
	begin beginner[Tx]
	work  func(context.Context, Tx, *Lease) ([]byte, error)
	begun bool // a transaction was begun, under whatever grant
}

// outcome is what has been committed, now or before.
type outcome struct {
	result   coordinator.Result
	replayed bool
}

// run asks the side that grants, and the other one when that has changed.
func (op *operation[Tx]) run(ctx context.Context) (*outcome, error) {
	const turns = 5 // a switch takes seconds, a turn less
	for turn := 1; ; turn++ {
		op.begun = false
		alone := op.standby != nil && op.standby.Alone()
		var out *outcome
		var err error
		if alone {
			out, err = op.underDatabase(ctx)
		} else {
			out, err = op.underRedis(ctx)
		}
		switch {
		case err == nil || op.standby == nil || turn == turns:
			return out, err
		case errors.Is(err, errOtherSide):
			if err := op.standby.look(ctx); err != nil {
				return nil, err
			}
		case !alone && (errors.Is(err, coordinator.ErrUnavailable) || errors.Is(err, coordinator.ErrNotReplicated) || errors.Is(err, coordinator.ErrUnknown) && !op.begun):
			if !op.standby.decide(ctx) {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// underRedis is the usual way: coordinator.Do around the transaction.
func (op *operation[Tx]) underRedis(ctx context.Context) (*outcome, error) {
	var committed *outcome
	var known []byte // what Redis replays
	var replayed bool
	perform := func(opts []coordinator.DoOption) (err error) {
		known, replayed, err = coordinator.Do(ctx, op.c, op.key, func(ctx context.Context, lease *coordinator.Lease) ([]byte, error) {
			out, err := op.settle(ctx, func() *Lease {
				return &Lease{key: op.key, grant: lease.Grant(), attempt: lease.Attempt(), fingerprint: lease.Fingerprint(), redis: lease}
			})
			if err != nil {
				return nil, err
			}
			committed = out
			if out.result.Failed {
				return nil, coordinator.Final(errors.New(string(out.result.Payload)))
			}
			return out.result.Payload, nil
		}, opts...)
		return err
	}
	opts := append(op.claim[:len(op.claim):len(op.claim)], coordinator.WithCodec(raw{}))
	err := perform(opts)
	if committed == nil && errors.Is(err, errBehind) && op.key.Resource != "" {
		// Redis has lost the resource's token, and its clock is behind what the database has seen.
		var mark coordinator.Token
		if mark, err = op.highWater(ctx); err != nil {
			return nil, err
		}
		err = perform(append(opts, coordinator.MinToken(mark)))
	}
	if committed != nil {
		return committed, nil // the commit counts, whatever Redis says
	}
	if result, ok := coordinator.ResultOf(err); ok {
		return &outcome{result: result, replayed: true}, nil
	}
	if err == nil && replayed {
		return &outcome{result: coordinator.Result{Payload: known}, replayed: true}, nil
	}
	if errors.Is(err, coordinator.ErrMismatch) {
		return op.mismatched(ctx, err)
	}
	return nil, err
}

// mismatched is for what Redis or the ledger refuses as another request. Where Redis had forgotten the key, and the first to come
// was the wrong one, Redis is bound to that now: the ledger is right.
func (op *operation[Tx]) mismatched(ctx context.Context, refused error) (*outcome, error) {
	e, err := op.lookup(ctx)
	if errors.Is(err, coordinator.ErrNotFound) {
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	mine := e.matches(op.fingerprint) == nil
	if mine || errors.Is(refused, errBound) {
		_ = op.c.Expire(ctx, op.key) // it has its outcome, so whoever holds it has nothing to lose
	}
	if !mine {
		return nil, refused
	}
	return &outcome{result: e.Result, replayed: true}, nil
}

// underDatabase is the way while Redis is away: the transaction is the lease.
func (op *operation[Tx]) underDatabase(ctx context.Context) (*outcome, error) {
	owner := make([]byte, 16)
	if _, err := rand.Read(owner); err != nil {
		return nil, err
	}
	return op.settle(ctx, func() *Lease {
		return &Lease{key: op.key, grant: coordinator.Grant{Owner: hex.EncodeToString(owner)}, attempt: 1, fingerprint: op.fingerprint}
	})
}

func (op *operation[Tx]) highWater(ctx context.Context) (mark coordinator.Token, err error) {
	err = op.reading(ctx, func(s *session[Tx]) (err error) {
		mark, err = HighWater(ctx, s.q, op.key.Resource, inSchema(op.place))
		return err
	})
	return mark, err
}

// lookup asks the ledger, in a transaction of its own.
func (op *operation[Tx]) lookup(ctx context.Context) (e *Entry, err error) {
	err = op.reading(ctx, func(s *session[Tx]) (err error) {
		if e, err = lookup(ctx, s.q, op.place, op.key); err != nil {
			return err
		}
		return op.confirm(ctx, s)
	})
	return e, err
}

func (op *operation[Tx]) reading(ctx context.Context, read func(*session[Tx]) error) error {
	s, _, err := op.begin(ctx, nil)
	if err != nil {
		return fmt.Errorf("coordpg: begin: %w", err)
	}
	defer s.rollback()
	return read(s)
}

const runs = 10

// settle runs the transaction until it is known what has become of it, with a lease made anew for each run.
func (op *operation[Tx]) settle(ctx context.Context, lease func() *Lease) (*outcome, error) {
	op.begun = true
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 5 * time.Millisecond
	pause.MaxInterval = time.Second
	for run := 1; ; run++ {
		out, err := op.once(ctx, lease(), nil)
		if coordinator.IsFinal(err) {
			out, err = op.once(ctx, lease(), err) // what the work did is rolled back, and its failure recorded
		}
		if err == nil || !Retryable(err) || run == runs {
			return out, err
		}
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
