package coordinator

import (
	"fmt"
	"time"

	"github.com/onceward/coordinator/internal/protocol"
)

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
	again       bool // under an owner that has asked before
	owner       string
	notResumed  string // an option that makes no sense to Resume
}

func (r *request) claimOnly(option string) {
	if r.notResumed == "" {
		r.notResumed = option
	}
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
		r.claimOnly("Fingerprint")
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
		r.claimOnly("MaxLifetime")
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
		r.claimOnly("WaitUpTo")
		return nil
	})
}

// MinToken makes the grant's token exceed t, the protected resource's own high-water mark; 0 is none.
// It is refused, ErrInvalid, when it is more than a day ahead of the server's clock.
func MinToken(t Token) ClaimOption {
	return claimOption(func(r *request) error {
		if t < 0 || t >= protocol.MaxToken {
			return fmt.Errorf("%w: MinToken takes 0 to 2^53-1, not %d", ErrInvalid, t)
		}
		r.minToken = t
		r.claimOnly("MinToken")
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
		r.claimOnly("IssuedAt")
		return nil
	})
}

// QuarantineLapsed answers a lapsed lease with ErrUncertain instead of taking it over, until Resolve or
// the end of the retention. Use it in every claimer of such keys.
func QuarantineLapsed() ClaimOption {
	return claimOption(func(r *request) error {
		r.quarantine = true
		r.claimOnly("QuarantineLapsed")
		return nil
	})
}

// Owner asks again for a claim whose outcome was unknown: give it [UnknownError].Owner.
func Owner(id string) ClaimOption {
	return claimOption(func(r *request) error {
		if !protocol.IsOwner(id) {
			return fmt.Errorf("%w: Owner takes UnknownError.Owner, 32 lower-case hex digits", ErrInvalid)
		}
		r.owner, r.again = id, true
		r.claimOnly("Owner")
		return nil
	})
}

// request checks a claim's options against each other and against the coordinator's.
func (s *settings) request(opts []ClaimOption) (request, error) {
	r := request{}
	if len(opts) > 0 {
		asked, err := apply(opts)
		if err != nil {
			return r, err
		}
		r = *asked
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

// apply is apart from request so that a claim without options makes nothing that escapes.
func apply(opts []ClaimOption) (*request, error) {
	r := &request{}
	for _, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("%w: a claim's option is nil; leave it out", ErrInvalid)
		}
		if err := opt.applyClaim(r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// length is what the lease has in Redis from its grant on.
func (r *request) length() time.Duration { return min(r.lease+r.grace, r.lifetime) }
