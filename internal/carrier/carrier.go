// Package carrier takes requests to the servers that they concern and brings their replies: it sends again what did not
// run or what is safe to repeat, loads scripts that a server does not have, waits for replicas, and says of what has no
// reply whether it may have run.
package carrier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
)

// Config is what a carrier works with.
type Config struct {
	Client      redis.UniversalClient
	Base        context.Context //  once it has ended nothing is sent any more; its cause is the calls' error
	Timeout     time.Duration   // of calls without a deadline
	Jitter      func(time.Duration) time.Duration
	Replicas    int // that confirm what is durable; 0 for none
	ReplicaWait time.Duration
}

// Carrier sends requests over one client.
type Carrier struct {
	Config
	Cluster *redis.ClusterClient // Client, when it is one

	versionSeen atomic.Bool
	reached     atomic.Bool // a server has answered
	lanes       lanes
	rides       sync.Pool // of *ride that nobody waits for
	senders     chan *lane
}

// New makes a carrier. Its goroutines end with Base, and what is out by the client's timeouts.
func New(config Config) *Carrier {
	cluster, _ := config.Client.(*redis.ClusterClient)
	return &Carrier{Config: config, Cluster: cluster, senders: make(chan *lane)}
}

// Call is one request on its way, and what came back.
type Call struct {
	protocol.Request

	Reply       protocol.Reply
	Unconfirmed bool // the replicas did not confirm what was written
	Settled     bool // it has its reply, or its error
	// Err is why there is no reply: a *protocol.CorruptError, the cause that ended Base, or what the client or the server said.
	Err error
	// MayHaveRun says that a copy may have run whose reply is not known.
	MayHaveRun bool
}

// answer is what one sending of a call brought.
type answer struct {
	raw         any
	err         error
	unconfirmed bool
}

// sentOnce keeps go-redis from sending a command again by itself: Run does, which knows what may be repeated.
type sentOnce struct{ *redis.Cmd }

func (sentOnce) NoRetry() bool { return true }

// sending is how calls go out.
type sending struct {
	again bool // copies of them have gone out before
	whole bool // with the script's text, for a server that does not have it
}

func (k *Call) command(ctx context.Context, s sending) sentOnce {
	own := k.Args
	if s.again && k.Hasty {
		own = own[:len(own)-1]
	}
	args := make([]any, 0, 3+len(k.Keys)+len(k.Args))
	if s.whole {
		args = append(args, "eval", k.Script.Text, len(k.Keys))
	} else {
		args = append(args, "evalsha", k.Script.SHA, len(k.Keys))
	}
	for _, name := range k.Keys {
		args = append(args, name)
	}
	cmd := sentOnce{redis.NewCmd(ctx, append(args, own...)...)}
	cmd.SetFirstKeyPos(3)
	return cmd
}

// Run sends calls, all in one go or in pipelines with others', and again those that did not run or whose outcome is not
// known, until each has its reply or its error, or ctx ends. That is safe (P5) for all but those that say Once; these go alone.
func (c *Carrier) Run(ctx context.Context, calls ...*Call) {
	end := c.End(ctx)
	var last error
	try := 0
	if len(calls) == 1 && ctx.Err() == nil && c.Base.Err() == nil {
		if key, shared := c.laneOf(ctx, calls[0]); shared {
			if last = c.share(ctx, c.patience(end), key, calls[0]); last == nil {
				return // as nearly always: no context, no timer of its own
			}
			try = 1
			c.lookAgain(ctx)
		}
	}
	ctx, cancel := Until(ctx, end)
	defer cancel()
	for ; ; try++ {
		if try > 0 {
			c.BackOff(ctx, try)
		}
		for _, over := range []context.Context{c.Base, ctx} {
			if over.Err() != nil {
				abandon(calls, context.Cause(over), last)
				return
			}
		}
		attempt, done := ctx, func() {}
		if !calls[0].Once { // it has all the time
			attempt, done = context.WithDeadline(ctx, c.patience(end))
		}
		last = c.exchange(attempt, calls, try > 0)
		done()
		if last == nil {
			return
		}
		var open []*Call
		for _, k := range calls {
			if !k.Settled {
				open = append(open, k)
			}
		}
		calls = open
		c.lookAgain(ctx)
	}
}

// lookAgain has a cluster client find out who serves what: by itself it looks once a minute.
func (c *Carrier) lookAgain(ctx context.Context) {
	if c.Cluster != nil {
		c.Cluster.ReloadState(ctx)
	}
}

// GivenUp is when the first sending of a call under ctx is given up.
func (c *Carrier) GivenUp(ctx context.Context) time.Time {
	return c.patience(c.End(ctx)).Add(lastMoment)
}

// patience is when one sending is given up, of a call that ends then: a connection that hangs must not use up all of
// a call's time, when another one, or another master, may answer.
func (c *Carrier) patience(end time.Time) time.Time {
	now := time.Now()
	left := end.Sub(now)
	return now.Add(min(left, max(left/3, 500*time.Millisecond, c.ReplicaWait+250*time.Millisecond)))
}

// abandon settles what is still open when there is no more time.
func abandon(calls []*Call, cause, last error) {
	if last != nil && !errors.Is(cause, last) {
		cause = fmt.Errorf("%w; last: %w", cause, last)
	}
	for _, k := range calls {
		k.Settled, k.Err = true, cause
	}
}

// Master is the one that serves a Redis key now; nil where the client must find a place for it, as it does without a cluster.
func (c *Carrier) Master(ctx context.Context, redisKey string) *redis.Client {
	if c.Cluster == nil {
		return nil
	}
	master, err := c.Cluster.MasterForKey(ctx, redisKey)
	if err != nil {
		return nil
	}
	return master
}

// byMaster sorts calls by the master that serves them now.
func (c *Carrier) byMaster(ctx context.Context, calls []*Call) map[*redis.Client][]*Call {
	groups := map[*redis.Client][]*Call{}
	for _, k := range calls {
		master := c.Master(ctx, k.Keys[0])
		groups[master] = append(groups[master], k)
	}
	return groups
}

// Try sends calls of one master a single time, in one pipeline; those whose fate is not known then are not settled.
func (c *Carrier) Try(ctx context.Context, calls []*Call) {
	if err := c.exchangeOne(ctx, calls, false); err != nil {
		c.lookAgain(ctx)
	}
}

// lastMoment is how long after its context's end a call waits for a reply that is on its way.
const lastMoment = 20 * time.Millisecond

// exchange sends every call once, to each master by itself: one that hangs keeps no other's replies back. For
// calls that are still open it returns one of their errors. again says that copies of them have been sent before.
func (c *Carrier) exchange(ctx context.Context, calls []*Call, again bool) error {
	if c.Cluster == nil || len(calls) == 1 {
		return c.exchangeOne(ctx, calls, again)
	}
	grouped := make(chan map[*redis.Client][]*Call, 1)
	go func() { grouped <- c.byMaster(ctx, calls) }() // it may have to ask for the topology first
	var groups map[*redis.Client][]*Call
	select {
	case groups = <-grouped:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	errs := make(chan error, len(groups))
	for _, group := range groups {
		go func() { errs <- c.exchangeOne(ctx, group, again) }()
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
func (c *Carrier) exchangeOne(ctx context.Context, calls []*Call, again bool) error {
	sent := time.Now()
	finished := make(chan []answer, 1)
	go func() { finished <- c.transmit(ctx, calls, again) }()
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
				k.MayHaveRun = true
			}
			return context.Cause(ctx)
		}
	}
	var open error
	for i, k := range calls {
		if err := k.settle(answers[i], sent); err != nil {
			open = err
		}
	}
	if open == nil {
		c.reached.Store(true)
	}
	return open
}

// settle takes in what one sending brought; the error is the reason when the call stays open.
func (k *Call) settle(a answer, sent time.Time) error {
	switch fateOf(a.err) {
	case fateAnswered:
		k.Settled, k.MayHaveRun, k.Unconfirmed = true, false, a.unconfirmed
		k.Reply, k.Err = protocol.DecodeReply(a.raw, &k.Request)
		k.Reply.Sent = sent
	case fateRefused:
		k.Settled, k.Err = true, explain(a.err)
	case fateNotRun:
		return a.err
	case fateUnknown:
		k.MayHaveRun = true
		if !k.Once {
			return a.err
		}
		k.Settled, k.Err = true, a.err
	}
	return nil
}

// transmit sends calls once; a script that the server does not know did not run and is sent along. It
// does not touch the calls: exchangeOne may have given up on them.
func (c *Carrier) transmit(ctx context.Context, calls []*Call, again bool) []answer {
	answers := c.deliver(ctx, calls, sending{again: again})
	var unknown []int
	var left []*Call
	for i := range answers {
		if err := answers[i].err; err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
			unknown, left = append(unknown, i), append(left, calls[i])
		}
	}
	if len(left) == 0 {
		return answers
	}
	if err := c.firstUse(ctx, left[0].Keys[0]); err != nil {
		for _, i := range unknown {
			answers[i] = answer{err: err}
		}
		return answers
	}
	for n, a := range c.deliver(ctx, left, sending{again: again, whole: true}) {
		answers[unknown[n]] = a
	}
	return answers
}

// firstUse checks the server's version when it turns out not to have our scripts yet.
func (c *Carrier) firstUse(ctx context.Context, redisKey string) error {
	if c.versionSeen.Load() {
		return nil
	}
	node := c.Client
	if c.Cluster != nil {
		master, err := c.Cluster.MasterForKey(ctx, redisKey)
		if err != nil {
			return notSent{err}
		}
		node = master
	}
	var refused Refusal
	if err := checkVersion(ctx, node); errors.As(err, &refused) {
		return err
	} else if err != nil {
		return notSent{err} // only the question was
	}
	c.versionSeen.Store(true)
	return nil
}

func (c *Carrier) deliver(ctx context.Context, calls []*Call, s sending) []answer {
	answers := make([]answer, len(calls))
	if len(calls) == 1 && !c.durably(calls[0]) {
		cmd := calls[0].command(ctx, s)
		_ = c.Client.Process(ctx, cmd)
		answers[0] = answerOf(cmd)
		return answers
	}
	cmds := make([]sentOnce, len(calls))
	pipe := c.Client.Pipeline()
	for i, k := range calls {
		if c.durably(k) {
			continue
		}
		cmds[i] = k.command(ctx, s)
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
	if c.Replicas > 0 {
		c.deliverDurably(ctx, calls, s, answers)
	}
	return answers
}

func (c *Carrier) durably(k *Call) bool { return k.Durable && c.Replicas > 0 }

func answerOf(cmd sentOnce) answer {
	raw, err := cmd.Result()
	return answer{raw: raw, err: err}
}

// Bound gives ctx the timeout where it has no deadline of its own.
func (c *Carrier) Bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return Until(ctx, c.End(ctx))
}

// Until has ctx end at what [Carrier.End] said of it. Where that is its own deadline it ends by itself: another timer could be
// early, and the caller would find his context alive.
func Until(ctx context.Context, end time.Time) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, end)
}

// End is when a call under ctx has to be over: its deadline, or a timeout from now.
func (c *Carrier) End(ctx context.Context) time.Time {
	if end, has := ctx.Deadline(); has {
		return end
	}
	return time.Now().Add(c.Timeout)
}

// BackOff waits before another try, longer each time; false when ctx or Base ended.
func (c *Carrier) BackOff(ctx context.Context, try int) bool {
	pause := c.Jitter(min(5*time.Millisecond<<min(try-1, 5), 100*time.Millisecond))
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil // both may be over
	case <-ctx.Done():
	case <-c.Base.Done():
	}
	return false
}
