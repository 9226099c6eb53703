package coordmsg_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
)

func TestBatch(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		done, final := message(t), message(t)
		expect(t, coordmsg.Handle(t.Context(), c, done, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 1)
		failure := errors.New("down")
		twice := message(t)
		var settled atomic.Int64
		verdicts := coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{
			{Key: message(t), Run: fails(nil), Settle: func(v coordmsg.Verdict) {
				settled.Add(1)
				expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
			}},
			{Key: done, Run: never(t), Settle: func(v coordmsg.Verdict) {
				settled.Add(1)
				expect(t, v, coordmsg.Ack, coordmsg.Done, true, 0)
			}},
			{Key: message(t), Run: fails(failure)},
			{Key: final, Run: fails(coordinator.Final(failure))},
			{Key: coordinator.Key{}, Run: never(t)},
			{Key: message(t)},
			{Key: twice, Run: fails(nil)},
			{Key: twice, Run: never(t)},
			{Key: message(t), Run: fails(nil), Claim: []coordinator.ClaimOption{coordinator.IssuedAt(time.Now().Add(-9000 * time.Hour))}},
		}, coordmsg.Workers(2))
		if settled.Load() != 2 {
			t.Errorf("%d of 2 were settled", settled.Load())
		}
		for i, want := range []struct {
			action   coordmsg.Action
			reason   coordmsg.Reason
			replayed bool
			attempt  int
		}{
			{coordmsg.Ack, coordmsg.Done, false, 1},
			{coordmsg.Ack, coordmsg.Done, true, 0},
			{coordmsg.Retry, coordmsg.Failed, false, 1},
			{coordmsg.Park, coordmsg.Final, false, 1},
			{coordmsg.Park, coordmsg.Invalid, false, 0},
			{coordmsg.Retry, coordmsg.Misused, false, 0},
			{coordmsg.Ack, coordmsg.Done, false, 1},
			{coordmsg.Retry, coordmsg.InProgress, false, 1},
			{coordmsg.Park, coordmsg.Expired, false, 0},
		} {
			t.Run(fmt.Sprint(i), func(t *testing.T) { expect(t, verdicts[i], want.action, want.reason, want.replayed, want.attempt) })
		}
		for _, v := range coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{{Key: message(t), Run: never(t)}}, nil) {
			expect(t, v, coordmsg.Retry, coordmsg.Misused, false, 0)
		}
	})
}

// Those that were begun before run after the others, one of which may be what killed their process.
func TestSuspectsRunLast(t *testing.T) {
	p := onFake(t)
	c := p.coordinator(t)
	var mu sync.Mutex
	var order []string
	run := func(name string) coordmsg.Handler {
		return func(context.Context, *coordinator.Lease) error {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return nil
		}
	}
	var messages []coordmsg.Message
	for i := range 6 {
		key := message(t)
		name := fmt.Sprintf("fresh %d", i)
		if i%2 == 0 {
			name = "suspect"
			coordmsg.Handle(t.Context(), c, key, fails(errors.New("no")))
		}
		messages = append(messages, coordmsg.Message{Key: key, Run: run(name)})
	}
	coordmsg.HandleBatch(t.Context(), c, messages, coordmsg.Workers(1))
	if got := strings.Join(order, ", "); got != "fresh 1, fresh 3, fresh 5, suspect, suspect, suspect" {
		t.Error(got)
	}
}

func TestPanicInABatch(t *testing.T) {
	p := onFake(t)
	c := p.coordinator(t)
	bad := message(t)
	messages := []coordmsg.Message{{Key: bad, Run: func(context.Context, *coordinator.Lease) error { panic("bad bytes") }}}
	var done atomic.Int64
	for range 40 {
		messages = append(messages, coordmsg.Message{Key: message(t), Run: func(context.Context, *coordinator.Lease) error {
			done.Add(1)
			return nil
		}})
	}
	func() {
		defer func() {
			if text := fmt.Sprint(recover()); !strings.Contains(text, "bad bytes") || !strings.Contains(text, "message 0") || !strings.Contains(text, "batch_test.go") {
				t.Errorf("the panic is %q", text)
			}
		}()
		coordmsg.HandleBatch(t.Context(), c, messages)
	}()
	if done.Load() != 40 {
		t.Errorf("%d of 40 others ran", done.Load())
	}
	expect(t, coordmsg.Handle(t.Context(), c, bad, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 2)

	gone := coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{{Key: message(t), Run: func(context.Context, *coordinator.Lease) error {
		runtime.Goexit()
		return nil
	}}})
	expect(t, gone[0], coordmsg.Retry, coordmsg.Failed, false, 0)
}

// Each message's verdict is told, also when its handler does not return, and it stands, also when Settle does not.
func TestSettle(t *testing.T) {
	p := onFake(t)
	c := p.coordinator(t)
	var told coordmsg.Verdict
	tell := func(v coordmsg.Verdict) { told = v }
	gone := func(context.Context, *coordinator.Lease) error { runtime.Goexit(); return nil }
	coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{{Key: message(t), Run: gone, Settle: tell}})
	expect(t, told, coordmsg.Retry, coordmsg.Failed, false, 0)
	caught := func(messages []coordmsg.Message, opts ...coordmsg.Option) (text string) {
		defer func() { text = fmt.Sprint(recover()) }()
		coordmsg.HandleBatch(t.Context(), c, messages, opts...)
		return ""
	}
	told = coordmsg.Verdict{}
	caught([]coordmsg.Message{{Key: message(t), Run: func(context.Context, *coordinator.Lease) error { panic("bad bytes") }, Settle: tell}})
	expect(t, told, coordmsg.Retry, coordmsg.Failed, false, 0)
	leaves := func(coordmsg.Verdict) { runtime.Goexit() }
	verdicts := coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{{Key: message(t), Run: fails(nil), Settle: leaves}})
	expect(t, verdicts[0], coordmsg.Ack, coordmsg.Done, false, 1)
	panics := func(coordmsg.Verdict) { panic("cannot settle") }
	for _, opts := range [][]coordmsg.Option{nil, {coordmsg.Workers(0)}} {
		if text := caught([]coordmsg.Message{{Key: message(t), Run: fails(nil), Settle: panics}}, opts...); !strings.Contains(text, "cannot settle") {
			t.Errorf("the panic is %q", text)
		}
	}
}

// What has not begun when the consumer is shut down, or when its lease ends, does not begin, and has had no attempt: however often
// that happens, the message is not parked before its handler has run.
func TestNotBegun(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		late := message(t)
		for range 3 {
			ctx, shutdown := context.WithCancel(t.Context())
			verdicts := coordmsg.HandleBatch(ctx, c, []coordmsg.Message{
				{Key: message(t), Run: func(context.Context, *coordinator.Lease) error { shutdown(); return nil }},
				{Key: late, Run: never(t)},
			}, coordmsg.Workers(1), coordmsg.MaxAttempts(2))
			expect(t, verdicts[0], coordmsg.Ack, coordmsg.Done, false, 1)
			expect(t, verdicts[1], coordmsg.Retry, coordmsg.Failed, false, 0)
		}
		expect(t, coordmsg.Handle(t.Context(), c, late, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 1)

		lapsed := message(t)
		for range 3 {
			verdicts := coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{
				{Key: message(t), Run: func(context.Context, *coordinator.Lease) error {
					eventually(t, "the other's lease ends", func() bool {
						there, err := c.Inspect(t.Context(), lapsed)                  // not ctx, whose timeout is over then
						return err == nil && there.State == coordinator.StateReleased // nobody waits for it to lapse
					})
					return nil
				}, Claim: []coordinator.ClaimOption{coordinator.MaxLifetime(time.Minute)}},
				{Key: lapsed, Run: never(t)},
			}, coordmsg.Workers(1), coordmsg.MaxAttempts(2), coordmsg.VisibilityTimeout(500*time.Millisecond))
			expect(t, verdicts[0], coordmsg.Ack, coordmsg.Done, false, 1)
			expect(t, verdicts[1], coordmsg.Retry, coordmsg.Lost, false, 0)
		}
		expect(t, coordmsg.Handle(t.Context(), c, lapsed, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 1)

		lame := message(t) // without a handler
		expect(t, coordmsg.HandleBatch(t.Context(), c, []coordmsg.Message{{Key: lame}})[0], coordmsg.Retry, coordmsg.Misused, false, 0)
		expect(t, coordmsg.Handle(t.Context(), c, lame, fails(nil)), coordmsg.Ack, coordmsg.Done, false, 1)
	})
}

// Messages of one resource take turns in their batch, also where the handler of one does not return.
func TestResourceTakesTurns(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		var mu sync.Mutex
		var order, tokens []int64
		var messages []coordmsg.Message
		account := message(t).ID
		for i := range 6 {
			key := message(t)
			key.Resource = account
			messages = append(messages, coordmsg.Message{Key: key, Run: func(_ context.Context, lease *coordinator.Lease) error {
				mu.Lock()
				order, tokens = append(order, int64(i)), append(tokens, int64(lease.Token()))
				mu.Unlock()
				switch i {
				case 1:
					runtime.Goexit()
				case 2:
					return errors.New("down")
				case 3:
					return coordinator.Final(errors.New("no such account"))
				}
				return nil
			}})
		}
		messages = append(messages, messages[4]) // a copy
		begun := time.Now()
		verdicts := coordmsg.HandleBatch(t.Context(), c, messages, coordmsg.Claim(coordinator.LeaseFor(20*time.Second)))
		expect(t, verdicts[0], coordmsg.Ack, coordmsg.Done, false, 1)
		expect(t, verdicts[1], coordmsg.Retry, coordmsg.Failed, false, 0)
		expect(t, verdicts[2], coordmsg.Retry, coordmsg.Failed, false, 1)
		expect(t, verdicts[3], coordmsg.Park, coordmsg.Final, false, 1)
		expect(t, verdicts[4], coordmsg.Ack, coordmsg.Done, false, 1)
		expect(t, verdicts[5], coordmsg.Ack, coordmsg.Done, false, 1)
		if v := verdicts[6]; v.Reason != coordmsg.InProgress {
			t.Errorf("the copy: %v", v)
		}
		if fmt.Sprint(order) != "[0 1 2 3 4 5]" || !slices.IsSorted(tokens) {
			t.Errorf("they ran in the order %v with the tokens %v", order, tokens)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %v: a lease was waited for", took)
		}
		// Of those that wait none is begun once the consumer is shut down.
		ctx, shutdown := context.WithCancel(t.Context())
		for i := range messages {
			messages[i].Key = message(t)
			messages[i].Key.Resource = account
			messages[i].Run = never(t)
		}
		messages[0].Run = func(context.Context, *coordinator.Lease) error { shutdown(); return nil }
		for i, v := range coordmsg.HandleBatch(ctx, c, messages) {
			if i == 0 {
				expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
			} else if v.Action != coordmsg.Retry || v.Reason != coordmsg.InProgress {
				t.Errorf("message %d: %v", i, v)
			}
		}
	})
}

// trips counts what a client sends, as round trips of a node.
type trips struct {
	mu    sync.Mutex
	nodes map[string]int
}

func (n *trips) note(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[node]++
}

func (n *trips) take() (nodes, most int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, count := range n.nodes {
		nodes, most = nodes+1, max(most, count)
	}
	n.nodes = map[string]int{}
	return nodes, most
}

type tripsOf struct {
	*trips
	node string
}

func (n tripsOf) DialHook(next redis.DialHook) redis.DialHook { return next }
func (n tripsOf) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") {
			n.note(n.node)
		}
		return next(ctx, cmd)
	}
}

func (n tripsOf) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		n.note(n.node)
		return next(ctx, cmds)
	}
}

// A redelivery costs one round trip, and a batch one per node.
func TestRoundTrips(t *testing.T) {
	p := onCluster(t)
	rdb := p.client().(*redis.ClusterClient)
	counted := &trips{nodes: map[string]int{}}
	if err := rdb.ForEachMaster(t.Context(), func(_ context.Context, node *redis.Client) error {
		node.AddHook(tripsOf{counted, node.Options().Addr})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c := coordinatorOn(t, rdb)
	if err := c.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	var messages []coordmsg.Message
	for range 500 {
		messages = append(messages, coordmsg.Message{Key: message(t), Run: fails(nil)})
	}
	for _, v := range coordmsg.HandleBatch(t.Context(), c, messages) {
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
	}
	counted.take()
	expect(t, coordmsg.Handle(t.Context(), c, messages[7].Key, never(t)), coordmsg.Ack, coordmsg.Done, true, 0)
	if nodes, most := counted.take(); nodes != 1 || most != 1 {
		t.Errorf("a redelivery: at most %d round trips to each of %d nodes", most, nodes)
	}
	for _, v := range coordmsg.HandleBatch(t.Context(), c, messages) {
		expect(t, v, coordmsg.Ack, coordmsg.Done, true, 0)
	}
	if nodes, most := counted.take(); nodes != 3 || most != 1 {
		t.Errorf("a batch of 500: at most %d round trips to each of %d nodes", most, nodes)
	}
	var fresh []coordmsg.Message
	held := make(chan struct{})
	var first sync.Once
	for range 500 {
		fresh = append(fresh, coordmsg.Message{Key: message(t), Run: func(context.Context, *coordinator.Lease) error {
			first.Do(func() {
				if nodes, most := counted.take(); nodes != 3 || most != 1 {
					t.Errorf("claiming 500: at most %d round trips to each of %d nodes", most, nodes)
				}
				close(held)
			})
			<-held
			return nil
		}})
	}
	for _, v := range coordmsg.HandleBatch(t.Context(), c, fresh) {
		expect(t, v, coordmsg.Ack, coordmsg.Done, false, 1)
	}
}
