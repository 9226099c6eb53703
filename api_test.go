package coordinator_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
)

// The public names, with the types that other programs are compiled against. A change that breaks them breaks this file.
var (
	_ func(...string) string                                                               = coordinator.JoinScope
	_ func(redis.UniversalClient, ...coordinator.Option) (*coordinator.Coordinator, error) = coordinator.New

	_ func(string) coordinator.Option                 = coordinator.WithPrefix
	_ func(time.Duration) coordinator.Option          = coordinator.WithLease
	_ func(time.Duration) coordinator.Option          = coordinator.WithGrace
	_ func(time.Duration) coordinator.Option          = coordinator.WithRetention
	_ func(time.Duration) coordinator.Option          = coordinator.WithMaxLifetime
	_ func(int) coordinator.Option                    = coordinator.WithMaxPayload
	_ func(time.Duration) coordinator.Option          = coordinator.WithTimeout
	_ func(int, time.Duration) coordinator.Option     = coordinator.WithReplicas
	_ func([]byte) coordinator.Option                 = coordinator.WithHashedKeys
	_ func(coordinator.Observer) coordinator.Option   = coordinator.WithObserver
	_ func(int, time.Duration) coordinator.Option     = coordinator.WithReplayCache
	_ func([]byte) coordinator.ClaimOption            = coordinator.Fingerprint
	_ func(time.Duration) coordinator.ClaimOption     = coordinator.LeaseFor
	_ func(time.Duration) coordinator.ClaimOption     = coordinator.MaxLifetime
	_ func() coordinator.ClaimOption                  = coordinator.ManualRenewal
	_ func(time.Duration) coordinator.ClaimOption     = coordinator.WaitUpTo
	_ func(coordinator.Token) coordinator.ClaimOption = coordinator.MinToken
	_ func(time.Time) coordinator.ClaimOption         = coordinator.IssuedAt
	_ func(string) (time.Time, bool)                  = coordinator.UUIDv7Time
	_ func() coordinator.ClaimOption                  = coordinator.QuarantineLapsed
	_ func(string) coordinator.ClaimOption            = coordinator.Owner
	_ func(time.Duration) coordinator.CompleteOption  = coordinator.RetainFor
	_ func(coordinator.Codec) coordinator.DoOption    = coordinator.WithCodec
	_ func(error) error                               = coordinator.Final
	_ func(string) (coordinator.Grant, error)         = coordinator.ParseGrant
	_ func(error) (coordinator.Result, bool)          = coordinator.ResultOf

	_ func(context.Context) (coordinator.Grant, bool)          = coordinator.GrantFrom
	_ func(context.Context, coordinator.Grant) context.Context = coordinator.ContextWithGrant

	_ coordinator.DoOption = coordinator.Fingerprint(nil) // every ClaimOption is a DoOption

	_ error = (*coordinator.InProgressError)(nil)
	_ error = (*coordinator.CompletedError)(nil)
	_ error = (*coordinator.StaleTokenError)(nil)
	_ error = (*coordinator.UnknownError)(nil)
)

type methods interface {
	Load(context.Context) error
	Close() error
	Claim(context.Context, coordinator.Key, ...coordinator.ClaimOption) (*coordinator.Lease, error)
	ClaimMany(context.Context, []coordinator.ClaimRequest) []coordinator.ClaimResult
	GiveBack(context.Context, coordinator.Key, string) error
	Result(context.Context, coordinator.Key, []byte) (coordinator.Result, error)
	Await(context.Context, coordinator.Key, []byte) (coordinator.Result, error)
	Inspect(context.Context, coordinator.Key) (coordinator.Record, error)
	Expire(context.Context, coordinator.Key) error
	Resolve(context.Context, coordinator.Key, coordinator.Resolution) error
	Resume(context.Context, coordinator.Key, coordinator.Grant, ...coordinator.ClaimOption) (*coordinator.Lease, error)
	Fence(coordinator.Key) *coordinator.Fence
}

type leaseMethods interface {
	Key() coordinator.Key
	Token() coordinator.Token
	Grant() coordinator.Grant
	Attempt() int
	Checkpoint() []byte
	Context() context.Context
	Deadline() time.Time
	Renew(context.Context) error
	SaveCheckpoint(context.Context, []byte) error
	Complete(context.Context, []byte, ...coordinator.CompleteOption) error
	Fail(context.Context, []byte, ...coordinator.CompleteOption) error
	Release(context.Context) error
}

type fenceMethods interface {
	Tag() string
	Do(context.Context, coordinator.Grant, ...any) *redis.Cmd
	Eval(context.Context, coordinator.Grant, string, []string, ...any) *redis.Cmd
}

var (
	_ methods      = (*coordinator.Coordinator)(nil)
	_ leaseMethods = (*coordinator.Lease)(nil)
	_ fenceMethods = (*coordinator.Fence)(nil)
)

func TestPublicNames(t *testing.T) {
	sentinels := []error{
		coordinator.ErrInProgress, coordinator.ErrCompleted, coordinator.ErrMismatch, coordinator.ErrUncertain, coordinator.ErrLeaseLost,
		coordinator.ErrStaleToken, coordinator.ErrNotFound, coordinator.ErrUnknown, coordinator.ErrNotReplicated, coordinator.ErrKeyExpired,
		coordinator.ErrInvalid, coordinator.ErrTooLarge, coordinator.ErrCorrupt, coordinator.ErrUnavailable, coordinator.ErrClosed,
	}
	for i, a := range sentinels {
		for j, b := range sentinels {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("%v is %v", a, b)
			}
		}
	}
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key := coordinator.Key{Scope: "s", ID: "i", Resource: "r"}
	v, replayed, err := coordinator.Do(t.Context(), c, key, func(ctx context.Context, l *coordinator.Lease) (string, error) {
		return "v", nil
	}, coordinator.Fingerprint([]byte{1}))
	if v != "v" || replayed || err != nil {
		t.Errorf("%v, %v, %v", v, replayed, err)
	}
	r, err := c.Inspect(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	want := coordinator.Record{
		Key: key, State: "completed", Token: r.Token, Attempt: 1, Owner: r.Owner, Fingerprint: []byte{1},
		LeaseRemaining: 0, RetentionRemaining: r.RetentionRemaining, CompletedAt: r.CompletedAt, PayloadSize: 3,
	}
	if r.State != want.State || r.PayloadSize != want.PayloadSize || r.Attempt != 1 || len(r.Owner) == 32 {
		t.Errorf("%+v", r)
	}
	_ = coordinator.Event{Op: "", Outcome: "", Key: key, Err: nil, Duration: 0, Count: 0}
	_ = coordinator.Resolution{Rerun: true, Failed: false, Payload: nil}
	_ = coordinator.ClaimRequest{Key: key, Options: []coordinator.ClaimOption{coordinator.MinToken(0)}}
	_ = coordinator.ClaimResult{Lease: nil, Err: nil}
}
