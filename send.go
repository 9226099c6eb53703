package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/scripts"
)

// call is one script with its arguments on the way to Redis, and what came back.
type call struct {
	script  *scripts.Script
	key     Key    // for errors
	owner   string // for UnknownError
	keys    []string
	args    []any
	durable bool // with WithReplicas: wait for the replicas
	fenced  bool // its reply is a user's command's
	brief   bool // its reply has a record's header only
	once    bool // must not be sent again once it may have run

	maybe       bool // a copy may have run whose reply is not known
	settled     bool
	reply       reply
	unconfirmed bool // the replicas did not confirm what was written
	err         error
}

// answer is what one sending of a call brought.
type answer struct {
	raw         any
	err         error
	unconfirmed bool
}

// sentOnce keeps go-redis from sending a command again by itself: retries are run's, which knows what
// may be repeated.
type sentOnce struct{ *redis.Cmd }

func (sentOnce) NoRetry() bool { return true }

func (k *call) command(ctx context.Context, whole bool) sentOnce {
	args := make([]any, 0, 3+len(k.keys)+len(k.args))
	if whole {
		args = append(args, "eval", k.script.Text, len(k.keys))
	} else {
		args = append(args, "evalsha", k.script.SHA, len(k.keys))
	}
	for _, name := range k.keys {
		args = append(args, name)
	}
	cmd := sentOnce{redis.NewCmd(ctx, append(args, k.args...)...)}
	cmd.SetFirstKeyPos(3)
	return cmd
}

// run sends calls, all in one go, and those again that did not run or whose outcome is not known, until
// each has its reply or ctx ends. Every script is safe to repeat (P5).
func (c *Coordinator) run(ctx context.Context, calls ...*call) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	pending := calls
	var last error
	for try := 0; ; try++ {
		if c.closed() {
			c.abandon(pending, ErrClosed, last)
			return
		}
		if ctx.Err() != nil || try > 0 && !c.backOff(ctx, try) {
			c.abandon(pending, context.Cause(ctx), last)
			return
		}
		attempt, done := c.patience(ctx, pending)
		last = c.exchange(attempt, pending)
		done()
		if last == nil {
			return
		}
		var again []*call
		for _, k := range pending {
			if !k.settled {
				again = append(again, k)
			}
		}
		pending = again
		if c.cluster != nil {
			c.cluster.ReloadState(ctx) // by itself it looks once a minute
		}
	}
}

// patience bounds one sending: a connection that hangs must not use up all of a call's time, when another
// one, or another master, may answer. A call that is sent once has it all.
func (c *Coordinator) patience(ctx context.Context, calls []*call) (context.Context, context.CancelFunc) {
	end, has := ctx.Deadline()
	if !has || calls[0].once {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, max(time.Until(end)/3, 500*time.Millisecond, c.replicaWait+250*time.Millisecond))
}

// abandon settles what is still open when there is no more time.
func (c *Coordinator) abandon(calls []*call, cause, last error) {
	if last != nil && !errors.Is(cause, last) {
		cause = fmt.Errorf("%w; last: %w", cause, last)
	}
	for _, k := range calls {
		k.settled = true
		switch {
		case k.maybe:
			k.err = &UnknownError{Key: k.key, Owner: k.owner, Err: cause}
		case errors.Is(cause, ErrClosed):
			k.err = ErrClosed
		default:
			k.err = fmt.Errorf("%w: %w", ErrUnavailable, cause)
		}
	}
}

func (c *Coordinator) byMaster(ctx context.Context, calls []*call) map[*redis.Client][]*call {
	groups := map[*redis.Client][]*call{}
	for _, k := range calls {
		master, err := c.cluster.MasterForKey(ctx, k.keys[0])
		if err != nil {
			master = nil // wherever the client thinks best
		}
		groups[master] = append(groups[master], k)
	}
	return groups
}

// lastMoment is how long after its context's end a call waits for a reply that is on its way.
const lastMoment = 20 * time.Millisecond

// exchange sends every call once, to each master by itself: one that hangs keeps no other's replies back. For
// calls that are still open it returns one of their errors.
func (c *Coordinator) exchange(ctx context.Context, calls []*call) error {
	if c.cluster == nil || len(calls) == 1 {
		return c.exchangeOne(ctx, calls)
	}
	grouped := make(chan map[*redis.Client][]*call, 1)
	go func() { grouped <- c.byMaster(ctx, calls) }() // it may have to ask for the topology first
	var groups map[*redis.Client][]*call
	select {
	case groups = <-grouped:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	errs := make(chan error, len(groups))
	for _, group := range groups {
		go func() { errs <- c.exchangeOne(ctx, group) }()
	}
	var open error
	for range groups {
		if err := <-errs; err != nil {
			open = err
		}
	}
	return open
}

// exchangeOne sends calls once, in one pipeline, and settles those whose fate is known. It returns when ctx ends,
// give or take a moment, whatever the connection does.
func (c *Coordinator) exchangeOne(ctx context.Context, calls []*call) error {
	sent := time.Now()
	finished := make(chan []answer, 1)
	go func() { finished <- c.transmit(ctx, calls) }()
	var answers []answer
	select {
	case answers = <-finished:
	case <-ctx.Done():
		// A reply that is all but here makes the outcome known, which is worth a moment.
		last := time.NewTimer(lastMoment)
		defer last.Stop()
		select {
		case answers = <-finished:
		case <-last.C:
			for _, k := range calls {
				k.maybe = true
			}
			return context.Cause(ctx)
		}
	}
	var open error
	for i, k := range calls {
		a := answers[i]
		switch fateOf(a.err) {
		case fateAnswered:
			k.settled, k.unconfirmed = true, a.unconfirmed
			k.reply, k.err = decodeReply(a.raw, k)
			k.reply.sent = sent
		case fateRefused:
			k.settled, k.err = true, explain(a.err)
			if k.maybe { // a copy before this one may have run
				k.err = &UnknownError{Key: k.key, Owner: k.owner, Err: k.err}
			}
		case fateNotRun:
			open = a.err
		case fateUnknown:
			k.maybe = true
			if k.once {
				c.abandon(calls[i:i+1], a.err, nil)
			} else {
				open = a.err
			}
		}
	}
	return open
}

// transmit sends calls once; a script that the server does not know did not run and is sent along. It
// does not touch the calls: exchange may have given up on them.
func (c *Coordinator) transmit(ctx context.Context, calls []*call) []answer {
	answers := c.deliver(ctx, calls, false)
	var unknown []int
	var again []*call
	for i := range answers {
		if redis.HasErrorPrefix(answers[i].err, "NOSCRIPT") {
			unknown, again = append(unknown, i), append(again, calls[i])
		}
	}
	if len(again) == 0 {
		return answers
	}
	if err := c.firstUse(ctx, again[0].keys[0]); err != nil {
		for _, i := range unknown {
			answers[i] = answer{err: err}
		}
		return answers
	}
	for n, a := range c.deliver(ctx, again, true) {
		answers[unknown[n]] = a
	}
	return answers
}

// firstUse checks the server's version when it turns out not to have our scripts yet.
func (c *Coordinator) firstUse(ctx context.Context, redisKey string) error {
	if c.versionSeen.Load() {
		return nil
	}
	node := c.rdb
	if c.cluster != nil {
		master, err := c.cluster.MasterForKey(ctx, redisKey)
		if err != nil {
			return notSent{err}
		}
		node = master
	}
	if err := checkVersion(ctx, node); errors.Is(err, ErrUnavailable) {
		return err
	} else if err != nil {
		return notSent{err} // only the question was
	}
	c.versionSeen.Store(true)
	return nil
}

func (c *Coordinator) deliver(ctx context.Context, calls []*call, whole bool) []answer {
	answers := make([]answer, len(calls))
	if len(calls) == 1 && !c.durably(calls[0]) {
		cmd := calls[0].command(ctx, whole)
		_ = c.rdb.Process(ctx, cmd)
		answers[0] = answerOf(cmd)
		return answers
	}
	cmds := make([]sentOnce, len(calls))
	pipe := c.rdb.Pipeline()
	for i, k := range calls {
		if c.durably(k) {
			continue
		}
		cmds[i] = k.command(ctx, whole)
		_ = pipe.Process(ctx, cmds[i])
	}
	if pipe.Len() > 0 {
		_, _ = pipe.Exec(ctx) // each command has its own error
	}
	for i, cmd := range cmds {
		if cmd.Cmd != nil {
			answers[i] = answerOf(cmd)
		}
	}
	if c.replicas > 0 {
		c.deliverDurably(ctx, calls, whole, answers)
	}
	return answers
}

func (c *Coordinator) durably(k *call) bool { return k.durable && c.replicas > 0 }

func answerOf(cmd sentOnce) answer {
	raw, err := cmd.Result()
	return answer{raw: raw, err: err}
}

// bound gives ctx the coordinator's timeout where it has no deadline of its own.
func (c *Coordinator) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.timeout)
}

// backOff waits before another try, longer each time; false when ctx or the coordinator ended.
func (c *Coordinator) backOff(ctx context.Context, try int) bool {
	pause := c.jitter(min(5*time.Millisecond<<min(try-1, 5), 100*time.Millisecond))
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-c.base.Done():
	}
	return false
}

// fate is what became of one sending.
type fate int

const (
	fateAnswered fate = iota
	fateNotRun        // known not to have run: try again
	fateUnknown       // may have run: ask again, it is safe to
	fateRefused       // the server or the client will not do it: tell the caller
)

// Errors of servers that did not run the command and may soon.
var notRunPrefixes = []string{
	"TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MOVED", "ASK", "NOSCRIPT",
	"ERR max number of clients reached",
}

func fateOf(err error) fate {
	var told redis.Error
	var op *net.OpError
	var unsent notSent
	switch {
	case err == nil || errors.Is(err, redis.Nil):
		return fateAnswered
	case errors.As(err, &unsent):
		return fateNotRun
	case errors.Is(err, ErrUnavailable) || errors.Is(err, redis.ErrClosed):
		return fateRefused
	case errors.As(err, &op) && op.Op == "dial", errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return fateNotRun
	case errors.As(err, &told):
		for _, prefix := range notRunPrefixes {
			if redis.HasErrorPrefix(err, prefix) {
				return fateNotRun
			}
		}
		return fateRefused
	}
	return fateUnknown
}

// What to do about errors that a server keeps giving until somebody mends it.
var remedies = []struct{ prefix, remedy string }{
	{"OOM", "its memory is full: raise maxmemory, and keep maxmemory-policy noeviction"},
	{"NOPERM", "its ACL refuses us: docs/redis.md has the line to paste"},
	{"ERR The user executing the script", "its ACL refuses what our scripts do: docs/redis.md has the line to paste"},
	{"ACL failure in script", "its ACL refuses what our scripts do: docs/redis.md has the line to paste"},
	{"NOAUTH", "it wants a password: set it in the client's options"},
	{"WRONGPASS", "it refuses the password: mend it in the client's options"},
	{"MISCONF", "it cannot write its disk: see its log"},
	{"BUSY", "another script keeps it busy: see SCRIPT KILL"},
}

func remedy(err error) string {
	var told redis.Error
	if errors.As(err, &told) {
		for _, r := range remedies {
			if strings.HasPrefix(told.Error(), r.prefix) {
				return r.remedy
			}
		}
	}
	return ""
}

// explain turns an error that will not go away by itself into one of ours that says what to do.
func explain(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	if what := remedy(err); what != "" {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
	}
	if strings.Contains(err.Error(), "unknown command") {
		return fmt.Errorf("%w: the server does not know a command that we need; Redis 7.0 or Valkey 7.2 or later is needed: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
