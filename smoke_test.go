package coordinator

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func TestSmoke(t *testing.T) {
	for _, addr := range []string{miniredis.RunT(t).Addr(), "127.0.0.1:6399"} {
		rdb := redis.NewClient(&redis.Options{Addr: addr})
		if rdb.Ping(t.Context()).Err() != nil {
			continue
		}
		c, err := New(rdb, WithLease(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		for _, res := range []string{"", "acct/{1}"} {
			k := Key{Scope: "pay", ID: time.Now().String(), Resource: res}
			l, err := c.Claim(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(l.Grant(), l.Deadline())
			_, err = c.Claim(ctx, k)
			t.Log(err)
			go func() { time.Sleep(1500 * time.Millisecond); t.Log(l.Complete(ctx, []byte("hello"))) }()
			b := time.Now()
			f := c.Fence(k)
			t.Log(f.Do(ctx, l.Grant(), "set", "x"+f.Tag(), 1).Result())
			t.Log(f.Eval(ctx, l.Grant(), "return {KEYS[1], ARGV[1], redis.call('GET', KEYS[1])}", []string{"x" + f.Tag()}, "a").Result())
			t.Log(l.SaveCheckpoint(ctx, []byte("cp")))
			t.Log(c.Inspect(ctx, k))
			_, err = c.Claim(ctx, k, WaitUpTo(5*time.Second))
			r, ok := ResultOf(err)
			t.Log(time.Since(b), r, ok, string(r.Payload))
			t.Log(f.Do(ctx, l.Grant(), "set", "x"+f.Tag(), 1).Result())
			t.Log(c.Inspect(ctx, k))
			t.Log(c.Expire(ctx, k))
			v, rep, err := Do(ctx, c, k, func(ctx context.Context, l *Lease) (int, error) { return 7, nil })
			t.Log(v, rep, err)
			v, rep, err = Do(ctx, c, k, func(ctx context.Context, l *Lease) (int, error) { return 8, nil })
			t.Log(v, rep, err)
			k.ID += "x"
			_, _, err = Do(ctx, c, k, func(ctx context.Context, l *Lease) (int, error) { return 8, Final(errors.New("no")) })
			t.Logf("%v %+v", err, err)
		}
		c.Close()
		rdb.Close()
	}
}
