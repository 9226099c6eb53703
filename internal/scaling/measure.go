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
	pipelined, err := r.rounds(ctx, rounds, keys, r.pipelines)
	if err != nil {
		return c, err
	}
	single, err := r.rounds(ctx, rounds, keys, r.singles)
	if err != nil {
		return c, err
	}
	fill(&c, pipelined, single)
	c.Memory.Name = len(r.grants(1, "")[0].names.Record)
	c.Bus.Send, c.Bus.Receive, err = bus(ctx, keys, c.Publish.Pipelined)
	return c, err
}

// fill takes the costs out of the medians of both ways.
func fill(c *estimate.Costs, pipelined, single map[string]float64) {
	cost := func(name string) estimate.Cost {
		return estimate.Cost{Pipelined: pipelined[name], Single: single[name]}
	}
	for name, into := range map[string]*estimate.Cost{
		"set": &c.Set, "get": &c.Get, "claim": &c.Claim, "complete": &c.Complete, "waited": &c.Waited, "refused": &c.Refused,
		"replay": &c.Replay, "mark": &c.Mark, "renew": &c.Renew, "publish": &c.Publish, "spublish": &c.SPublish,
	} {
		*into = cost(name)
	}
	claim, complete := cost("resource claim"), cost("resource complete")
	c.Resource = estimate.Cost{Pipelined: rounded(claim.Pipelined + complete.Pipelined), Single: rounded(claim.Single + complete.Single)}
	c.Observed.Pipelined = estimate.Observed{PerSecond: math.Round(pipelined["claim rate"]), Busy: pipelined["claim busy"]}
	c.Observed.Single = estimate.Observed{PerSecond: math.Round(single["claim rate"]), Busy: single["claim busy"]}
	c.Memory.InFlight, c.Memory.Completed = int(single["in flight"]), int(single["completed"])-c.Payload
	c.Wire.Cycle = rounded(single["claim bytes"] + single["complete bytes"])
	c.Wire.Replay, c.Wire.Renew = single["replay bytes"], single["renew bytes"]
}

// rounds takes every cost so often and returns the medians.
func (r *rig) rounds(ctx context.Context, n, keys int, send sender) (map[string]float64, error) {
	all := map[string][]float64{}
	for range n {
		costs, err := r.round(ctx, keys, send)
		if err != nil {
			return nil, err
		}
		for name, cost := range costs {
			all[name] = append(all[name], cost)
		}
	}
	medians := map[string]float64{}
	for name, costs := range all {
		slices.Sort(costs)
		medians[name] = rounded(costs[len(costs)/2])
	}
	return medians, nil
}

// rounded has two decimals: more would be noise.
func rounded(x float64) float64 {
	x, _ = strconv.ParseFloat(strconv.FormatFloat(x, 'f', 2, 64), 64)
	return x
}

// grant is one key under measurement.
type grant struct {
	names keyname.Names
	rec   protocol.Record
}

// sender sends commands in one of the two ways.
type sender func(context.Context, [][]any) ([]any, error)

// taking is one round: the costs that were taken so far, and the first error, after which nothing is sent.
type taking struct {
	*rig
	ctx   context.Context
	send  sender
	costs map[string]float64
	err   error
}

// take sends commands and notes what one of them cost the server.
func (t *taking) take(name string, commands [][]any) []any {
	if t.err != nil {
		return nil
	}
	before, err := t.spent(t.ctx)
	replies, err2 := t.send(t.ctx, commands)
	after, err3 := t.spent(t.ctx)
	if err := errors.Join(err, err2, err3); err != nil {
		t.err = fmt.Errorf("%s: %w", name, err)
		return nil
	}
	n, took := float64(len(commands)), after.at.Sub(before.at)
	t.costs[name] = (after.micros - before.micros) / n
	t.costs[name+" bytes"] = (after.bytes - before.bytes) / n
	t.costs[name+" rate"] = n / took.Seconds()
	t.costs[name+" busy"] = (after.micros - before.micros) / float64(took.Microseconds())
	return replies
}

// granted takes the cost of fresh claims, and notes what they were granted.
func (t *taking) granted(name string, of []grant) {
	replies := t.take(name, commands(of, func(g grant) protocol.Request { return t.claim(g.names) }))
	for i, raw := range replies {
		q := t.claim(of[i].names)
		reply, err := protocol.DecodeReply(raw, &q)
		if err != nil || reply.Code != protocol.OK {
			t.err = errors.Join(fmt.Errorf("%s: a fresh one was answered %v", name, raw), err)
			return
		}
		of[i].rec = reply.Rec
	}
}

// length notes how long the record of a key is now.
func (t *taking) length(name string, of grant) {
	if t.err == nil {
		var n int64
		n, t.err = t.rdb.StrLen(t.ctx, of.names.Record).Result()
		t.costs[name] = float64(n)
	}
}

// round takes every cost once, on a server that is empty at its beginning.
func (r *rig) round(ctx context.Context, keys int, send sender) (map[string]float64, error) {
	t := &taking{rig: r, ctx: ctx, send: send, costs: map[string]float64{}, err: r.rdb.FlushAll(ctx).Err()}
	quiet, waited, shared := r.grants(keys, ""), r.grants(keys, ""), r.grants(keys, "account/%d")
	claim := func(g grant) protocol.Request { return r.claim(g.names) }
	renew := func(g grant) protocol.Request {
		return protocol.Renew(g.names, protocol.Head(g.rec.Owner, g.rec.Token), lease+grace, retention, false)
	}
	mark := func(g grant) protocol.Request { return protocol.Mark(g.names.Record, '1') }
	complete := func(g grant) protocol.Request {
		done := protocol.Record{
			State: protocol.StateCompleted, Owner: g.rec.Owner, Token: g.rec.Token, Attempt: g.rec.Attempt, Bound: true, End: g.rec.End, Data: r.result,
		}
		return protocol.Complete(g.names, protocol.CompleteArgs{Record: done, Retention: retention, End: g.rec.End, Replaced: &g.rec})
	}
	t.granted("claim", waited)
	t.granted("claim", quiet)
	t.granted("resource claim", shared)
	t.length("in flight", quiet[0])
	t.take("refused", commands(quiet, claim))
	t.take("renew", commands(waited, renew))
	t.take("mark", commands(waited, mark))
	t.take("waited", commands(waited, complete))
	t.take("complete", commands(quiet, complete))
	t.take("resource complete", commands(shared, complete))
	t.length("completed", quiet[0])
	t.take("replay", commands(quiet, claim))
	t.take("set", plain(quiet, "set", r.result, "px", retention.Milliseconds()))
	t.take("get", plain(quiet, "get"))
	t.take("publish", plain(quiet, "publish", ""))
	t.take("spublish", plain(quiet, "spublish", ""))
	return t.costs, t.err
}

// plain is a command of Redis' own for each grant, on a name as long as the record's.
func plain(of []grant, command string, args ...any) [][]any {
	all := make([][]any, len(of))
	for i, g := range of {
		all[i] = append([]any{command, "p" + g.names.Record[1:]}, args...)
	}
	return all
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
