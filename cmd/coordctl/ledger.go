package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// ledger is the account book: one list in Redis per payment, to which a booking is an append. So a payment
// that is booked twice stands there twice, for everybody to see.
type ledger struct {
	rdb    redis.UniversalClient
	coord  *coordinator.Coordinator
	name   string // what its Redis keys begin with
	fenced bool   // false: written as one would without coordinator
}

// bookScript appends an entry and returns how many there are. ARGV: the entry; how long to keep the list, ms.
const bookScript = `
local n = redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return n`

// ledgerTime is how long a ledger stays when the program that wrote it cannot clean up.
const ledgerTime = 10 * time.Minute

// redisKey has the fence's tag in it, which places it behind the fence of the payment.
func (l *ledger) redisKey(key coordinator.Key) string {
	return l.name + l.coord.Fence(key).Tag()
}

// book appends the receipt and returns how many entries the payment has then. Behind the fence the check of
// the grant and the append are one step in Redis; without it the same append just runs.
func (l *ledger) book(ctx context.Context, lease *coordinator.Lease, r Receipt) (int, error) {
	entry, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	keys, ttl := []string{l.redisKey(lease.Key())}, ledgerTime.Milliseconds()
	if !l.fenced {
		return l.rdb.Eval(ctx, bookScript, keys, entry, ttl).Int()
	}
	return l.coord.Fence(lease.Key()).Eval(ctx, lease.Grant(), bookScript, keys, entry, ttl).Int()
}

// entries returns what is booked for a payment, the oldest first.
func (l *ledger) entries(ctx context.Context, key coordinator.Key) ([]Receipt, error) {
	list, err := l.rdb.LRange(ctx, l.redisKey(key), 0, -1).Result()
	if err != nil {
		return nil, err
	}
	entries := make([]Receipt, len(list))
	for i, entry := range list {
		if err := json.Unmarshal([]byte(entry), &entries[i]); err != nil {
			return nil, fmt.Errorf("the ledger's entry for %s does not decode: %w", key.ID, err)
		}
	}
	return entries, nil
}

// audit counts what is wrong: entries beyond the first of a payment, and payments without any.
func (l *ledger) audit(ctx context.Context, payments []string) (duplicates, missing int, err error) {
	for _, id := range payments {
		entries, err := l.entries(ctx, paymentKey(id))
		if err != nil {
			return 0, 0, fmt.Errorf("cannot check the ledger: %w", err)
		}
		if len(entries) == 0 {
			missing++
		} else {
			duplicates += len(entries) - 1
		}
	}
	return duplicates, missing, nil
}

// remove deletes the ledger; what it cannot reach ends with its TTL.
func (l *ledger) remove(ctx context.Context, payments []string) {
	for _, id := range payments {
		_ = l.rdb.Del(ctx, l.redisKey(paymentKey(id))).Err()
	}
}
