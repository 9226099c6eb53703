package coordinator

import (
	"errors"
	"fmt"
	"time"
)

// The errors of this package. Test for them with errors.Is; those with a typed error below carry more.
var (
	// ErrInProgress: another claim holds the lease (of the key or of its resource). Try again after
	// [InProgressError].RetryAfter, or claim with [WaitUpTo].
	ErrInProgress = errors.New("coordinator: in progress")
	// ErrCompleted: the operation has its outcome, in [CompletedError].Result. Nothing is left to do but to hand it out.
	ErrCompleted = errors.New("coordinator: completed")
	// ErrMismatch: the key was first used for another request (P4). The client must use a new key.
	ErrMismatch = errors.New("coordinator: key was used with another fingerprint")
	// ErrUncertain: a lease lapsed and the claim said [QuarantineLapsed]; find out what took place and call Resolve.
	ErrUncertain = errors.New("coordinator: an earlier run ended without an outcome")
	// ErrLeaseLost: the lease ended before its work did. Stop working; its fenced writes are refused. It is
	// also the cause that a lease's context ends with.
	ErrLeaseLost = errors.New("coordinator: lease lost")
	// ErrStaleToken: the grant is not, or no longer, the current one; nothing was changed (P3).
	ErrStaleToken = errors.New("coordinator: stale token")
	// ErrNotFound: there is no result, nor anybody working on one.
	ErrNotFound = errors.New("coordinator: not found")
	// ErrUnknown: the call may or may not have taken effect (P7). Send the same call again; a claim with
	// [Owner] set to [UnknownError].Owner.
	ErrUnknown = errors.New("coordinator: outcome unknown")
	// ErrNotReplicated: fewer replicas than asked for confirmed the write in time. A claim was given
	// back; a completion stands and the same call asks again.
	ErrNotReplicated = errors.New("coordinator: not confirmed by enough replicas")
	// ErrKeyExpired: the client made the key longer ago than results are kept; the operation may have
	// been done already and must not run again under this key.
	ErrKeyExpired = errors.New("coordinator: key is older than the retention")
	// ErrInvalid: an argument or option is not allowed; the text says which and what is. Nothing was sent or changed.
	ErrInvalid = errors.New("coordinator: invalid")
	// ErrTooLarge: a payload or checkpoint is over [WithMaxPayload]; nothing was changed.
	ErrTooLarge = errors.New("coordinator: payload too large")
	// ErrCorrupt: what Redis holds under our key is not a record that this release can read; it was left as it is.
	ErrCorrupt = errors.New("coordinator: unreadable record")
	// ErrUnavailable: Redis did not carry the call out, and that is known: nothing was changed.
	ErrUnavailable = errors.New("coordinator: redis unavailable")
	// ErrClosed: the coordinator was closed.
	ErrClosed = errors.New("coordinator: closed")
)

// InProgressError says who holds what a claim asked for, and until when. It is ErrInProgress.
type InProgressError struct {
	Key Key
	// RetryAfter is when the current lease ends at the earliest, unless it is renewed; 0 for a lapsed one.
	RetryAfter time.Duration
	// Attempt is the number of the run in progress; 0 where another key holds the resource and this one never ran.
	Attempt int
}

func (e *InProgressError) Error() string {
	return fmt.Sprintf("%v: %s, attempt %d; try again in %v", ErrInProgress, label(e.Key), e.Attempt, e.RetryAfter)
}

// Is makes errors.Is(err, ErrInProgress) true.
func (e *InProgressError) Is(target error) bool { return target == ErrInProgress }

// CompletedError carries the stored result. It is ErrCompleted.
type CompletedError struct {
	Key    Key
	Result Result
}

func (e *CompletedError) Error() string {
	outcome := "completed"
	if e.Result.Failed {
		outcome = "failed for good"
	}
	return fmt.Sprintf("coordinator: %s %s at %s", label(e.Key), outcome, e.Result.CompletedAt.UTC().Format(time.RFC3339))
}

// Is makes errors.Is(err, ErrCompleted) true.
func (e *CompletedError) Is(target error) bool { return target == ErrCompleted }

// ResultOf returns the stored result that err carries: of a *CompletedError anywhere in its chain.
func ResultOf(err error) (Result, bool) {
	done, ok := errors.AsType[*CompletedError](err)
	if !ok {
		return Result{}, false
	}
	return done.Result, true
}

// StaleTokenError says that a grant is not the current one. It is ErrStaleToken.
type StaleTokenError struct {
	Key   Key
	Token Token
	// Current is the token that stands there now, 0 when nothing does. It may equal Token: then the
	// grant has ended, or the token is another owner's.
	Current Token
}

func (e *StaleTokenError) Error() string {
	return fmt.Sprintf("%v: %s has token %d, the current one is %d; stop this work", ErrStaleToken, label(e.Key), e.Token, e.Current)
}

// Is makes errors.Is(err, ErrStaleToken) true.
func (e *StaleTokenError) Is(target error) bool { return target == ErrStaleToken }

// UnknownError says that a call's outcome could not be learned. It is ErrUnknown and unwraps to the cause.
type UnknownError struct {
	Key Key
	// Owner asks again for the same claim ([Owner]) or gives it back ([Coordinator.GiveBack]). A credential. Empty
	// where it is given back already: [Do] does that.
	Owner string
	Err   error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("%v: %s: %v; send the same call again", ErrUnknown, label(e.Key), e.Err)
}

// Is makes errors.Is(err, ErrUnknown) true.
func (e *UnknownError) Is(target error) bool { return target == ErrUnknown }

// Unwrap returns what kept the reply away.
func (e *UnknownError) Unwrap() error { return e.Err }

// label names a key in texts that may end up in logs: the scope and the resource, which the application
// chose, but not the client's ID.
func label(k Key) string {
	switch {
	case k.Resource != "" && k.Scope != "":
		return fmt.Sprintf("key in scope %.100q of resource %.100q", k.Scope, k.Resource)
	case k.Resource != "":
		return fmt.Sprintf("key of resource %.100q", k.Resource)
	case k.Scope != "":
		return fmt.Sprintf("key in scope %.100q", k.Scope)
	}
	return "key"
}

func mismatch(key Key) error {
	return fmt.Errorf("%w: %s; a new request needs a new key", ErrMismatch, label(key))
}
