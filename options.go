package coordinator

import (
	"fmt"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
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
	largestPayload     = 500 << 20                 // Redis keeps strings up to 512 MiB
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
		s.maxLifetime = min(defaultMaxLifetime, s.retention*10/11, s.retention-minGrace)
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

// request is one claim's options after they were checked.
type request struct {
	fingerprint []byte
	lease       time.Duration
	grace       time.Duration
	lifetime    time.Duration
	wait        time.Duration
	minToken    Token
	issuedAt    time.Time
	quarantine  bool
	manual      bool
	owner       string
	claimOnly   []string // options given that make no sense to Resume
}

// ClaimOption configures one claim. Every ClaimOption is a [DoOption] as well.
type ClaimOption interface {
	DoOption
	applyClaim(*request) error
}

// DoOption configures [Do].
type DoOption interface {
	applyDo(*doRequest) error
}

type claimOption func(*request) error

func (o claimOption) applyClaim(r *request) error { return o(r) }
func (o claimOption) applyDo(r *doRequest) error {
	r.claim = append(r.claim, o)
	return nil
}

// Fingerprint binds the key to what was asked for: 1 to 64 bytes, usually a SHA-256 of the request. A
// claim with another one, or none where there was one, is ErrMismatch (P4).
func Fingerprint(sum []byte) ClaimOption {
	sum = append([]byte{}, sum...)
	return claimOption(func(r *request) error {
		if len(sum) < 1 || len(sum) > maxFingerprint {
			return fmt.Errorf("%w: Fingerprint takes 1 to %d bytes, not %d; give it a digest, or leave it out", ErrInvalid, maxFingerprint, len(sum))
		}
		r.fingerprint = sum
		r.claimOnly = append(r.claimOnly, "Fingerprint")
		return nil
	})
}

// LeaseFor sets this claim's lease instead of [WithLease]'s: at least 100ms, at most the maximum lifetime.
func LeaseFor(d time.Duration) ClaimOption {
	return claimOption(func(r *request) error {
		if err := within("LeaseFor", d, minLease); err != nil {
			return err
		}
		r.lease = d
		return nil
	})
}

// MaxLifetime sets when this lease ends however often it is renewed: at most [WithMaxLifetime]'s.
func MaxLifetime(d time.Duration) ClaimOption {
	return claimOption(func(r *request) error {
		if err := within("MaxLifetime", d, minLease); err != nil {
			return err
		}
		r.lifetime = d
		return nil
	})
}

// ManualRenewal leaves renewing to the caller's [Lease.Renew]; the lease's context still ends in time.
func ManualRenewal() ClaimOption {
	return claimOption(func(r *request) error {
		r.manual = true
		return nil
	})
}

// WaitUpTo waits for the holder's result, or for the key, instead of returning ErrInProgress at once;
// when the time is over, it is ErrInProgress after all. 0 does not wait.
func WaitUpTo(d time.Duration) ClaimOption {
	return claimOption(func(r *request) error {
		if d < 0 || d > longest {
			return fmt.Errorf("%w: WaitUpTo takes 0 to %v, not %v", ErrInvalid, longest, d)
		}
		r.wait = d
		r.claimOnly = append(r.claimOnly, "WaitUpTo")
		return nil
	})
}

// MinToken makes the grant's token exceed t, the protected resource's own high-water mark; 0 is none.
// It is refused, ErrInvalid, when it is more than a day ahead of the server's clock.
func MinToken(t Token) ClaimOption {
	return claimOption(func(r *request) error {
		if t < 0 || t >= maxToken {
			return fmt.Errorf("%w: MinToken takes 0 to 2^53-1, not %d", ErrInvalid, t)
		}
		r.minToken = t
		r.claimOnly = append(r.claimOnly, "MinToken")
		return nil
	})
}

// IssuedAt says when the client made the key. Where no record answers and that is longer ago than the
// retention, by the server's clock, the claim is ErrKeyExpired and not a second run; a time over an hour
// in the future is ErrInvalid. [UUIDv7Time] reads it out of a key.
func IssuedAt(t time.Time) ClaimOption {
	return claimOption(func(r *request) error {
		if t.UnixMilli() <= 0 {
			return fmt.Errorf("%w: IssuedAt takes the time when the key was made, not %v", ErrInvalid, t)
		}
		r.issuedAt = t
		r.claimOnly = append(r.claimOnly, "IssuedAt")
		return nil
	})
}

// QuarantineLapsed answers a lapsed lease with ErrUncertain instead of taking it over, until Resolve or
// the end of the retention. Use it in every claimer of such keys.
func QuarantineLapsed() ClaimOption {
	return claimOption(func(r *request) error {
		r.quarantine = true
		r.claimOnly = append(r.claimOnly, "QuarantineLapsed")
		return nil
	})
}

// Owner asks again for a claim whose outcome was unknown: give it [UnknownError].Owner.
func Owner(id string) ClaimOption {
	return claimOption(func(r *request) error {
		if !isOwner(id) {
			return fmt.Errorf("%w: Owner takes UnknownError.Owner, 32 lower-case hex digits", ErrInvalid)
		}
		r.owner = id
		r.claimOnly = append(r.claimOnly, "Owner")
		return nil
	})
}

// request checks a claim's options against each other and against the coordinator's.
func (s *settings) request(opts []ClaimOption) (request, error) {
	r := request{}
	for _, opt := range opts {
		if opt == nil {
			return r, fmt.Errorf("%w: a claim's option is nil; leave it out", ErrInvalid)
		}
		if err := opt.applyClaim(&r); err != nil {
			return r, err
		}
	}
	if r.lifetime > s.maxLifetime {
		return r, fmt.Errorf("%w: MaxLifetime, %v, exceeds the coordinator's, %v; raise WithMaxLifetime", ErrInvalid, r.lifetime, s.maxLifetime)
	}
	if r.lifetime == 0 {
		r.lifetime = s.maxLifetime
	}
	if r.lease > r.lifetime {
		return r, fmt.Errorf("%w: LeaseFor, %v, is longer than the maximum lifetime, %v", ErrInvalid, r.lease, r.lifetime)
	}
	if r.lease == 0 {
		r.lease = min(s.lease, r.lifetime)
	}
	if r.grace = s.graceOf(r.lease); r.lifetime <= r.grace {
		return r, fmt.Errorf("%w: MaxLifetime, %v, does not exceed the grace, %v; raise it or lower WithGrace", ErrInvalid, r.lifetime, r.grace)
	}
	return r, nil
}

// length is what the lease has in Redis from its grant on.
func (r *request) length() time.Duration { return min(r.lease+r.grace, r.lifetime) }
