package coordmsg

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/onceward/coordinator"
)

// Option configures [Handle] and [HandleBatch].
type Option func(*settings) error

type settings struct {
	claim   []coordinator.ClaimOption
	visible time.Duration // 0: as long as the lease
	called  time.Time
	most    int
	after   func(attempt int) time.Duration
	workers int
	shuffle func(n int, swap func(i, j int))
}

// Claim adds options to the claim: coordinator.Fingerprint of the message's body, coordinator.QuarantineLapsed,
// coordinator.IssuedAt.
func Claim(opts ...coordinator.ClaimOption) Option {
	return func(s *settings) error {
		s.claim = append(s.claim, opts...)
		return nil
	}
}

// VisibilityTimeout says how long the broker waits before it delivers the message again, from the moment of the call: the lease
// is renewed no longer than that. A handler that takes longer sees its context end, its later writes behind a fence
// are refused, and the next delivery may begin at once. Where the claim has waited (coordinator.WaitUpTo) the lease ends later than the
// context, by as long. Without it the lease is renewed as long as the handler runs, up to the
// coordinator's maximum lifetime, and deliveries meanwhile are told to wait. It takes 100ms or more, and no more than
// [coordinator.WithMaxLifetime], which has to be raised for a broker that waits longer than an hour.
func VisibilityTimeout(d time.Duration) Option {
	return func(s *settings) error {
		if d < shortest {
			return fmt.Errorf("%w: VisibilityTimeout takes %v or more, not %v; leave it out to renew as long as the handler runs", coordinator.ErrInvalid, shortest, d)
		}
		s.visible, s.claim = d, append(s.claim, coordinator.MaxLifetime(d)) // which counts from the grant
		return nil
	}
}

// overdue says whether the broker may have delivered the message again.
func (s *settings) overdue() bool { return s.visible > 0 && time.Since(s.called) >= s.visible }

// shortest is the least that a lease lives.
const shortest = 100 * time.Millisecond

// MaxAttempts parks a message when this many attempts have ended without an outcome: by an error, a panic, a crash, or a
// shutdown in the middle, but for the last one, which is made again when a shutdown breaks it off. A message that was claimed and whose
// handler was not called has had no attempt. The default is 10.
func MaxAttempts(n int) Option {
	return func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("%w: MaxAttempts takes 1 or more, not %d", coordinator.ErrInvalid, n)
		}
		s.most = n
		return nil
	}
}

// RetryAfter sets [Verdict].After of attempts that ended without an outcome; attempt is 1 for the first. The default is a second, twice as
// long each time, up to a minute.
func RetryAfter(after func(attempt int) time.Duration) Option {
	return func(s *settings) error {
		if after == nil {
			return fmt.Errorf("%w: RetryAfter needs a function; leave it out for the default", coordinator.ErrInvalid)
		}
		s.after = after
		return nil
	}
}

func backOff(attempt int) time.Duration {
	return min(time.Second<<min(max(attempt, 1)-1, 6), time.Minute)
}

// Workers sets how many handlers of a batch run at a time; the default is 16.
func Workers(n int) Option {
	return func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("%w: Workers takes 1 or more, not %d", coordinator.ErrInvalid, n)
		}
		s.workers = n
		return nil
	}
}

func newSettings(opts []Option) (*settings, error) {
	s := &settings{most: 10, workers: 16, after: backOff, shuffle: rand.Shuffle, called: time.Now()}
	for _, opt := range opts {
		if opt == nil {
			return s, fmt.Errorf("%w: an option is nil; leave it out", coordinator.ErrInvalid)
		}
		if err := opt(s); err != nil {
			return s, err
		}
	}
	return s, nil
}

// misused is the verdict on every message where an option is wrong: it stays where it is until that is mended.
func (s *settings) misused(err error) Verdict {
	return Verdict{Action: Retry, Reason: Misused, After: time.Minute, Err: err}
}
