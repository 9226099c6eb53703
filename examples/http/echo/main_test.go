package main

import (
	"net/http"
	"testing"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/examples/http/internal/check"
)

// The answer of a handler that returns an error is among what is checked.
func TestChargesTakeEffectOnce(t *testing.T) {
	check.Once(t, service, coordinator.JoinScope("acme", http.MethodPost, "/charges"))
}
