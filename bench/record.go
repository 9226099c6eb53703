package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// recorder is a go-redis hook. While it holds, it keeps the commands that the library sends one by one
// and answers them itself, as Redis would on success.
//
// It exists because completions have no batch call. A claim and a completion sent one by one cost Redis a
// read, a write and a turn of its event loop each, several times the work of either side, and the
// comparison would be one of system calls. So the completions are recorded, with the script's hash, the
// key, the grant, the payload and everything else exactly as the library encoded them, and then sent in one
// pipeline, as ClaimMany sends the claims and as the bare commands go out. Redis sees the same bytes as from as
// many callers of Complete that share a connection, so its work is the same. That the results
// are there is checked afterwards.
type recorder struct {
	mu      sync.Mutex
	holding bool
	held    [][]any
}

// hold begins holding commands back.
func (r *recorder) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = true
}

// take ends the holding and returns what was held.
func (r *recorder) take() [][]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.held
	r.held, r.holding = nil, false
	return held
}

func (r *recorder) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !r.holds(cmd) {
			return next(ctx, cmd)
		}
		return answer(cmd)
	}
}

// A completion may travel in a pipeline that calls share; then all of it is held.
func (r *recorder) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !r.holds(cmds...) {
			return next(ctx, cmds)
		}
		for _, cmd := range cmds {
			if err := answer(cmd); err != nil {
				return err
			}
		}
		return nil
	}
}

// holds keeps the commands when they are scripts and it is time to.
func (r *recorder) holds(cmds ...redis.Cmder) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.holding || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Name() != "evalsha" }) {
		return false
	}
	for _, cmd := range cmds {
		r.held = append(r.held, cmd.Args())
	}
	return true
}

func answer(cmd redis.Cmder) error {
	to, ok := cmd.(interface{ SetVal(any) })
	if !ok {
		return fmt.Errorf("cannot answer a %T", cmd)
	}
	to.SetVal([]any{int64(0), "", int64(0)}) // OK, no record, a time that nobody looks at
	return nil
}

// claim claims keys in one pipeline.
func (l *lab) claim(ctx context.Context, keys []coordinator.Key, opts ...coordinator.ClaimOption) ([]*coordinator.Lease, error) {
	reqs := make([]coordinator.ClaimRequest, len(keys))
	for i, key := range keys {
		reqs[i] = coordinator.ClaimRequest{Key: key, Options: opts}
	}
	leases := make([]*coordinator.Lease, len(keys))
	for i, r := range l.coord.ClaimMany(ctx, reqs) {
		if r.Err != nil {
			return nil, r.Err
		}
		leases[i] = r.Lease
	}
	return leases, nil
}

// completions records what completing the leases sends to Redis. For the library they are completed then.
func (l *lab) completions(ctx context.Context, leases []*coordinator.Lease) ([][]any, error) {
	l.tape.hold()
	for _, lease := range leases {
		if err := lease.Complete(ctx, l.result); err != nil {
			l.tape.take()
			return nil, err
		}
	}
	held := l.tape.take()
	if len(held) != len(leases) {
		return nil, fmt.Errorf("%d completions sent %d commands", len(leases), len(held))
	}
	return held, nil
}

// send sends commands in one pipeline.
func (l *lab) send(ctx context.Context, commands [][]any) ([]any, error) {
	pipe := l.plain.Pipeline()
	for _, args := range commands {
		pipe.Do(ctx, args...)
	}
	cmds, err := pipe.Exec(ctx)
	if err != nil {
		return nil, err
	}
	replies := make([]any, len(cmds))
	for i, cmd := range cmds {
		replies[i] = cmd.(*redis.Cmd).Val()
	}
	return replies, nil
}

// complete sends recorded completions in one pipeline. Answers that begin with a code say that it is OK.
func (l *lab) complete(ctx context.Context, commands [][]any) error {
	replies, err := l.send(ctx, commands)
	if err != nil {
		return err
	}
	for _, reply := range replies {
		if list, ok := reply.([]any); ok && (len(list) == 0 || list[0] != int64(0)) {
			return fmt.Errorf("a recorded completion was answered %v", reply)
		}
	}
	return nil
}

// set sends bare commands in one pipeline and checks that each was obeyed.
func (l *lab) set(ctx context.Context, commands [][]any) error {
	replies, err := l.send(ctx, commands)
	if err != nil {
		return err
	}
	for _, reply := range replies {
		if reply != "OK" {
			return fmt.Errorf("a bare SET was answered %v", reply)
		}
	}
	return nil
}
