package coordtest

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/carrier"
)

// ErrFault is in the chain of every error that [Env.FailNext] and [Env.DropNext] cause.
var ErrFault = errors.New("coordtest: a fault on purpose")

var (
	errFailed  = fmt.Errorf("%w: %w", ErrFault, carrier.Refusal("the request was not sent"))
	errDropped = fmt.Errorf("%w: the reply was dropped", ErrFault)
)

// ops are the calls that can be made to fail, by the name that observers know them by; what "do" does are others of them.
var ops = []string{
	"claim", "claim_many", "renew", "checkpoint", "complete", "fail", "release", "give_back", "result",
	"await", "inspect", "expire", "resolve", "resume", "fence_do", "fence_eval", "load", "renewal",
}

// FailNext makes the next call of this op fail before it reaches the server: its error is [coordinator.ErrUnavailable], and
// nothing was changed. Ops have the names of [coordinator.Event]: "claim", "complete", "fence_do", …; "renewal" is the
// next one in the background. Several faults of one op strike one call each.
func (e *Env) FailNext(op string) {
	e.t.Helper()
	e.arm(op, false)
}

// DropNext makes the next call of this op lose its reply: the server carries it out, the caller's error is
// [coordinator.ErrUnknown], at once. A background "renewal" whose reply is lost is tried again. Otherwise it is as FailNext.
func (e *Env) DropNext(op string) {
	e.t.Helper()
	e.arm(op, true)
}

func (e *Env) arm(op string, drop bool) {
	e.t.Helper()
	if !slices.Contains(ops, op) {
		e.t.Fatalf("coordtest: no call is named %q; there are %q", op, ops)
	}
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	e.faults.armed = append(e.faults.armed, fault{op, drop})
}

type fault struct {
	op   string
	drop bool
}

// faults are what is to strike a process's next calls. As an Observer it sees calls begin and marks their contexts,
// which go-redis hands to the hook.
type faults struct {
	mu    sync.Mutex
	armed []fault
}

type callKey struct{}

// current is a call of the user's that is under way.
type current struct {
	op     string
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	struck *fault
	first  string // the script that it sent first
}

// Begin implements [coordinator.Observer].
func (f *faults) Begin(ctx context.Context, op string) (context.Context, func(coordinator.Event)) {
	ctx, cancel := context.WithCancelCause(ctx)
	ctx = context.WithValue(ctx, callKey{}, &current{op: op, cancel: cancel})
	return ctx, func(coordinator.Event) { cancel(nil) }
}

// Note implements [coordinator.Observer].
func (f *faults) Note(coordinator.Event) {}

// strike says what happens to a request: nothing, or the fault that its call has met. Every request of such a call,
// repeats too, meets it.
func (f *faults) strike(ctx context.Context, script string) (*current, *fault) {
	call, _ := ctx.Value(callKey{}).(*current)
	if call == nil {
		call = &current{op: "renewal", cancel: func(error) {}} // nothing else is sent outside of calls
	}
	call.mu.Lock()
	defer call.mu.Unlock()
	call.first = cmp.Or(call.first, script)
	if call.struck == nil {
		call.struck = f.take(call, script)
	}
	return call, call.struck
}

func (f *faults) take(call *current, script string) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(f.armed, func(a fault) bool { return a.op == call.op })
	if at < 0 {
		return nil
	}
	met := f.armed[at]
	if met.drop && (call.op == "expire" || call.op == "resolve") && script == call.first {
		return nil // they read first; what matters is the reply to the write
	}
	f.armed = slices.Delete(f.armed, at, at+1)
	return &met
}

// lookKey marks the package's own looks at the server; the hook notes which key they read, and no fault strikes them.
type lookKey struct{}

type look struct{ name string }

type hook struct{ *faults }

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return h.around(ctx, []redis.Cmder{cmd}, func() error { return next(ctx, cmd) })
	}
}

func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return h.around(ctx, cmds, func() error { return next(ctx, cmds) })
	}
}

func (h hook) around(ctx context.Context, cmds []redis.Cmder, next func() error) error {
	name := cmds[0].Name()
	if seen, ours := ctx.Value(lookKey{}).(*look); ours {
		if args := cmds[0].Args(); name == "evalsha" || name == "eval" {
			seen.name, _ = args[3].(string)
		}
		return next()
	}
	if name != "evalsha" && name != "eval" && name != "script" {
		return next()
	}
	call, met := h.strike(ctx, scriptOf(cmds[0]))
	if met == nil {
		return next()
	}
	if !met.drop {
		return spoil(cmds, errFailed)
	}
	err := next()
	noScript := func(cmd redis.Cmder) bool { return redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") }
	if redis.HasErrorPrefix(err, "NOSCRIPT") || slices.ContainsFunc(cmds, noScript) {
		return err // it did not run; the coordinator sends the script along next
	}
	call.cancel(errDropped)
	return spoil(cmds, errDropped)
}

// scriptOf is the name by which servers cache the script of a command.
func scriptOf(cmd redis.Cmder) string {
	text, _ := cmd.Args()[1].(string)
	if cmd.Name() == "evalsha" {
		return text
	}
	sum := sha1.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

func spoil(cmds []redis.Cmder, err error) error {
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
	return err
}
