package main

import (
	"net/http"
	"testing"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/examples/http/internal/check"
)

func TestChargesTakeEffectOnce(t *testing.T) {
	check.Once(t, service, coordinator.JoinScope("acme", http.MethodPost, "POST /charges"))
}

func TestWithoutTokenOrKey(t *testing.T) {
	b := check.Start(t, service)
	if a := b.Post(t, "/charges", "nobody", "", `{"cents":1000}`); a.Status != http.StatusUnauthorized {
		t.Errorf("an unknown caller: %+v, want 401", a)
	}
	if a := b.Post(t, "/charges", "acme", "order-17", `{"cents":1000}`); a.Status != http.StatusBadRequest || a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("a key that is no UUID: %+v, want 400", a)
	}
	if b.Runs() != 0 {
		t.Error("a handler ran")
	}
}
