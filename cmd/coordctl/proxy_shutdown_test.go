package main

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"github.com/onceward/coordinator/coordhttp"
)

// An answer that Redis has not taken is stored before the proxy ends, or it says that it was not.
func TestProxyShutdownStores(t *testing.T) {
	for name, back := range map[string]bool{"Redis comes back": true, "Redis stays away": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := miniredis.RunT(t)
			up := newCounter(t, func(w http.ResponseWriter, _ *http.Request) {
				server.SetError("LOADING on purpose")
				w.WriteHeader(http.StatusCreated)
			})
			timeout := "--shutdown-timeout=20s"
			if !back {
				timeout = "--shutdown-timeout=500ms"
			}
			p := startProxy(t, up.URL, "--single-tenant", "--redis=redis://"+server.Addr()+"?max_retries=-1", "--redis-timeout=2s", "--lease=1m", timeout)
			if got := post(t, p.url, "", "Idempotency-Key", "k"); got.status != http.StatusCreated || got.header.Get("Idempotency-Unstored") != "true" {
				t.Errorf("%+v", got)
			}
			p.stop()
			if back {
				eventually(t, "it takes no new connections", func() bool {
					_, err := send(context.Background(), http.MethodGet, p.url, "")
					return err != nil
				})
				server.SetError("")
			}
			status := <-p.status
			p.status <- status
			server.SetError("")
			stored := false
			for _, name := range server.Keys() {
				value, _ := server.Get(name)
				stored = stored || strings.HasPrefix(value, "1c")
			}
			if stored != back || (status == exitOK) != back || !back && !strings.Contains(p.said.String(), "could still not be stored") {
				t.Errorf("status %d, stored %v: %s", status, stored, p.said)
			}
		})
	}
}

// A request that outlives its lease is broken off; in quarantine nobody runs it again.
func TestProxyQuarantine(t *testing.T) {
	for name, quarantine := range map[string]bool{"quarantine": true, "not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int64
			up := newCounter(t, func(_ http.ResponseWriter, r *http.Request) {
				if runs.Add(1) == 1 {
					<-r.Context().Done()
				}
			})
			flags := []string{"--single-tenant", "--lease=300ms", "--max-lifetime=300ms", "--redis=redis://" + miniredis.RunT(t).Addr()}
			if quarantine {
				flags = append(flags, "--quarantine")
			}
			p := startProxy(t, up.URL, flags...)
			first := post(t, p.url, "", "Idempotency-Key", "k")
			var again reply
			eventually(t, "its lease is over", func() bool {
				again = post(t, p.url, "", "Idempotency-Key", "k")
				return again.status != http.StatusConflict || again.kind(t) != string(coordhttp.KindInProgress)
			})
			if !quarantine {
				if first.status != http.StatusBadGateway || again.status != http.StatusOK {
					t.Errorf("%+v, then %+v", first, again)
				}
				return
			}
			for _, got := range []reply{first, again} {
				if got.status != http.StatusConflict || got.kind(t) != string(coordhttp.KindUncertain) {
					t.Errorf("%+v", got)
				}
			}
			up.ran(t, 1)
			if !strings.Contains(p.said.String(), "POST: uncertain: ") {
				t.Errorf("nobody is told: %s", p.said)
			}
		})
	}
}
