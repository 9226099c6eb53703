package faultproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/redis/go-redis/v9"
)

var (
	ctx  = context.Background()
	pool redistest.Pool
)

func TestMain(m *testing.M) {
	code := m.Run()
	pool.Stop()
	os.Exit(code)
}

// rig is a client which goes through a proxy, and one which does not.
type rig struct {
	*Proxy
	client, direct *redis.Client
}

// onBoth runs the test against miniredis and, if there is one, a real server,
// and with both versions of the protocol.
func onBoth(t *testing.T, test func(*testing.T, rig)) {
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprintf("miniredis/RESP%d", protocol), func(t *testing.T) {
			test(t, newRig(t, miniredis.RunT(t).Addr(), protocol))
		})
		t.Run(fmt.Sprintf("redis/RESP%d", protocol), func(t *testing.T) {
			test(t, newRig(t, pool.Server(t).Addr(), protocol))
		})
	}
}

func newRig(t *testing.T, target string, protocol int) rig {
	t.Helper()
	p, err := New(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	direct := redis.NewClient(&redis.Options{Addr: target})
	client := redis.NewClient(&redis.Options{
		Addr: p.Addr(), Protocol: protocol, DisableIdentity: true,
		// A thousand commands through a proxy have been seen to take three
		// seconds on a busy machine; this is here to end what hangs.
		MaxRetries: -1, ReadTimeout: 20 * time.Second,
	})
	t.Cleanup(func() { _, _ = direct.Close(), client.Close() })
	if err := direct.FlushDB(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	return rig{Proxy: p, client: client, direct: direct}
}

func (r rig) value(t *testing.T, key string) string {
	t.Helper()
	v, err := r.direct.Get(ctx, key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return v
}

func (r rig) counted(t *testing.T, a Action, want int64) {
	t.Helper()
	if got := r.Count(a); got != want {
		t.Errorf("%v counted %d times, want %d", a, got, want)
	}
}

// eventually is for what happens behind the client's back.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: did not happen", what)
		}
	}
}

func TestPass(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		big := string(bytes.Repeat([]byte("x"), 1<<20))
		pipe := r.client.Pipeline()
		var cmds []*redis.StatusCmd
		for i := range 2000 {
			cmds = append(cmds, pipe.Set(ctx, fmt.Sprint("k", i), i, 0))
		}
		pipe.Set(ctx, "big", big, 0)
		got := pipe.Get(ctx, "big")
		missing := pipe.Get(ctx, "missing")
		hash := pipe.HSet(ctx, "h", "f", "v")
		all := pipe.HGetAll(ctx, "h")
		eval := pipe.Eval(ctx, "return {1, 'x', {2}}", nil)
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
		for _, c := range cmds {
			if c.Val() != "OK" {
				t.Fatal(c)
			}
		}
		if got.Val() != big || !errors.Is(missing.Err(), redis.Nil) || hash.Val() != 1 || all.Val()["f"] != "v" {
			t.Error("replies are mixed up")
		}
		if v, err := eval.Slice(); len(v) != 3 || err != nil {
			t.Error(v, err)
		}
		if v, err := r.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Incr(ctx, "n")
			p.Incr(ctx, "n")
			return nil
		}); err != nil || len(v) != 2 {
			t.Error(v, err)
		}
	})
}

// TestWriteAllThenRead has more requests and more replies under way than the
// buffers on the way can take, and reads none until all are written.
func TestWriteAllThenRead(t *testing.T) {
	r := newRig(t, pool.Server(t).Addr(), 2)
	const n, size = 2000, 16 << 10
	value := strings.Repeat("x", size)
	conn := dial(t, r.Addr())
	var b bytes.Buffer
	for range n {
		fmt.Fprintf(&b, "*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n", size, value)
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	replies := bufio.NewReader(conn)
	for i := range n {
		if _, err := appendFrame(nil, replies); err != nil {
			t.Fatalf("reply %d: %v", i, err)
		}
	}
}

func TestDropReply(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(Once("INCR", Verdict{Action: DropReply}))
		if v, err := r.client.Incr(ctx, "n").Result(); err == nil {
			t.Errorf("the client was told %d", v)
		}
		if v := r.value(t, "n"); v != "1" {
			t.Errorf("n = %q: the server did not run it", v)
		}
		if v, err := r.client.Incr(ctx, "n").Result(); v != 2 {
			t.Errorf("retry: %d, %v", v, err)
		}
		r.counted(t, DropReply, 1)
	})
}

func TestDropRequest(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(Once("INCR", Verdict{Action: DropRequest}))
		conn := dial(t, r.Addr())
		send(t, conn, "SET before v", "INCR n", "SET after v")
		if got, _ := io.ReadAll(conn); string(got) != "+OK\r\n" {
			t.Errorf("client reads %q: only the reply to the first is due", got)
		}
		if n, after := r.value(t, "n"), r.value(t, "after"); n != "" || after != "" {
			t.Errorf("n = %q, after = %q: the server has got them", n, after)
		}
		if v, err := r.client.Incr(ctx, "n").Result(); v != 1 {
			t.Errorf("retry: %d, %v", v, err)
		}
		r.counted(t, DropRequest, 1)
	})
}

func TestCutReply(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.direct.Set(ctx, "k", "0123456789", 0)
		r.SetRule(Once("GET", Verdict{Action: CutReply}))
		if v, err := r.client.Get(ctx, "k").Result(); err == nil || errors.Is(err, redis.Nil) {
			t.Errorf("the client was told %q, %v", v, err)
		}
		r.counted(t, CutReply, 1)

		conn := dial(t, r.Addr())
		r.SetRule(Once("GET", Verdict{Action: CutReply}))
		send(t, conn, "GET k")
		if got, _ := io.ReadAll(conn); string(got) != "$10\r\n012" {
			t.Errorf("half of the reply is %q", got)
		}
	})
}

func TestStallReplyFor(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		const d = 50 * time.Millisecond
		r.SetRule(Once("INCR", Verdict{Action: StallReply, For: d}))
		begin := time.Now()
		if v, err := r.client.Incr(ctx, "n").Result(); v != 1 {
			t.Errorf("%d, %v", v, err)
		}
		if took := time.Since(begin); took < d {
			t.Errorf("took %v", took)
		}
	})
}

func TestStallReplyUntilRelease(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(Once("INCR", Verdict{Action: StallReply}))
		reply := make(chan *redis.IntCmd, 1)
		go func() { reply <- r.client.Incr(ctx, "n") }()
		eventually(t, "INCR runs", func() bool { return r.value(t, "n") == "1" })
		select {
		case c := <-reply:
			t.Fatalf("%v came through", c)
		default:
		}
		r.Release()
		if c := <-reply; c.Val() != 1 {
			t.Error(c)
		}
	})
}

func TestStalledClientGivesUp(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(Once("INCR", Verdict{Action: StallReply}))
		conn := dial(t, r.Addr())
		send(t, conn, "INCR n")
		eventually(t, "INCR runs", func() bool { return r.value(t, "n") == "1" })
		_ = conn.Close()
		eventually(t, "the connection ends", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.conns) == 0
		})
	})
}

func TestHold(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(Once("SET", Verdict{Action: Hold}))
		if err := r.client.Set(ctx, "k", "old", 0).Err(); err == nil {
			t.Error("the client was told something")
		}
		if v := r.value(t, "k"); v != "" || r.Held() != 1 {
			t.Fatalf("k = %q, %d held", v, r.Held())
		}
		if err := r.client.Set(ctx, "k", "new", 0).Err(); err != nil {
			t.Fatal(err)
		}
		late := r.Release()
		if len(late) != 1 || late[0].Err != nil || string(late[0].Reply) != "+OK\r\n" || late[0].Request.Name != "SET" {
			t.Errorf("released %+v", late)
		}
		if v := r.value(t, "k"); v != "old" {
			t.Errorf("k = %q: it was not late", v)
		}
		if late := r.Release(); len(late) != 0 {
			t.Errorf("released again: %+v", late)
		}
		r.counted(t, Hold, 1)
	})
}

func TestHoldKeepsDatabase(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		conn := dial(t, r.Addr())
		r.SetRule(Once("SET", Verdict{Action: Hold}))
		send(t, conn, "SELECT 3", "SET k three")
		if got, _ := io.ReadAll(conn); string(got) != "+OK\r\n" {
			t.Errorf("client reads %q", got)
		}
		if late := r.Release(); len(late) != 1 || late[0].Err != nil || string(late[0].Reply) != "+OK\r\n" {
			t.Errorf("released %+v", late)
		}
		if v := r.value(t, "k"); v != "" {
			t.Errorf("k = %q in database 0", v)
		}
	})
}

func TestReleaseToDeadServer(t *testing.T) {
	m := miniredis.RunT(t)
	r := newRig(t, m.Addr(), 2)
	r.SetRule(Once("SET", Verdict{Action: Hold}))
	_ = r.client.Set(ctx, "k", "v", 0).Err()
	m.Close()
	if late := r.Release(); len(late) != 1 || late[0].Err == nil {
		t.Errorf("released %+v", late)
	}
}

func TestDelayOutlivesClient(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(Once("SET", Verdict{Action: Delay, For: 50 * time.Millisecond}))
		conn := dial(t, r.Addr())
		send(t, conn, "SET k v")
		_ = conn.Close()
		eventually(t, "SET arrives", func() bool { return r.value(t, "k") == "v" })
		r.counted(t, Delay, 1)
	})
}

func TestSubscribe(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(func(req Request) Verdict {
			if req.Name == "PUBLISH" {
				return Verdict{Action: DropReply}
			}
			return Verdict{}
		})
		sub := r.client.Subscribe(ctx, "a")
		defer sub.Close()
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		if err := sub.PSubscribe(ctx, "b*"); err != nil {
			t.Fatal(err)
		}
		if err := sub.Ping(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the subscription and the pong
			if _, err := sub.Receive(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 100 {
			if err := r.direct.Publish(ctx, "a", i).Err(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 100 {
			m, err := sub.ReceiveMessage(ctx)
			if err != nil || m.Payload != fmt.Sprint(i) {
				t.Fatalf("message %d: %v, %v", i, m, err)
			}
		}
	})
}

// TestPush has the server push something in between replies.
func TestPush(t *testing.T) {
	r := newRig(t, pool.Server(t).Addr(), 3)
	conn := dial(t, r.Addr())
	send(t, conn, "HELLO 3", "CLIENT TRACKING ON", "GET k")
	readUntil(t, conn, "+OK\r\n_\r\n")
	if err := r.direct.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	readUntil(t, conn, "invalidate\r\n*1\r\n$1\r\nk\r\n")
	send(t, conn, "PING")
	readUntil(t, conn, "+PONG\r\n")
}

func TestDeadServer(t *testing.T) {
	m := miniredis.RunT(t)
	r := newRig(t, m.Addr(), 2)
	m.Close()
	if r.client.Ping(ctx).Err() == nil {
		t.Error("nobody answers")
	}
}

func TestSever(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		conn := dial(t, r.Addr())
		send(t, conn, "PING")
		readUntil(t, conn, "+PONG\r\n")
		r.Sever()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection lives")
		}
		if err := r.client.Ping(ctx).Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(func(req Request) Verdict {
			switch req.Name {
			case "GET":
				return Verdict{Action: StallReply}
			case "SET":
				return Verdict{Action: Delay, For: time.Hour}
			}
			return Verdict{}
		})
		for _, command := range []string{"GET k", "SET k v", "SUBSCRIBE c"} {
			send(t, dial(t, r.Addr()), command)
		}
		eventually(t, "the commands arrive", func() bool {
			return r.Count(StallReply) == 1 && r.Count(Delay) == 1 && r.Count(Pass) > 0
		})
		done := make(chan error)
		go func() { done <- r.Close() }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("Close hangs")
		}
	})
}

func TestDialer(t *testing.T) {
	m := miniredis.RunT(t)
	r := newRig(t, m.Addr(), 2)
	client := redis.NewClient(&redis.Options{Addr: m.Addr(), Dialer: Dialer(r.Proxy)})
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if r.Count(Pass) == 0 {
		t.Error("the proxy was not asked")
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// send writes commands without waiting for replies, all at once.
func send(t *testing.T, conn net.Conn, commands ...string) {
	t.Helper()
	var b bytes.Buffer
	for _, c := range commands {
		words := strings.Fields(c)
		fmt.Fprintf(&b, "*%d\r\n", len(words))
		for _, w := range words {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
		}
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// readUntil reads until what was read ends as given.
func readUntil(t *testing.T, conn net.Conn, end string) {
	t.Helper()
	var got []byte
	buf := make([]byte, 1024)
	for !bytes.HasSuffix(got, []byte(end)) {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("read %q, then %v; want %q", got, err, end)
		}
		got = append(got, buf[:n]...)
	}
}
