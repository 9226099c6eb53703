package coordinator

import (
	"fmt"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
)

// Limits and defaults; each option's text names its own.
const (
	defaultPrefix      = "coord"
	defaultLease       = 30 * time.Second
	defaultRetention   = 24 * time.Hour
	defaultMaxLifetime = time.Hour
	defaultMaxPayload  = 1 << 20
	defaultTimeout     = 5 * time.Second
	minLease           = 100 * time.Millisecond
	minGrace           = 20 * time.Millisecond
	longest            = 30 * 365 * 24 * time.Hour // a record has 12 digits of milliseconds for a length
	maxFingerprint     = protocol.MaxFingerprint
	largestPayload     = 500 << 20 // Redis keeps strings up to 512 MiB
	minReplayCache     = 64 << 10
	minReplayAge       = time.Millisecond
	maxReplayAge       = time.Minute
)

// settings are a coordinator's options after they were checked.
type settings struct {
	prefix      string
	lease       time.Duration // 0 until settled
	grace       time.Duration // 0: a tenth of each lease
	retention   time.Duration
	maxLifetime time.Duration // 0 until settled
	maxPayload  int
	timeout     time.Duration
	replicas    int
	replicaWait time.Duration
	secret      []byte
	observer    Observer
	replayBytes int // 0: no cache
	replayAge   time.Duration
}

// Option configures a [Coordinator]; [New] reports a value that is not allowed.
type Option func(*settings) error

// WithPrefix sets what every Redis key of this coordinator begins with: 1 to 64 of A-Za-z0-9_.:-.
// The default is "coord". Coordinators that share keys must share the prefix.
func WithPrefix(prefix string) Option {
	return func(s *settings) error {
		if len(prefix) < 1 || len(prefix) > 64 {
			return fmt.Errorf("%w: WithPrefix takes 1 to 64 characters, not %d", ErrInvalid, len(prefix))
		}
		for i := 0; i < len(prefix); i++ {
			c := prefix[i]
			if !keyname.Plain(c) && c != ':' || c == '/' || c == '@' {
				return fmt.Errorf("%w: WithPrefix allows A-Za-z0-9_.:- only, not %q", ErrInvalid, c)
			}
		}
		s.prefix = prefix
		return nil
	}
}

// WithLease sets how long a lease lasts without renewal: the default is 30s (or the maximum lifetime,
// if that is shorter), at least 100ms. A crash blocks a key for this long and its grace.
func WithLease(d time.Duration) Option {
	return func(s *settings) error {
		if err := within("WithLease", d, minLease); err != nil {
			return err
		}
		s.lease = d
		return nil
	}
}

// WithGrace sets how long before the end stored in Redis a holder stops (P6): it covers late timers and
// clocks of nodes that differ by less. The default is a tenth of each claim's own lease; at least 20ms.
func WithGrace(d time.Duration) Option {
	return func(s *settings) error {
		if err := within("WithGrace", d, minGrace); err != nil {
			return err
		}
		s.grace = d
		return nil
	}
}

// WithRetention sets how long results, and what is known of unfinished runs, are kept: the default is
// 24h. A retry that comes later runs again, unless the claim says [IssuedAt]. At least the maximum lifetime and its grace.
func WithRetention(d time.Duration) Option {
	return func(s *settings) error {
		if err := within("WithRetention", d, minLease+minGrace); err != nil {
			return err
		}
		s.retention = d
		return nil
	}
}

// WithMaxLifetime sets when a lease ends however often it is renewed: the default is 1h, or what the
// retention allows. [LeaseFor] and [MaxLifetime] do not exceed it.
func WithMaxLifetime(d time.Duration) Option {
	return func(s *settings) error {
		if err := within("WithMaxLifetime", d, minLease); err != nil {
			return err
		}
		s.maxLifetime = d
		return nil
	}
}

// WithMaxPayload sets the largest result or checkpoint, in bytes: the default is 1 MiB, at most 500 MiB.
func WithMaxPayload(bytes int) Option {
	return func(s *settings) error {
		if bytes < 1 || bytes > largestPayload {
			return fmt.Errorf("%w: WithMaxPayload takes 1 to %d bytes, not %d", ErrInvalid, largestPayload, bytes)
		}
		s.maxPayload = bytes
		return nil
	}
}

// WithTimeout bounds a call whose context has no deadline (time spent waiting for others apart): the default is 5s.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) error {
		if err := within("WithTimeout", d, time.Millisecond); err != nil {
			return err
		}
		s.timeout = d
		return nil
	}
}

// WithReplicas makes claims, renewals and completions wait, up to the given time, until n replicas have
// confirmed them; a call that they did not confirm is ErrNotReplicated. It narrows what a failover can
// lose, at the price of the replicas' round trip. n is 1 or more.
func WithReplicas(n int, wait time.Duration) Option {
	return func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("%w: WithReplicas needs 1 replica or more, not %d; leave it out to wait for none", ErrInvalid, n)
		}
		if err := within("WithReplicas", wait, time.Millisecond); err != nil {
			return err
		}
		s.replicas, s.replicaWait = n, wait
		return nil
	}
}

// WithHashedKeys keeps scopes, IDs and resources out of Redis: every part of a name is replaced by its
// HMAC-SHA-256 under secret. Payloads stay readable. All coordinators that share keys need the same secret.
func WithHashedKeys(secret []byte) Option {
	return func(s *settings) error {
		if len(secret) == 0 {
			return fmt.Errorf("%w: WithHashedKeys needs a secret; 32 random bytes are a good one", ErrInvalid)
		}
		s.secret = append([]byte{}, secret...)
		return nil
	}
}

// WithObserver hands every call and everything that happens between calls to o. Given several times, all of them watch.
func WithObserver(o Observer) Option {
	return func(s *settings) error {
		if o == nil {
			return fmt.Errorf("%w: WithObserver needs an Observer; leave it out to have none", ErrInvalid)
		}
		if _, none := s.observer.(noObserver); !none {
			o = observers{s.observer, o}
		}
		s.observer = o
		return nil
	}
}

// WithReplayCache keeps results in this process' memory, in so many bytes at most (64 KiB and more), and replays each of them
// without asking Redis for up to maxAge (1ms to 1m) after the request went out that showed it; the default is to ask every time.
// Claims, Do, ClaimMany, Result and Await look there first and leave there what they find finished, with WithReplicas only what
// replicas have confirmed; fingerprints are compared as Redis does (P4), and each caller gets a copy of his own.
//
// An answer may be maxAge old. What another process expires, what Redis loses, and what reaches the end of its retention is
// replayed here for that long; this coordinator's own Expire, Resolve and GiveBack are seen at once, and so is a lease on the key
// that it was granted or told of. Results that are larger than a 64th of bytes, or than 64 KiB where that is more, are not kept.
// Close gives the memory back.
func WithReplayCache(bytes int, maxAge time.Duration) Option {
	return func(s *settings) error {
		if bytes < minReplayCache {
			return fmt.Errorf("%w: WithReplayCache takes %d bytes or more, not %d; leave it out to have no cache", ErrInvalid, minReplayCache, bytes)
		}
		if maxAge < minReplayAge || maxAge > maxReplayAge {
			return fmt.Errorf("%w: WithReplayCache takes an age of %v to %v, not %v; it is how old a replay may be", ErrInvalid, minReplayAge, maxReplayAge, maxAge)
		}
		s.replayBytes, s.replayAge = bytes, maxAge
		return nil
	}
}

func within(option string, d, least time.Duration) error {
	if d < least || d > longest {
		return fmt.Errorf("%w: %s takes %v to %v, not %v", ErrInvalid, option, least, longest, d)
	}
	return nil
}

func newSettings(opts []Option) (*settings, error) {
	s := &settings{
		prefix: defaultPrefix, retention: defaultRetention, maxPayload: defaultMaxPayload,
		timeout: defaultTimeout, observer: noObserver{},
	}
	for _, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("%w: an option is nil; leave it out", ErrInvalid)
		}
		if err := opt(s); err != nil {
			return nil, err
		}
	}
	return s, s.settle()
}

// settle fills in the defaults that depend on other options and checks how they fit together.
func (s *settings) settle() error {
	if s.maxLifetime == 0 {
		s.maxLifetime = min(defaultMaxLifetime, s.retention/11*10, s.retention-minGrace)
		if s.grace > 0 {
			s.maxLifetime = min(defaultMaxLifetime, s.retention-s.grace)
		}
	}
	if s.lease == 0 {
		s.lease = min(defaultLease, s.maxLifetime)
	}
	switch least := s.leastRetention(); {
	case s.maxLifetime <= s.graceOf(s.maxLifetime):
		return fmt.Errorf("%w: the maximum lifetime, %v, does not exceed the grace, %v; raise it or lower WithGrace",
			ErrInvalid, s.maxLifetime, s.graceOf(s.maxLifetime))
	case s.lease > s.maxLifetime:
		return fmt.Errorf("%w: the lease, %v, is longer than the maximum lifetime, %v", ErrInvalid, s.lease, s.maxLifetime)
	case s.retention < least:
		return fmt.Errorf("%w: the retention, %v, is shorter than the maximum lifetime and its grace, %v", ErrInvalid, s.retention, least)
	}
	return nil
}

func (s *settings) graceOf(lease time.Duration) time.Duration {
	if s.grace > 0 {
		return s.grace
	}
	return max(lease/10, minGrace)
}

// leastRetention is how long a finished or fenced-out record must stay, lest a holder outlive it.
func (s *settings) leastRetention() time.Duration {
	return s.maxLifetime + s.graceOf(s.maxLifetime)
}

// LeastRetention returns the maximum lifetime and its grace: whatever else remembers outcomes, such as a ledger, must do so for as
// long, as a holder of an older grant may live until then.
func (c *Coordinator) LeastRetention() time.Duration { return c.leastRetention() }

// fits refuses data that is too large to store.
func (s *settings) fits(what string, data []byte) error {
	if len(data) > s.maxPayload {
		return fmt.Errorf("%w: the %s has %d bytes, %d are allowed; store it elsewhere and keep a reference, or raise WithMaxPayload", ErrTooLarge, what, len(data), s.maxPayload)
	}
	return nil
}
