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
// returns the verdicts in the messages' order. A message that is in the batch twice runs once, and its copy is in progress. Messages of one
// coordinator.Key.Resource take turns: the first is claimed with the batch, each other one when the one before it is through.
//
// First attempts run in the messages' order. Those that were begun before come after them, in a random order: a
// message whose handler kills the process counts an attempt for all that were claimed with it, and those that ran before it are
// out of its reach the next time. What is not begun when ctx or its lease ends is given back and counts no attempt. A handler's panic
// goes on in HandleBatch's caller, as a text with its stack, once the other handlers have returned.
func HandleBatch(ctx context.Context, c *coordinator.Coordinator, messages []Message, opts ...Option) []Verdict {
	s, err := newSettings(opts)
	b := &batch{settings: s, ctx: ctx, c: c, messages: messages, verdicts: make([]Verdict, len(messages))}
	if err == nil {
		b.work()
	} else {
		for i := range messages {
			b.verdicts[i] = s.misused(err)
			b.settle(i)
		}
	}
	if b.ended != "" {
		panic(b.ended)
	}
	return b.verdicts
}

// batch is one call of HandleBatch.
type batch struct {
	*settings
	ctx      context.Context
	c        *coordinator.Coordinator
	messages []Message
	claims   []coordinator.ClaimResult
	waits    []func() bool // ends the watch over a lease whose message waits for its turn; false when the lease has ended
	next     map[int]int   // the message of the same resource whose turn is after this one's
	verdicts []Verdict
	turns    chan struct{}
	all      sync.WaitGroup

	mu    sync.Mutex
	ended string // the first panic
}

// work claims the messages and gives each its turn.
func (b *batch) work() {
	requests := make([]coordinator.ClaimRequest, len(b.messages))
	for i, m := range b.messages {
		requests[i] = coordinator.ClaimRequest{Key: m.Key, Options: b.options(m)}
	}
	b.claims = b.c.ClaimMany(b.ctx, requests)
	b.waits = make([]func() bool, len(b.messages))
	for i, claim := range b.claims {
		if claim.Lease != nil { // ends before anybody else can have the message
			b.waits[i] = context.AfterFunc(claim.Lease.Context(), func() { putBack(b.ctx, claim.Lease) })
		}
	}
	b.turns = make(chan struct{}, b.workers)
	for _, i := range b.inOrder() {
		b.turns <- struct{}{}
		b.all.Go(func() { b.one(i, b.turn) })
	}
	b.all.Wait()
}

func (b *batch) options(m Message) []coordinator.ClaimOption { return slices.Concat(b.claim, m.Claim) }

// one gives a message its verdict, also where its handler does not return, and tells it.
func (b *batch) one(i int, turn func(i int) Verdict) {
	defer b.goOn(i)
	defer b.settle(i)
	defer b.caught(i)
	b.verdicts[i] = Verdict{Action: Retry, Reason: Failed, After: b.after(1), Err: errors.New("the handler did not return")}
	b.verdicts[i] = turn(i)
}

// goOn passes the turn to the message that has waited for this one.
func (b *batch) goOn(i int) {
	if j, waits := b.next[i]; waits {
		b.all.Go(func() { b.one(j, b.follow) }) // a goroutine of its own, since this one may be ending
	} else {
		<-b.turns
	}
}

func (b *batch) settle(i int) {
	if settle := b.messages[i].Settle; settle != nil {
		defer b.caught(i)
		settle(b.verdicts[i])
	}
}

// caught is deferred, and keeps a panic for HandleBatch's caller.
func (b *batch) caught(i int) {
	cause := recover() // nil for runtime.Goexit
	b.mu.Lock()
	defer b.mu.Unlock()
	if cause != nil && b.ended == "" {
		b.ended = fmt.Sprintf("%v\n\nin the handler of message %d:\n%s", cause, i, debug.Stack())
	}
}

// inOrder sorts a batch: what needs no handler, first attempts, then the others in a random order. What waits for a message of the
// batch itself comes after that one.
func (b *batch) inOrder() []int {
	var answered, first, later []int
	last := map[string]int{} // of each resource that the batch holds
	own := map[coordinator.Key]bool{}
	for i, claim := range b.claims {
		if key := b.messages[i].Key; claim.Lease != nil && key.Resource != "" {
			last[key.Resource], own[key] = i, true
		}
	}
	b.next = map[int]int{}
	for i, claim := range b.claims {
		key := b.messages[i].Key
		before, holds := last[key.Resource]
		switch {
		case claim.Err == nil && claim.Lease.Attempt() == 1:
			first = append(first, i)
		case claim.Err == nil:
			later = append(later, i)
		case errors.Is(claim.Err, coordinator.ErrInProgress) && holds && !own[key]:
			b.next[before] = i
			last[key.Resource], own[key] = i, true
		default:
			answered = append(answered, i)
		}
	}
	b.shuffle(len(later), func(i, j int) { later[i], later[j] = later[j], later[i] })
	return slices.Concat(answered, first, later)
}

// follow is the turn of a message that the one before it kept from being claimed.
func (b *batch) follow(i int) Verdict {
	m := b.messages[i]
	if b.ctx.Err() != nil || b.overdue() {
		return b.verdictOf(b.claims[i].Err)
	}
	return b.handle(b.ctx, b.c, m.Key, m.Run, b.options(m))
}

// turn is what happens to a message when its turn comes, which may be long after its claim.
func (b *batch) turn(i int) Verdict {
	m, claim := b.messages[i], b.claims[i]
	if claim.Err != nil {
		return b.refused(b.ctx, b.c, m.Key, b.options(m), claim.Err)
	}
	held := b.waits[i]()
	switch {
	case !held: // any more, and given back
		return b.unbegun(claim.Lease, Lost, context.Cause(claim.Lease.Context()))
	case m.Run == nil:
		b.all.Go(func() { putBack(b.ctx, claim.Lease) })
		return b.misused(errNoHandler)
	case b.ctx.Err() != nil:
		b.all.Go(func() { putBack(b.ctx, claim.Lease) })
		return b.unbegun(claim.Lease, Failed, context.Cause(b.ctx))
	}
	return b.run(b.ctx, claim.Lease, m.Run)
}
