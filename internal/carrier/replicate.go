package carrier

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// WAIT answers for what its own connection wrote (on newer servers for nothing else), so script and WAIT
// go down one connection to the key's master in one pipeline, which no other command shares. A cluster
// client's own WAIT asks the masters in turn instead, and its own pipelines may split over connections.

// deliverDurably sends the calls that wait for replicas, a pipeline for each master.
func (c *Carrier) deliverDurably(ctx context.Context, calls []*Call, s sending, answers []answer) {
	type batch struct {
		node  redis.UniversalClient
		calls []int
	}
	var batches []*batch
	byNode := map[redis.UniversalClient]*batch{}
	for i, k := range calls {
		if !c.durably(k) {
			continue
		}
		node := c.Client
		if c.Cluster != nil {
			master, err := c.Cluster.MasterForKey(ctx, k.Keys[0])
			if err != nil {
				answers[i] = answer{err: notSent{err}}
				continue
			}
			node = master
		}
		b := byNode[node]
		if b == nil {
			b = &batch{node: node}
			byNode[node], batches = b, append(batches, b)
		}
		b.calls = append(b.calls, i)
	}
	finished := make(chan struct{}, len(batches))
	for _, b := range batches {
		go func() {
			c.deliverTo(ctx, b.node, b.calls, calls, s, false, answers)
			finished <- struct{}{}
		}()
	}
	for range batches {
		<-finished
	}
}

// deliverTo sends some of the calls and a WAIT down one connection. A slot on its way to another node
// answers ASK; those calls follow it there, once.
func (c *Carrier) deliverTo(ctx context.Context, node redis.UniversalClient, some []int, calls []*Call, s sending, asking bool, answers []answer) {
	pipe := node.Pipeline()
	cmds := make([]sentOnce, len(some))
	for n, i := range some {
		if asking {
			_ = pipe.Process(ctx, sentOnce{redis.NewCmd(ctx, "asking")})
		}
		cmds[n] = calls[i].command(ctx, s)
		_ = pipe.Process(ctx, cmds[n])
	}
	wait := sentOnce{redis.NewCmd(ctx, "wait", c.Replicas, c.waitBound(ctx, node).Milliseconds())}
	_ = pipe.Process(ctx, wait)
	_, _ = pipe.Exec(ctx) // each command has its own error

	confirmed, err := wait.Int()
	short := err != nil || confirmed < c.Replicas
	moving := map[string][]int{}
	for n, i := range some {
		answers[i] = answerOf(cmds[n])
		answers[i].unconfirmed = short
		if errors.Is(answers[i].err, redis.ErrClosed) && c.Cluster != nil {
			answers[i].err = notSent{answers[i].err} // the node has left the cluster
		}
		if rest, asked := strings.CutPrefix(errorText(answers[i].err), "ASK "); asked && !asking && c.Cluster != nil {
			_, addr, _ := strings.Cut(rest, " ")
			moving[addr] = append(moving[addr], i)
		}
	}
	for addr, some := range moving {
		if target := c.nodeAt(ctx, addr); target != nil {
			c.deliverTo(ctx, target, some, calls, s, true, answers)
		}
	}
}

// waitBound keeps WAIT's time below the connection's read timeout and the context's end, so that it is
// WAIT that answers and not the connection that breaks.
func (c *Carrier) waitBound(ctx context.Context, node redis.UniversalClient) time.Duration {
	const margin = 50 * time.Millisecond
	wait := c.ReplicaWait
	if client, ok := node.(*redis.Client); ok {
		if read := client.Options().ReadTimeout; read > 0 {
			wait = min(wait, max(read-margin, read/2))
		}
	}
	if end, has := ctx.Deadline(); has {
		left := time.Until(end)
		wait = min(wait, max(left-margin, left/2))
	}
	return max(wait, time.Millisecond) // 0 would wait for ever
}

func (c *Carrier) nodeAt(ctx context.Context, addr string) (found *redis.Client) {
	nodes := make(chan *redis.Client, 1)
	_ = c.Cluster.ForEachShard(ctx, func(_ context.Context, node *redis.Client) error {
		if node.Options().Addr == addr {
			select {
			case nodes <- node:
			default:
			}
		}
		return nil
	})
	select {
	case found = <-nodes:
	default:
	}
	return found
}

// notSent marks an error from before anything went out.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

func errorText(err error) string {
	var told redis.Error
	if errors.As(err, &told) {
		return told.Error()
	}
	return ""
}
