package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/idempotency"
	fiberredis "github.com/gofiber/storage/redis/v3"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
	"github.com/valyala/fasthttp"

	"github.com/onceward/coordinator"
)

const (
	lockTime  = 30 * time.Second // every lock's: the coordinator's default lease
	bareOwner = "0123456789abcdef0123456789abcdef"
)

// barePair is the least that anybody could do: take the key, store the result. Both go through a plain client.
func (l *lab) barePair(rdb *redis.Client) contender {
	return contender{"bare pair", func(ctx context.Context) error {
		key := newKey()
		lock, name := "lock:"+key.ID, bareName(key)
		taken, err := rdb.SetNX(ctx, lock, bareOwner, lockTime).Result()
		if err != nil || !taken {
			return fmt.Errorf("taken: %v, %w", taken, err)
		}
		return rdb.Set(ctx, name, l.result, bareTTL).Err()
	}}
}

// bareGet reads one of the names that hold results.
func bareGet(rdb *redis.Client, pick func() string) contender {
	return contender{"bare GET", func(ctx context.Context) error {
		got, err := rdb.Get(ctx, pick()).Bytes()
		if err == nil && len(got) != payloadBytes {
			err = fmt.Errorf("%d bytes", len(got))
		}
		return err
	}}
}

// lockAlone takes and releases a lock of bsm/redislock.
func lockAlone(rdb *redis.Client) contender {
	locks := redislock.New(rdb)
	return contender{"redislock", func(ctx context.Context) error {
		lock, err := locks.Obtain(ctx, "lock:"+newKey().ID, lockTime, nil)
		if err != nil {
			return err
		}
		return lock.Release(ctx)
	}}
}

// lockAndResult is idempotency as it is written by hand: is there a result, lock, is there one now, store it, unlock.
func (l *lab) lockAndResult(rdb *redis.Client) contender {
	locks := redislock.New(rdb)
	absent := func(ctx context.Context, name string) error {
		err := rdb.Get(ctx, name).Err()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return fmt.Errorf("a fresh key has a result: %w", err)
	}
	return contender{"lock and result", func(ctx context.Context) error {
		key := newKey()
		name := bareName(key)
		if err := absent(ctx, name); err != nil {
			return err
		}
		lock, err := locks.Obtain(ctx, "lock:"+key.ID, lockTime, nil)
		if err != nil {
			return err
		}
		if err := absent(ctx, name); err != nil {
			return err
		}
		if err := rdb.Set(ctx, name, l.result, bareTTL).Err(); err != nil {
			return err
		}
		return lock.Release(ctx)
	}}
}

// redsyncAlone takes and releases a lock of go-redsync/redsync on one server.
func redsyncAlone(rdb *redis.Client) contender {
	locks := redsync.New(goredis.NewPool(rdb))
	return contender{"redsync", func(ctx context.Context) error {
		lock := locks.NewMutex("lock:"+newKey().ID, redsync.WithExpiry(lockTime))
		if err := lock.TryLockContext(ctx); err != nil {
			return err
		}
		_, err := lock.UnlockContext(ctx)
		return err
	}}
}

// rueidisAlone takes and releases a lock of redis/rueidis' rueidislock: on one key, and without hearing of its own writes,
// as its documentation recommends for one server.
func (l *lab) rueidisAlone() (contender, func(), error) {
	locks, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{l.server.Addr()}},
		KeyValidity:  lockTime, KeyMajority: 1, NoLoopTracking: true,
		TryNextAfter: time.Second, // bounds each request, and the first ones dial
	})
	if err != nil {
		return contender{}, nil, err
	}
	return contender{"rueidislock", func(ctx context.Context) error {
		_, release, err := locks.TryWithContext(ctx, "lock:"+newKey().ID)
		if err != nil {
			return err
		}
		release()
		return nil
	}}, locks.Close, nil
}

// fiberMiddleware is an application with gofiber's idempotency middleware on its Redis storage, called without a network
// in front of it. pick chooses the key of a request.
func (l *lab) fiberMiddleware(rdb *redis.Client, pick func() string) contender {
	app := fiber.New()
	app.Use(idempotency.New(idempotency.Config{Storage: fiberredis.NewFromConnection(rdb), Lifetime: bareTTL}))
	app.Post("/payments", func(c fiber.Ctx) error { return c.Send(l.result) })
	handle := app.Handler()
	return contender{"fiber", func(context.Context) error {
		var request fasthttp.RequestCtx
		request.Request.Header.SetMethod(fiber.MethodPost)
		request.Request.SetRequestURI("/payments")
		request.Request.Header.Set("X-Idempotency-Key", pick())
		handle(&request)
		if got := len(request.Response.Body()); request.Response.StatusCode() != fiber.StatusOK || got != payloadBytes {
			return fmt.Errorf("status %d, %d bytes", request.Response.StatusCode(), got)
		}
		return nil
	}}
}

// client is another one with the default options, as every contender has its own.
func (l *lab) client() *redis.Client { return l.server.Client(nil) }

// ours is a coordinator as the README's first program builds it, on a client of its own.
func (l *lab) ours(opts ...coordinator.Option) (*coordinator.Coordinator, func(), error) {
	rdb := l.client()
	c, err := coordinator.New(rdb, opts...)
	if err != nil {
		_ = rdb.Close()
		return nil, nil, err
	}
	return c, func() {
		_ = c.Close()
		_ = rdb.Close()
	}, nil
}
