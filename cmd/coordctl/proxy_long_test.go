package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A client that leaves amid a long answer does not have the upstream run again.
func TestProxyClientLeavesLongAnswer(t *testing.T) {
	up := newCounter(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 300 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<16))
		}
	})
	p := startProxy(t, up.URL, "--single-tenant")
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", p.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Idempotency-Key", "k")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadFull(response.Body, make([]byte, 10))
	leave()
	_ = response.Body.Close()
	eventually(t, "the first is over", func() bool {
		got, err := send(t.Context(), "POST", p.url, "", "Idempotency-Key", "k")
		return err != nil || got.status != 409 || !strings.Contains(got.body, "in-progress")
	})
	up.ran(t, 1)
}
