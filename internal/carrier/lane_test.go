package carrier

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
)

// wire stands for the server: it answers every command once it is let through, each with the number of its key, and keeps what
// went out together.
type wire struct {
	through chan struct{}    // closed when answers may come
	knows   func(i int) bool // the script of the call with this number; nil: all

	mu    sync.Mutex
	sent  []int // commands in each pipeline
	ended error // of a context under which something was answered
}

func (w *wire) answer(ctx context.Context, cmds ...redis.Cmder) error {
	w.mu.Lock()
	w.sent = append(w.sent, len(cmds))
	w.mu.Unlock()
	<-w.through
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		w.ended = err
	}
	for _, cmd := range cmds {
		var i int
		if _, err := fmt.Sscanf(fmt.Sprint(cmd.Args()[3]), "r%d", &i); err != nil {
			return err
		}
		if w.knows != nil && !w.knows(i) && cmd.Name() == "evalsha" {
			cmd.SetErr(told("NOSCRIPT No matching script."))
			continue
		}
		cmd.(interface{ SetVal(any) }).SetVal([]any{int64(protocol.OK), "", int64(i)})
	}
	return nil
}

func (w *wire) pipelines() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]int(nil), w.sent...)
}

func (w *wire) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w *wire) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return w.answer(ctx, cmd) }
}

func (w *wire) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return w.answer(ctx, cmds...) }
}

// stop is a lane in which calls gather until the test sends them.
type stop struct {
	c    *Carrier
	wire *wire
	lane *lane
	done sync.WaitGroup
}

func newStop(t *testing.T) *stop {
	w := &wire{through: make(chan struct{})}
	rdb := redis.NewClient(&redis.Options{})
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(w)
	s := &stop{wire: w, lane: &lane{leaving: true}} // nobody takes from it
	s.c = New(Config{Client: rdb, Base: t.Context(), Timeout: time.Minute, Jitter: func(d time.Duration) time.Duration { return d }})
	s.c.lanes.open = map[laneKey]*lane{{}: s.lane}
	return s
}

func newRelease(i int) *Call {
	n := keyname.Names{Record: fmt.Sprintf("r%d", i), Tag: "t"}
	return &Call{Request: protocol.Release(n, protocol.Head("owner", int64(i)), time.Hour)}
}

// board has calls wait in the lane, one after the other.
func (s *stop) board(t *testing.T, ctx context.Context, calls int) (boarded []*Call) {
	t.Helper()
	for i := range calls {
		k := newRelease(i)
		s.done.Go(func() { s.c.Run(ctx, k) })
		s.waits(t, i+1)
		boarded = append(boarded, k)
	}
	return boarded
}

func (s *stop) waiting() int {
	s.c.lanes.mu.Lock()
	defer s.c.lanes.mu.Unlock()
	return len(s.lane.waiting)
}

func (s *stop) waits(t *testing.T, n int) {
	t.Helper()
	met(t, fmt.Sprintf("%d calls wait", n), func() bool { return s.waiting() >= n })
}

func met(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !yes(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

func TestCallsShareAPipeline(t *testing.T) {
	s := newStop(t)
	calls := s.board(t, t.Context(), 10)
	close(s.wire.through)
	s.c.depart(s.lane)
	s.done.Wait()
	if got := fmt.Sprint(s.wire.pipelines()); got != "[10]" {
		t.Errorf("they went out as %s", got)
	}
	answered(t, calls)
}

// answered checks that each call has the reply to itself.
func answered(t *testing.T, calls []*Call) {
	t.Helper()
	for i, k := range calls {
		if !k.Settled || k.Err != nil || k.Reply.Code != protocol.OK || k.Reply.Now != time.Duration(i)*time.Millisecond || k.Reply.Sent.IsZero() {
			t.Errorf("call %d: %+v", i, k)
		}
	}
}

// A server may know one script of a pipeline and not another; what it does not know goes along in a second one.
func TestUnknownScriptsInAPipeline(t *testing.T) {
	s := newStop(t)
	s.c.versionSeen.Store(true)
	s.wire.knows = func(i int) bool { return i%3 != 2 }
	close(s.wire.through)
	calls := s.board(t, t.Context(), 10)
	s.c.depart(s.lane)
	s.done.Wait()
	if got := fmt.Sprint(s.wire.pipelines()); got != "[10 3]" {
		t.Errorf("they went out as %s", got)
	}
	answered(t, calls)
}

func TestPipelinesHaveALength(t *testing.T) {
	s := newStop(t)
	close(s.wire.through)
	s.board(t, t.Context(), 2*longestPipeline+1)
	s.c.depart(s.lane)
	s.done.Wait()
	total := 0
	for _, n := range s.wire.pipelines() {
		if total += n; n > longestPipeline {
			t.Errorf("%d calls in one pipeline", n)
		}
	}
	if total != 2*longestPipeline+1 {
		t.Errorf("%d calls went out", total)
	}
}

// P7: a call whose context ends before it is sent has not run, and is not sent later.
func TestCallLeavesBeforeItIsSent(t *testing.T) {
	s := newStop(t)
	ctx, cancel := context.WithCancel(t.Context())
	gone := s.board(t, ctx, 1)[0]
	cancel()
	s.done.Wait()
	if !gone.Settled || !errors.Is(gone.Err, context.Canceled) || gone.MayHaveRun {
		t.Errorf("%+v", gone)
	}
	s.board(t, t.Context(), 3)
	close(s.wire.through)
	s.c.depart(s.lane)
	s.done.Wait()
	if got := fmt.Sprint(s.wire.pipelines()); got != "[3]" {
		t.Errorf("they went out as %s", got)
	}
}

// A caller who leaves while the pipeline is on its way takes nobody along, be it that its call was the first; its own may have run.
func TestCallLeavesOnTheWay(t *testing.T) {
	s := newStop(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := newRelease(0)
	left := make(chan struct{})
	go func() {
		defer close(left)
		s.c.Run(ctx, first)
	}()
	s.waits(t, 1)
	others := []*Call{newRelease(1), newRelease(2)}
	for i, k := range others {
		s.done.Go(func() { s.c.Run(t.Context(), k) })
		s.waits(t, i+2)
	}
	go s.c.depart(s.lane)
	met(t, "they are on their way", func() bool { return len(s.wire.pipelines()) == 1 })
	cancel()
	<-left
	if !first.MayHaveRun || !errors.Is(first.Err, context.Canceled) {
		t.Errorf("%+v", first)
	}
	close(s.wire.through)
	s.done.Wait()
	for _, k := range others {
		if k.Err != nil || k.Reply.Code != protocol.OK {
			t.Errorf("%+v", k)
		}
	}
	if got := fmt.Sprint(s.wire.pipelines()); got != "[3]" || s.wire.ended != nil {
		t.Errorf("they went out as %s; the context of all: %v", got, s.wire.ended)
	}
}

// A goroutine that has sent waits for more, a few do; all end with Base.
func TestSendersAreUsedAgain(t *testing.T) {
	s := newStop(t)
	base, end := context.WithCancel(t.Context())
	s.c.Base, s.c.lanes.open = base, nil
	close(s.wire.through)
	before := runtime.NumGoroutine()
	for range 1000 {
		s.c.Run(t.Context(), newRelease(1))
	}
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() { s.c.Run(t.Context(), newRelease(i)) })
	}
	all.Wait()
	met(t, "few are left", func() bool { return runtime.NumGoroutine() <= before+mostSenders })
	end()
	met(t, "none is left", func() bool { return runtime.NumGoroutine() <= before })
}

func TestWhoGoesAlone(t *testing.T) {
	c := New(Config{})
	small, big, once := newRelease(1), newRelease(2), newRelease(3)
	big.Args = append(big.Args, make([]byte, largestShared))
	once.Once = true
	for want, calls := range map[bool][]*Call{true: {small}, false: {big, once}} {
		for _, k := range calls {
			if _, shared := c.laneOf(t.Context(), k); shared != want {
				t.Errorf("%v shares: %v", k.Args[0], shared)
			}
		}
	}
	waits := newRelease(4)
	waits.Durable, c.Replicas = true, 1
	if key, _ := c.laneOf(t.Context(), waits); !key.durable {
		t.Error("a call that waits for replicas keeps back others that do not")
	}
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer rdb.Close()
	c = New(Config{Client: rdb})
	if _, shared := c.laneOf(t.Context(), small); shared {
		t.Error("it asks a cluster that nobody has reached yet who serves the key")
	}
}
