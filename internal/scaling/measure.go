package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/internal/scaling/estimate"
	"github.com/onceward/coordinator/scripts"
	"github.com/redis/go-redis/v9"
)

// The library's defaults, as they go over the wire.
const (
	lease     = 30 * time.Second
	grace     = 3 * time.Second
	lifetime  = time.Hour
	retention = 24 * time.Hour
)

// rig is a server that is asked what commands cost it.
type rig struct {
	rdb      *redis.Client
	pipeline int
	callers  int
	result   []byte
	drawn    atomic.Int64 // keys and owners, so that each is new
}

// measure fills in the costs that servers on this machine can tell; the others stay.
func measure(ctx context.Context, c estimate.Costs, rounds, keys int) (estimate.Costs, error) {
	server, err := redistest.Start(ctx)
	if err != nil {
		return c, err
	}
	defer server.Stop()
	c.Pipeline, c.Callers, c.Payload = 100, 16, 512
	r := &rig{pipeline: c.Pipeline, callers: c.Callers, result: make([]byte, c.Payload)}
	r.rdb = server.Client(&redis.Options{PoolSize: c.Callers, MaxRetries: -1})
	defer r.rdb.Close()
	for _, s := range scripts.All() {
		if err := r.rdb.ScriptLoad(ctx, s.Text).Err(); err != nil {
			return c, err
		}
	}
	if c.Server, err = r.version(ctx); err != nil {
		return c, err
	}
	var pipelined, single []map[string]float64
	for range rounds {
		for _, way := range []struct {
			send func(context.Context, [][]any) ([]any, error)
			into *[]map[string]float64
		}{{r.pipelines, &pipelined}, {r.singles, &single}} {
			costs, err := r.round(ctx, keys, way.send)
			if err != nil {
				return c, err
			}
			*way.into = append(*way.into, costs)
		}
	}
	for name, cost := range map[string]*estimate.Cost{
		"set": &c.Set, "get": &c.Get, "claim": &c.Claim, "complete": &c.Complete, "waited": &c.Waited, "refused": &c.Refused,
		"replay": &c.Replay, "mark": &c.Mark, "renew": &c.Renew, "publish": &c.Publish, "spublish": &c.SPublish,
	} {
		cost.Pipelined, cost.Single = median(pipelined, name), median(single, name)
	}
	c.Resource = estimate.Cost{
		Pipelined: rounded(median(pipelined, "resource claim") + median(pipelined, "resource complete")),
		Single:    rounded(median(single, "resource claim") + median(single, "resource complete")),
	}
	c.Memory.Name = len(r.grants(1, "")[0].names.Record)
	c.Memory.InFlight, c.Memory.Completed = int(median(single, "in flight")), int(median(single, "completed"))-c.Payload
	for _, way := range []struct {
		rounds []map[string]float64
		into   *estimate.Observed
	}{{pipelined, &c.Observed.Pipelined}, {single, &c.Observed.Single}} {
		way.into.PerSecond, way.into.Busy = math.Round(median(way.rounds, "claim rate")), median(way.rounds, "claim busy")
	}
	c.Wire.Cycle = median(single, "claim bytes") + median(single, "complete bytes")
	c.Wire.Replay, c.Wire.Renew = median(single, "replay bytes"), median(single, "renew bytes")
	c.Bus.Send, c.Bus.Receive, err = bus(ctx, keys, c.Publish.Pipelined)
	return c, err
}

// median of one figure over the rounds, with two decimals: more would be noise.
func median(rounds []map[string]float64, name string) float64 {
	var all []float64
	for _, r := range rounds {
		all = append(all, r[name])
	}
	slices.Sort(all)
	return rounded(all[len(all)/2])
}

func rounded(x float64) float64 {
	x, _ = strconv.ParseFloat(strconv.FormatFloat(x, 'f', 2, 64), 64)
	return x
}

// grant is one key under measurement.
type grant struct {
	names keyname.Names
	head  string
	end   time.Duration
}

// round takes every cost once, on a server that is empty at its beginning.
func (r *rig) round(ctx context.Context, keys int, send func(context.Context, [][]any) ([]any, error)) (map[string]float64, error) {
	if err := r.rdb.FlushAll(ctx).Err(); err != nil {
		return nil, err
	}
	costs := map[string]float64{}
	var failed error
	take := func(name string, commands [][]any) []any {
		if failed != nil {
			return nil
		}
		before, err := r.spent(ctx)
		replies, err2 := send(ctx, commands)
		after, err3 := r.spent(ctx)
		if failed = errors.Join(err, err2, err3); failed != nil {
			failed = fmt.Errorf("%s: %w", name, failed)
			return nil
		}
		n := float64(len(commands))
		costs[name] = (after.micros - before.micros) / n
		costs[name+" bytes"] = (after.bytes - before.bytes) / n
		took := after.at.Sub(before.at)
		costs[name+" rate"] = n / took.Seconds()
		costs[name+" busy"] = (after.micros - before.micros) / float64(took.Microseconds())
		return replies
	}
	quiet, waited, shared := r.grants(keys, ""), r.grants(keys, ""), r.grants(keys, "account/%d")
	for _, batch := range []struct {
		name string
		of   []grant
	}{{"claim", quiet}, {"claim", waited}, {"resource claim", shared}} {
		of := batch.of
		replies := take(batch.name, commands(of, func(g grant) protocol.Request { return r.claim(g.names) }))
		for i, reply := range replies {
			q := r.claim(of[i].names)
			granted, err := protocol.DecodeReply(reply, &q)
			if err != nil || granted.Code != protocol.OK {
				return nil, fmt.Errorf("a fresh claim was answered %v: %w", reply, err)
			}
			of[i].head, of[i].end = protocol.Head(granted.Rec.Owner, granted.Rec.Token), granted.Rec.End
		}
	}
	length := func(name string) {
		n, err := r.rdb.StrLen(ctx, quiet[0].names.Record).Result()
		failed = errors.Join(failed, err)
		costs[name] = float64(n)
	}
	length("in flight")
	take("refused", commands(quiet, func(g grant) protocol.Request { return r.claim(g.names) }))
	take("renew", commands(quiet, func(g grant) protocol.Request { return protocol.Renew(g.names, g.head, lease+grace, retention, false) }))
	take("mark", commands(waited, func(g grant) protocol.Request { return protocol.Mark(g.names.Record, '1') }))
	complete := func(g grant) protocol.Request {
		return protocol.Complete(g.names, g.head, protocol.CompleteArgs{State: 'c', Result: r.result, Retention: retention, Attempt: 1, End: g.end})
	}
	take("waited", commands(waited, complete))
	take("complete", commands(quiet, complete))
	take("resource complete", commands(shared, complete))
	length("completed")
	take("replay", commands(quiet, func(g grant) protocol.Request { return r.claim(g.names) }))
	plain := func(command ...any) [][]any {
		all := make([][]any, keys)
		for i := range all {
			all[i] = append([]any{command[0], quiet[i].names.Record + "x"}, command[1:]...)
		}
		return all
	}
	take("set", plain("set", r.result, "px", retention.Milliseconds()))
	take("get", plain("get"))
	take("publish", plain("publish", ""))
	take("spublish", plain("spublish", ""))
	return costs, failed
}

// grants draws keys, each with a resource of its own where there is a format for one.
func (r *rig) grants(n int, resource string) []grant {
	all := make([]grant, n)
	for i := range all {
		drawn, on := r.drawn.Add(1), ""
		if resource != "" {
			on = fmt.Sprintf(resource, drawn)
		}
		all[i].names = keyname.Namer{Prefix: "coord"}.Names("payments", fmt.Sprintf("018cc251-f400-7000-8000-%012x", drawn), on)
	}
	return all
}

func (r *rig) claim(n keyname.Names) protocol.Request {
	owner := fmt.Sprintf("%032x", r.drawn.Add(1))
	return protocol.Claim(n, protocol.ClaimArgs{Owner: owner, Length: lease + grace, Lifetime: lifetime, Retention: retention})
}

func commands(of []grant, request func(grant) protocol.Request) [][]any {
	all := make([][]any, len(of))
	for i, g := range of {
		q := request(g)
		all[i] = []any{"evalsha", q.Script.SHA, len(q.Keys)}
		for _, key := range q.Keys {
			all[i] = append(all[i], key)
		}
		all[i] = append(all[i], q.Args...)
	}
	return all
}

// pipelines sends commands in pipelines, one after the other.
func (r *rig) pipelines(ctx context.Context, commands [][]any) (replies []any, err error) {
	for batch := range slices.Chunk(commands, r.pipeline) {
		pipe := r.rdb.Pipeline()
		for _, args := range batch {
			pipe.Do(ctx, args...)
		}
		cmds, err := pipe.Exec(ctx)
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		for _, cmd := range cmds {
			replies = append(replies, cmd.(*redis.Cmd).Val())
		}
	}
	return replies, nil
}

// singles sends each command alone, by several callers at once.
func (r *rig) singles(ctx context.Context, commands [][]any) ([]any, error) {
	replies, errs := make([]any, len(commands)), make([]error, r.callers)
	var next atomic.Int64
	var callers sync.WaitGroup
	for caller := range r.callers {
		callers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(commands)) && errs[caller] == nil; i = next.Add(1) - 1 {
				replies[i], errs[caller] = r.rdb.Do(ctx, commands[i]...).Result()
				if errors.Is(errs[caller], redis.Nil) {
					errs[caller] = nil
				}
			}
		})
	}
	callers.Wait()
	return replies, errors.Join(errs...)
}

// spent is what a server has used up so far.
type spent struct {
	micros float64 // CPU time of all its threads
	bytes  float64 // to and from clients
	at     time.Time
}

func (r *rig) spent(ctx context.Context) (s spent, err error) {
	text, err := r.rdb.Info(ctx, "cpu", "stats").Result()
	if err != nil {
		return s, err
	}
	s.at = time.Now()
	s.micros = 1e6 * (number(text, "used_cpu_user") + number(text, "used_cpu_sys"))
	s.bytes = number(text, "total_net_input_bytes") + number(text, "total_net_output_bytes")
	return s, nil
}

// number is a field out of INFO's answer, 0 when it is not there.
func number(text, field string) float64 {
	n, _ := strconv.ParseFloat(value(text, field), 64)
	return n
}

func value(text, field string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (r *rig) version(ctx context.Context) (string, error) {
	text, err := r.rdb.Info(ctx, "server").Result()
	if v := value(text, "valkey_version"); v != "" {
		return "valkey " + v, err
	}
	return "redis " + value(text, "redis_version"), err
}
