package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
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
				timeout = "--shutdown-timeout=200ms"
			}
			p := startProxy(t, up.URL, "--single-tenant", "--redis=redis://"+server.Addr()+"?max_retries=-1", "--redis-timeout=300ms", "--lease=1m", timeout)
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
