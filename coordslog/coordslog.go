// Package coordslog writes what a coordinator does to a [slog.Logger].
//
//	c, err := coordinator.New(rdb, coordinator.WithObserver(coordslog.New(logger)))
//
// Calls that went as they may are logged at the level debug; what an operator or a developer should see at info; what
// threatens the work, or came too late, at warn:
//
//	debug  calls that ended with ok, granted, replayed, in_progress or not_found; renewals, waiting
//	info   takeovers; calls that the caller got wrong (mismatch, invalid, …) or that Close cut short
//	warn   calls that failed (unavailable, unknown, corrupt, …), writes of holders that lost their lease, keys that wait for a
//	       resolution, renewals that are late, leases that are lost, results that Redis had lost
//
// Keys are hashed, because an idempotency key may be a secret of the client's: equal hashes in one log are equal keys. Errors
// name the scope and the resource, which the application chose, and never the client's ID. [ShowKeys] shows keys as they are.
package coordslog

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"

	"github.com/onceward/coordinator"
)

// Observer logs. It is safe for concurrent use, and several coordinators may share it.
type Observer struct {
	logger *slog.Logger
	secret []byte
	shown  bool
}

var _ coordinator.Observer = (*Observer)(nil)

// Option configures [New].
type Option func(*Observer)

// ShowKeys logs a key as it is, in a group of scope, id and resource, instead of its hash.
func ShowKeys() Option {
	return func(o *Observer) { o.shown = true }
}

// HashWith hashes keys under this secret, so that the logs of all processes that have it name a key alike. The default is a
// random secret of each Observer.
func HashWith(secret []byte) Option {
	return func(o *Observer) { o.secret = append([]byte{}, secret...) }
}

// New makes an Observer that writes to logger; nil is [slog.Default].
func New(logger *slog.Logger, opts ...Option) *Observer {
	if logger == nil {
		logger = slog.Default()
	}
	o := &Observer{logger: logger, secret: []byte(rand.Text())}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// Begin implements [coordinator.Observer]. The record of the call's end is given the call's context.
func (o *Observer) Begin(ctx context.Context, _ string) (context.Context, func(coordinator.Event)) {
	return ctx, func(e coordinator.Event) { o.log(ctx, "coordinator call", levelOf(e.Outcome), e) }
}

// Note implements [coordinator.Observer].
func (o *Observer) Note(e coordinator.Event) {
	o.log(context.Background(), "coordinator note", levelOf(e.Outcome), e)
}

// levelOf sorts outcomes, of calls and of notes; one that is not known yet is worth seeing.
func levelOf(outcome string) slog.Level {
	switch outcome {
	case "ok", "granted", "replayed", "in_progress", "not_found", "renewed", "waiting", "held":
		return slog.LevelDebug
	case "takeover", "mismatch", "key_expired", "invalid", "too_large", "closed":
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

func (o *Observer) log(ctx context.Context, message string, level slog.Level, e coordinator.Event) {
	if !o.logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("op", e.Op), slog.String("outcome", e.Outcome)}
	if e.Key != (coordinator.Key{}) {
		attrs = append(attrs, o.key(e.Key))
	}
	if e.Duration > 0 {
		attrs = append(attrs, slog.Duration("duration", e.Duration))
	}
	if e.Count != 1 {
		attrs = append(attrs, slog.Int("count", e.Count))
	}
	if e.Err != nil && level > slog.LevelDebug {
		attrs = append(attrs, slog.String("error", e.Err.Error()))
	}
	o.logger.LogAttrs(ctx, level, message, attrs...)
}

func (o *Observer) key(key coordinator.Key) slog.Attr {
	if o.shown {
		return slog.Group("key", slog.String("scope", key.Scope), slog.String("id", key.ID), slog.String("resource", key.Resource))
	}
	mac := hmac.New(sha256.New, o.secret)
	fmt.Fprintf(mac, "%q %q %q", key.Scope, key.ID, key.Resource)
	return slog.String("key", hex.EncodeToString(mac.Sum(nil)[:8]))
}
