package coordmsg

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/onceward/coordinator"
)

// Message is one element of [HandleBatch].
type Message struct {
	Key coordinator.Key
	// Claim holds options for this one, such as the fingerprint of its body; those of the option [Claim] are for all.
	Claim []coordinator.ClaimOption
	Run   Handler
	// Settle, where it is given, is called with the verdict as soon as there is one, in the handler's goroutine: so that a message need not
	// wait for the slowest of its batch to be acknowledged.
	Settle func(Verdict)
}

// HandleBatch is [Handle] for many messages: it claims them all in one round trip per node, runs [Workers] handlers at a time, and
// returns the verdicts in the messages' order. A message that is in the batch twice runs once, and its copy is in progress.
//
// First attempts run in the messages' order. Those that were begun before come after them, in a random order: a
// message whose handler kills the process counts an attempt for all that were claimed with it, and those that ran before it are
// out of its reach the next time. A handler's panic goes on in
// HandleBatch's caller, as a text with its stack, once the other handlers have returned.
func HandleBatch(ctx context.Context, c *coordinator.Coordinator, messages []Message, opts ...Option) []Verdict {
	verdicts := make([]Verdict, len(messages))
	s, err := newSettings(opts)
	if err != nil {
		for i, m := range messages {
			if verdicts[i] = s.misused(err); m.Settle != nil {
				m.Settle(verdicts[i])
			}
		}
		return verdicts
	}
	requests := make([]coordinator.ClaimRequest, len(messages))
	for i, m := range messages {
		requests[i] = coordinator.ClaimRequest{Key: m.Key, Options: slices.Concat(s.claim, m.Claim)}
	}
	claims := c.ClaimMany(ctx, requests)

	var (
		all   sync.WaitGroup
		turns = make(chan struct{}, s.workers)
		mu    sync.Mutex
		ended string // the first panic
	)
	for _, i := range s.inOrder(claims) {
		turns <- struct{}{}
		all.Go(func() {
			returned := false
			defer func() {
				if !returned {
					cause := recover() // nil for runtime.Goexit
					verdicts[i] = Verdict{Action: Retry, Reason: Failed, After: s.after(1), Err: errors.New("the handler ended its goroutine")}
					mu.Lock()
					if cause != nil && ended == "" {
						ended = fmt.Sprintf("%v\n\nin the handler of message %d:\n%s", cause, i, debug.Stack())
					}
					mu.Unlock()
				}
				<-turns
			}()
			verdicts[i] = s.turn(ctx, c, messages[i], claims[i])
			if messages[i].Settle != nil {
				messages[i].Settle(verdicts[i])
			}
			returned = true
		})
	}
	all.Wait()
	if ended != "" {
		panic(ended)
	}
	return verdicts
}

// inOrder sorts a batch: what needs no handler, first attempts, then the others in a random order.
func (s *settings) inOrder(claims []coordinator.ClaimResult) []int {
	var answered, first, later []int
	for i, claim := range claims {
		switch {
		case claim.Err != nil:
			answered = append(answered, i)
		case claim.Lease.Attempt() == 1:
			first = append(first, i)
		default:
			later = append(later, i)
		}
	}
	s.shuffle(len(later), func(i, j int) { later[i], later[j] = later[j], later[i] })
	return slices.Concat(answered, first, later)
}

// turn is what happens to a message of a batch when its turn comes, which may be long after its claim.
func (s *settings) turn(ctx context.Context, c *coordinator.Coordinator, m Message, claim coordinator.ClaimResult) Verdict {
	switch {
	case claim.Err != nil:
		return s.refused(ctx, c, m.Key, slices.Concat(s.claim, m.Claim), claim.Err)
	case m.Run == nil:
		s.release(ctx, claim.Lease)
		return s.misused(fmt.Errorf("%w: a Message needs Run", coordinator.ErrInvalid))
	case ctx.Err() != nil: // not begun, and not to be begun
		return s.again(ctx, claim.Lease, context.Cause(ctx))
	case claim.Lease.Context().Err() != nil:
		return s.again(ctx, claim.Lease, context.Cause(claim.Lease.Context()))
	}
	return s.run(ctx, claim.Lease, m.Run)
}
