package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/redis/go-redis/v9"
)

func TestWebhook(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var effects, parked atomic.Int64
	var away atomic.Bool
	receiver := &Receiver{
		Coordinator: c, Secret: []byte("secret"), Now: time.Now,
		Handle: func(body []byte) coordmsg.Handler {
			return func(context.Context, *coordinator.Lease) error {
				switch {
				case string(body) == "nonsense":
					return coordinator.Final(errors.New("cannot be read"))
				case away.Load():
					return errors.New("the database is away")
				}
				effects.Add(1)
				return nil
			}
		},
		Park: func(context.Context, string, []byte, coordmsg.Verdict) error {
			if away.Load() {
				return errors.New("the database is away")
			}
			parked.Add(1)
			return nil
		},
	}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	deliver := func(id, body, secret string, at time.Time) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		seconds := fmt.Sprint(at.Unix())
		r.Header.Set("Delivery-Id", id)
		r.Header.Set("Delivery-Time", seconds)
		r.Header.Set("Delivery-Signature", sign([]byte(secret), id, seconds, []byte(body)))
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		return answer
	}
	now := time.Now()
	for _, step := range []struct {
		name, id, body, secret string
		at                     time.Time
		away                   bool
		status                 int
		effects, parked        int64
	}{
		{"a stranger cannot use up an ID", "d1", "paid", "wrong", now, false, 401, 0, 0},
		{"nor who has overheard an old one", "d1", "paid", "secret", now.Add(-time.Hour), false, 401, 0, 0},
		{"while the database is away it is to be sent again", "d1", "paid", "secret", now, true, 503, 0, 0},
		{"it takes effect", "d1", "paid", "secret", now, false, 204, 1, 0},
		{"once", "d1", "paid", "secret", now.Add(time.Second), false, 204, 1, 0},
		{"one ID for two deliveries is put aside", "d1", "refunded", "secret", now, false, 202, 1, 1},
		{"what cannot be put aside is to be sent again", "d2", "nonsense", "secret", now, true, 503, 1, 1},
		{"until it is", "d2", "nonsense", "secret", now, false, 202, 1, 2},
		{"another takes effect", "d3", "paid", "secret", now, false, 204, 2, 2},
	} {
		away.Store(step.away)
		answer := deliver(step.id, step.body, step.secret, step.at)
		if answer.StatusCode != step.status || effects.Load() != step.effects || parked.Load() != step.parked {
			t.Errorf("%s: %d, %d effects, %d parked", step.name, answer.StatusCode, effects.Load(), parked.Load())
		}
		if (step.status == 503) != (answer.Header.Get("Retry-After") != "") {
			t.Errorf("%s: Retry-After is %q", step.name, answer.Header.Get("Retry-After"))
		}
	}
}
