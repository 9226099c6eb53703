package coordinator

import (
	"math"
	"time"

	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/replaycache"
)

// Results at hand, see [WithReplayCache]: who looks into the cache, and what may go into it. A claim's answer out of it is
// that of scripts/claim.lua, where the fingerprint comes first, then an outcome, and all of a claim's options behind that.

// unknownLife is how long a record stays of which nothing is known.
const unknownLife = time.Duration(math.MaxInt64)

// atHand is what the cache has of key, if its fingerprint is this one: ErrMismatch is the error if it is not. Without either
// it has nothing.
func (c *Coordinator) atHand(key Key, fingerprint []byte) (*replaycache.Result, error) {
	r := c.cache.Get(replaycache.Key(key))
	if r != nil && r.Fingerprint != string(fingerprint) {
		return nil, mismatch(key)
	}
	return r, nil
}

// replayAtHand is what Claim returns if the cache has an answer; otherwise nil.
func (c *Coordinator) replayAtHand(key Key, fingerprint []byte) error {
	r, err := c.atHand(key, fingerprint)
	if r != nil {
		return completedOf(key, r)
	}
	return err
}

// resultAtHand fills in all but the payload.
func resultAtHand(r *replaycache.Result) Result {
	return Result{Failed: r.Failed, Token: Token(r.Token), CompletedAt: time.UnixMilli(r.CompletedAt.Milliseconds())}
}

// completedOf makes the error and the caller's own copy of the payload, in one piece of memory where the payload is short.
func completedOf(key Key, r *replaycache.Result) *CompletedError {
	var done *CompletedError
	var room []byte
	switch n := len(r.Payload); {
	case n <= 64:
		both := &struct {
			CompletedError
			payload [64]byte
		}{}
		done, room = &both.CompletedError, both.payload[:0:n]
	case n <= 512:
		both := &struct {
			CompletedError
			payload [512]byte
		}{}
		done, room = &both.CompletedError, both.payload[:0:n]
	default:
		done, room = &CompletedError{}, make([]byte, 0, n)
	}
	done.Key, done.Result = key, resultAtHand(r)
	done.Result.Payload = append(room, r.Payload...)
	return done
}

// lifeOf is how long Redis keeps what Inspect's reply shows; a key without a TTL stays.
func lifeOf(r *protocol.Reply) time.Duration {
	if r.Number < 0 {
		return unknownLife
	}
	return time.Duration(r.Number) * time.Millisecond
}

// remember puts a finished record into the cache that a reply showed. With replicas it must be one that they hold: a replay says
// that they do.
func (c *Coordinator) remember(k *call, life time.Duration, confirmed bool) {
	if c.replicas == 0 || confirmed {
		c.cache.Put(replaycache.Key(k.key), k.Reply.Sent, life, &k.Reply.Rec)
	}
}

// rememberOwn is remember for what this lease has just stored; the reply says no more than when.
func (l *Lease) rememberOwn(k *call, outcome byte, result []byte, retention time.Duration) {
	if l.c.cache == nil {
		return
	}
	l.mu.Lock()
	now := l.now + k.Reply.Sent.Sub(l.sent) // the server's clock when the request went out, or later
	l.mu.Unlock()
	k.Reply.Rec = protocol.Record{
		State: outcome, Token: int64(l.grant.Token), Bound: true, Fingerprint: l.fingerprint, End: k.Reply.Now, Data: result,
	}
	life := min(retention, k.Reply.Now+retention-now) // a repeated completion finds the result some time old
	l.c.remember(k, life, true)
}
