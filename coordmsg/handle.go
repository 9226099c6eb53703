package coordmsg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onceward/coordinator"
)

// Handler does a message's work. Its context ends with the consumer's and with the lease, and carries the grant; what it writes behind
// a fence takes lease.Grant. An error means that the message has not taken effect and is to be tried again; one of
// coordinator.Final that it never will be. It may finish the lease itself, with lease.Complete and a result for the verdicts of
// duplicates, and then return nil.
type Handler func(ctx context.Context, lease *coordinator.Lease) error

// Handle runs fn for a message unless it has been done, is being done or is given up, and says what to do with the message. When
// Redis cannot take the outcome it tries until the lease ends rather than have the work done again, for a second after the end of ctx and
// then in the background. A panic of fn counts as an attempt, frees the key, and goes on.
func Handle(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, fn Handler, opts ...Option) Verdict {
	s, err := newSettings(opts)
	if err != nil {
		return s.misused(err)
	}
	return s.handle(ctx, c, key, fn, s.claim)
}

func (s *settings) handle(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, fn Handler, opts []coordinator.ClaimOption) Verdict {
	if fn == nil {
		return s.misused(errNoHandler)
	}
	lease, err := c.Claim(ctx, key, opts...)
	if err != nil {
		return s.refused(ctx, c, key, opts, err)
	}
	return s.run(ctx, lease, fn)
}

var errNoHandler = fmt.Errorf("%w: a message needs a handler", coordinator.ErrInvalid)

// tidyTime bounds what is done in Redis for a consumer that does not wait for it, or whose own context is over.
const tidyTime = time.Second

// giveBack frees what was claimed for a handler that has not run, so that it counts no attempt.
func giveBack(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, owner string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	_ = c.GiveBack(ctx, key, owner) // else it lapses by itself
}

// putBack does that with a lease.
func putBack(ctx context.Context, lease *coordinator.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	_ = lease.GiveBack(ctx) // else it lapses by itself
}

// unbegun is the verdict on a message that was claimed and not begun; its attempts are those before.
func (s *settings) unbegun(lease *coordinator.Lease, reason Reason, why error) Verdict {
	return Verdict{Action: Retry, Reason: reason, After: s.after(lease.Attempt()), Attempt: lease.Attempt() - 1, Checkpoint: lease.Checkpoint(), Err: why}
}

// refused is the verdict on a message that could not be claimed. What may have been claimed all the same is given back in the
// background: it is Redis that does not answer, and others wait for their verdicts.
func (s *settings) refused(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, opts []coordinator.ClaimOption, err error) Verdict {
	var unknown *coordinator.UnknownError
	if errors.As(err, &unknown) && unknown.Owner != "" {
		go giveBack(ctx, c, key, unknown.Owner)
	}
	if errors.Is(err, coordinator.ErrInvalid) && !ownFault(ctx, c, key, opts) {
		return s.misused(err)
	}
	v := s.verdictOf(err)
	if v.Reason == Uncertain { // rare enough to ask how often it has run
		if there, err := c.Inspect(ctx, key); err == nil && there.State == coordinator.StateLapsed {
			v.Attempt = there.Attempt
		}
	}
	return v
}

// ownFault says whether a message is to blame for a claim that is ErrInvalid: by its key, or by what Redis alone can judge, its age
// and its token. What is refused before Redis is asked is an option, the same for all messages, none of which may be given up for it.
func ownFault(ctx context.Context, c *coordinator.Coordinator, key coordinator.Key, opts []coordinator.ClaimOption) bool {
	if key.Validate() != nil {
		return true
	}
	ended, cancel := context.WithCancel(ctx)
	cancel() // so that Redis is not asked
	_, err := c.Claim(ended, key, opts...)
	return errors.Is(err, coordinator.ErrUnavailable)
}

// run works under the lease.
func (s *settings) run(ctx context.Context, lease *coordinator.Lease, fn Handler) Verdict {
	if ran := lease.Attempt() - 1; ran >= s.most { // the last has crashed
		return s.park(ctx, lease, Poisoned, ran, fmt.Errorf("attempt %d ended without an outcome", ran))
	}
	if s.overdue() { // the claim has waited for so long
		go putBack(ctx, lease)
		return s.unbegun(lease, Lost, fmt.Errorf("%w: the visibility timeout was over before the message was begun", coordinator.ErrLeaseLost))
	}
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			s.release(ctx, lease)
		}
	}()
	working, cancel := context.WithCancelCause(coordinator.ContextWithGrant(ctx, lease.Grant()))
	defer cancel(context.Canceled)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()
	if s.visible > 0 {
		var stop func()
		working, stop = context.WithDeadlineCause(working, s.called.Add(s.visible), coordinator.ErrLeaseLost)
		defer stop()
	}
	err := fn(working, lease)
	returned = true
	switch {
	case err == nil:
		return s.complete(ctx, lease)
	case coordinator.IsFinal(err):
		return s.park(ctx, lease, Final, lease.Attempt(), err)
	case lease.Attempt() >= s.most && ctx.Err() == nil:
		return s.park(ctx, lease, Poisoned, lease.Attempt(), err)
	case lease.Attempt() >= s.most && lease.Context().Err() == nil: // a shutdown is not the message's fault: the last attempt does not count
		putBack(ctx, lease)
	}
	return s.again(ctx, lease, err)
}

// complete stores that the message has taken effect.
func (s *settings) complete(ctx context.Context, lease *coordinator.Lease) Verdict {
	v := Verdict{Action: Ack, Reason: Done, Attempt: lease.Attempt()}
	err := s.store(ctx, lease, func(ctx context.Context) error { return lease.Complete(ctx, nil) })
	switch result, finished := coordinator.ResultOf(err); {
	case err == nil:
		return v
	case errors.Is(err, coordinator.ErrNotReplicated): // it stands, and that is all that an acknowledgement says
		v.Err = err
		return v
	case finished: // by the handler, with a result; or by another attempt, which is as good
		v = replayed(result, err)
		v.Replayed = result.Token != lease.Token()
		if v.Attempt == 0 && !v.Replayed {
			v.Attempt = lease.Attempt()
		}
		return v
	}
	return s.unstored(ctx, lease, err)
}

// again has a message that has not taken effect delivered again.
func (s *settings) again(ctx context.Context, lease *coordinator.Lease, failure error) Verdict {
	v := Verdict{Action: Retry, Reason: Failed, After: s.after(lease.Attempt()), Attempt: lease.Attempt(), Checkpoint: lease.Checkpoint(), Err: failure}
	switch cause := context.Cause(lease.Context()); {
	case errors.Is(cause, coordinator.ErrLeaseLost), errors.Is(cause, coordinator.ErrClosed), errors.Is(failure, coordinator.ErrStaleToken), s.overdue():
		v.Reason = Lost
	}
	s.release(ctx, lease)
	return v
}

// unstored is the verdict where an outcome could not be stored; err says why.
func (s *settings) unstored(ctx context.Context, lease *coordinator.Lease, err error) Verdict {
	v := s.verdictOf(err)
	if v.Attempt == 0 {
		v.Attempt = lease.Attempt()
	}
	if !passing(err) {
		s.release(ctx, lease) // else it is renewed up to its maximum lifetime, for nobody
	}
	return v
}

// passing says whether an outcome may yet be stored.
func passing(err error) bool {
	return errors.Is(err, coordinator.ErrUnavailable) || errors.Is(err, coordinator.ErrUnknown)
}

// store puts an outcome into Redis. While that fails and the lease stands it tries again: the work is done, and to do it
// again would be the only other way. A consumer whose own context is over does not wait for that; it goes on behind its back.
func (s *settings) store(ctx context.Context, lease *coordinator.Lease, put func(context.Context) error) error {
	patient, cancel := outliving(ctx, tidyTime)
	defer cancel()
	err := storeWithin(patient, lease, put)
	if passing(err) && lease.Context().Err() == nil {
		go func() {
			ctx := context.WithoutCancel(ctx)
			if err := storeWithin(ctx, lease, put); err != nil {
				s.release(ctx, lease)
			}
		}()
	}
	return err
}

// storeWithin tries until the lease ends, or ctx.
func storeWithin(ctx context.Context, lease *coordinator.Lease, put func(context.Context) error) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := put(ctx)
		if !passing(err) {
			return err
		}
		pause.Reset(wait)
		select {
		case <-pause.C:
		case <-lease.Context().Done():
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// release gives the key up, within a moment, so that the next delivery need not wait for the lease's end. One that was lost is left
// to lapse: its claim may have asked for quarantine, and nobody but a person may then free it.
func (s *settings) release(ctx context.Context, lease *coordinator.Lease) {
	if lease.Context().Err() != nil || s.overdue() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	_ = lease.Release(ctx) // what cannot be released lapses by itself
}

// outliving returns a context with ctx's values that ends d after ctx does.
func outliving(ctx context.Context, d time.Duration) (context.Context, func()) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, func() { cancel(context.Cause(ctx)) })
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() {
		stop()
		cancel(context.Canceled)
	}
}
