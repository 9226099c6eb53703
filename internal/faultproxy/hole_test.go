package faultproxy

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// silent fails if anything is to be read within a short time.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes came through, %v", n, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
}

func TestBlackHoleDelivers(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		conn, left := dial(t, r.Addr()), dial(t, r.Addr())
		for _, c := range []net.Conn{conn, left} {
			send(t, c, "PING")
			readUntil(t, c, "+PONG\r\n")
		}
		r.BlackHole()
		send(t, conn, "INCR n", "INCR n")
		send(t, left, "INCR left")
		_ = left.Close() // the request is on its way all the same
		fresh := dial(t, r.Addr())
		send(t, fresh, "INCR fresh")
		silent(t, conn)
		silent(t, fresh)
		if v := r.value(t, "n"); v != "" {
			t.Fatalf("n = %s: a request got through", v)
		}
		eventually(t, "both connections have something waiting", func() bool { return r.Stuck() == 2 })
		if n := r.EndBlackHole(true); n != 2 {
			t.Errorf("%d requests and replies were under way", n)
		}
		if n, left := r.value(t, "n"), r.value(t, "left"); n != "2" || left != "1" {
			t.Errorf("n = %s, left = %s: not all were delivered", n, left)
		}
		readUntil(t, conn, ":2\r\n")
		readUntil(t, fresh, ":1\r\n")
		if r.EndBlackHole(true) != 0 || r.Stuck() != 0 {
			t.Error("it ends twice")
		}
	})
}

func TestBlackHoleLoses(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		conn := dial(t, r.Addr())
		send(t, conn, "PING")
		readUntil(t, conn, "+PONG\r\n")
		r.BlackHole()
		send(t, conn, "INCR n")
		eventually(t, "the request waits", func() bool { return r.Stuck() == 1 })
		if n := r.EndBlackHole(false); n != 1 {
			t.Errorf("%d requests and replies were under way", n)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection lives")
		}
		if err := r.client.Ping(ctx).Err(); err != nil {
			t.Error(err)
		}
		if v := r.value(t, "n"); v != "" {
			t.Errorf("n = %s: the request was delivered", v)
		}
	})
}

// TestBlackHoleTakesReplies has the server answer when nothing gets through any more.
func TestBlackHoleTakesReplies(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		sub := dial(t, r.Addr())
		send(t, sub, "SUBSCRIBE c")
		readUntil(t, sub, ":1\r\n")
		conn := dial(t, r.Addr())
		send(t, conn, "BLPOP list 0")
		eventually(t, "BLPOP gets through", func() bool { return r.Count(Pass) == 2 })
		r.BlackHole()
		if err := r.direct.RPush(ctx, "list", "v").Err(); err != nil {
			t.Fatal(err)
		}
		if err := r.direct.Publish(ctx, "c", "hello").Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a reply and a message wait", func() bool { return r.Stuck() == 2 })
		silent(t, conn)
		silent(t, sub)
		if n := r.EndBlackHole(true); n != 2 {
			t.Errorf("%d requests and replies were under way", n)
		}
		readUntil(t, conn, "$1\r\nv\r\n")
		readUntil(t, sub, "hello\r\n")
	})
}

func TestCloseEndsBlackHole(t *testing.T) {
	r := newRig(t, pool.Server(t).Addr(), 2)
	conn := dial(t, r.Addr())
	send(t, conn, "PING")
	readUntil(t, conn, "+PONG\r\n")
	r.BlackHole()
	send(t, conn, "PING")
	eventually(t, "it waits", func() bool { return r.Stuck() == 1 })
	_ = dial(t, r.Addr())
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
}

// TestAnswered tells a reply which was dropped from one that never came.
func TestAnswered(t *testing.T) {
	onBoth(t, func(t *testing.T, r rig) {
		r.SetRule(func(req Request) Verdict {
			switch req.Name {
			case "INCR":
				return Verdict{Action: DropReply}
			case "BLPOP":
				return Verdict{Action: CutReply}
			case "SET":
				return Verdict{Action: Hold}
			}
			return Verdict{}
		})
		_ = r.client.Incr(ctx, "n").Err()
		_ = r.client.Set(ctx, "k", "v", 0).Err()
		send(t, dial(t, r.Addr()), "BLPOP none 0")
		eventually(t, "the rule has decided", func() bool {
			return r.Count(DropReply) == 1 && r.Count(CutReply) == 1 && r.Count(Hold) == 1
		})
		if d, c, h := r.Answered(DropReply), r.Answered(CutReply), r.Answered(Hold); d != 1 || c != 0 || h != 0 {
			t.Errorf("answered: dropped %d, cut %d, held %d", d, c, h)
		}
		r.Release()
		if h := r.Answered(Hold); h != 1 {
			t.Errorf("%d held requests were answered", h)
		}
	})
}
