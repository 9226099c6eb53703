package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

const sameHeld = `There is no peer: redislock and redsync renew nothing, and rueidislock has a goroutine for each lock. So the limits are absolute: what it
costs a process to hold many leases, beyond what it was before. Heap is measured after a garbage collection and includes the keys; CPU is this process' own, all of its goroutines and the
client, by getrusage; pipelines are counted by a hook of the client. A lease is lost when its context has ended, or when Redis does not know it any more (a sample is asked for).`

// leaseTimes is how long the leases are held, in their own length.
const leaseTimes = 3

// held is row 7.
func (l *lab) held(ctx context.Context) ([]figure, error) {
	h, err := l.newHolder(l.lease)
	if err != nil {
		return nil, err
	}
	defer h.close()
	if err := h.claim(ctx, l.leases); err != nil {
		return nil, err
	}
	heap := (heapNow() - h.heap) / float64(l.leases)
	var goroutines, pipelined, cpu, renewals []float64
	for window := range leaseTimes {
		l.progress.step("%d leases, lease time %d of %d", l.leases, window+1, leaseTimes)
		w, err := h.watch(ctx, l, l.lease)
		if err != nil {
			return nil, err
		}
		goroutines = append(goroutines, w.goroutines-h.goroutines)
		pipelined = append(pipelined, w.renewals/w.pipelines)
		cpu = append(cpu, 100*w.client/micros(w.took))
		renewals = append(renewals, w.renewals/w.took.Seconds())
	}
	lost, err := h.lost(ctx)
	if err != nil {
		return nil, err
	}
	return []figure{
		figureOf("held_lost", fmt.Sprintf("leases lost of %d held for %v", l.leases, leaseTimes*l.lease), "", []float64{float64(lost)}).atMost(0),
		figureOf("held_goroutines", "goroutines of the coordinator", "", goroutines).atMost(1),
		figureOf("held_heap", "heap for a lease", "bytes", []float64{heap}).atMost(1024),
		figureOf("held_pipelined", "renewals in a pipeline", "", pipelined).atLeast(100),
		figureOf("held_cpu", fmt.Sprintf("one core, with leases of %v", l.lease), "%", cpu).atMost(25),
		figureOf("held_renewals", "renewals", "a second", renewals),
	}, nil
}

// holder is a coordinator that holds many leases.
type holder struct {
	rdb   *redis.Client
	coord *coordinator.Coordinator
	count *pipelineCounter

	leases     []*coordinator.Lease
	heap       float64 // before the leases
	goroutines float64
}

func (l *lab) newHolder(lease time.Duration) (*holder, error) {
	h := &holder{rdb: l.client(), count: &pipelineCounter{}}
	h.rdb.AddHook(h.count)
	var err error
	if h.coord, err = coordinator.New(h.rdb, coordinator.WithLease(lease)); err != nil {
		_ = h.rdb.Close()
		return nil, err
	}
	return h, nil
}

func (h *holder) close() {
	_ = h.coord.Close()
	_ = h.rdb.Close()
}

// claim takes n leases. What was there before the first is noted.
func (h *holder) claim(ctx context.Context, n int) error {
	h.leases = make([]*coordinator.Lease, 0, n)
	if err := h.rdb.Ping(ctx).Err(); err != nil { // a connection is there
		return err
	}
	h.heap, h.goroutines = heapNow(), goroutines()
	const together = 1000
	for len(h.leases) < n {
		requests := make([]coordinator.ClaimRequest, min(together, n-len(h.leases)))
		for i := range requests {
			requests[i].Key = newKey()
		}
		for _, result := range h.coord.ClaimMany(ctx, requests) {
			if result.Err != nil {
				return result.Err
			}
			h.leases = append(h.leases, result.Lease)
		}
	}
	return nil
}

// goroutines counts those that have a function of the module on their stacks, which this program's own have not while they wait.
func goroutines() float64 {
	stacks := make([]byte, 16<<20)
	n := 0
	for stack := range bytes.SplitSeq(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
		if bytes.Contains(stack, []byte("onceward/coordinator.(")) || bytes.Contains(stack, []byte("onceward/coordinator/internal/")) {
			n++
		}
	}
	return float64(n)
}

// window is what happened in a stretch of holding.
type window struct {
	took                time.Duration
	renewals, pipelines float64
	client, server      float64 // CPU, µs
	goroutines          float64 // the median of samples
}

func (h *holder) watch(ctx context.Context, l *lab, d time.Duration) (w window, err error) {
	before, err := l.meters(ctx)
	if err != nil {
		return w, err
	}
	pipelines, commands := h.count.pipelines.Load(), h.count.commands.Load()
	begin := time.Now()
	var samples []float64
	ticker := time.NewTicker(d / 50)
	defer ticker.Stop()
	for time.Since(begin) < d {
		select {
		case <-ctx.Done():
			return w, context.Cause(ctx)
		case <-ticker.C:
			samples = append(samples, goroutines())
		}
	}
	w.took = time.Since(begin)
	after, err := l.meters(ctx)
	w.client, w.server = after.client-before.client, after.server-before.server
	w.renewals, w.pipelines = float64(h.count.commands.Load()-commands), float64(h.count.pipelines.Load()-pipelines)
	w.goroutines = figureOf("", "", "", samples).Median
	if err == nil && w.pipelines == 0 {
		err = errors.New("nothing was renewed")
	}
	return w, err
}

// lost counts the leases that are not held any more. A sample of them is looked up.
func (h *holder) lost(ctx context.Context) (n int, err error) {
	for i, lease := range h.leases {
		if lease.Context().Err() != nil {
			n++
			continue
		}
		if i%100 > 0 {
			continue
		}
		record, err := h.coord.Inspect(ctx, lease.Key())
		if err != nil {
			return n, err
		}
		if record.State != coordinator.StateInProgress || record.Token != lease.Token() {
			n++
		}
	}
	return n, nil
}

func heapNow() float64 {
	runtime.GC()
	runtime.GC() // what finalizers have let go of
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

// pipelineCounter is a go-redis hook that counts pipelines and the scripts in them; a script by itself is a pipeline of one.
type pipelineCounter struct{ pipelines, commands atomic.Int64 }

func (p *pipelineCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *pipelineCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		p.add(cmd)
		return next(ctx, cmd)
	}
}

func (p *pipelineCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		p.add(cmds...)
		return next(ctx, cmds)
	}
}

func (p *pipelineCounter) add(cmds ...redis.Cmder) {
	scripts := 0
	for _, cmd := range cmds {
		if cmd.Name() == "evalsha" {
			scripts++
		}
	}
	if scripts > 0 {
		p.pipelines.Add(1)
		p.commands.Add(int64(scripts))
	}
}
