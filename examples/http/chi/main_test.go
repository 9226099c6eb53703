package main

import (
	"net/http"
	"slices"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/examples/http/internal/check"
)

func TestChargesTakeEffectOnce(t *testing.T) {
	check.Once(t, service, coordinator.JoinScope("acme", http.MethodPost, "/charges"))
}

// Where the middleware stands says what the default scope is.
func TestScopes(t *testing.T) {
	type middleware = func(http.Handler) http.Handler
	done := func(http.ResponseWriter, *http.Request) {}
	for _, place := range []struct {
		name, want string
		put        func(r chi.Router, once middleware)
	}{
		{"With", "/v1/accounts/{id}", func(r chi.Router, once middleware) { r.With(once).Post("/v1/accounts/{id}", done) }},
		{"Group", "/v1/accounts/{id}", func(r chi.Router, once middleware) {
			r.Group(func(r chi.Router) { r.Use(once); r.Post("/v1/accounts/{id}", done) })
		}},
		{"With in a sub-router", "/v1/accounts/{id}", func(r chi.Router, once middleware) {
			r.Route("/v1", func(r chi.Router) { r.With(once).Post("/accounts/{id}", done) })
		}},
		{"Use", "/v1/accounts/7", func(r chi.Router, once middleware) { r.Use(once); r.Post("/v1/accounts/{id}", done) }},
		{"Use in a sub-router", "/v1/*", func(r chi.Router, once middleware) {
			r.Route("/v1", func(r chi.Router) { r.Use(once); r.Post("/accounts/{id}", done) })
		}},
	} {
		t.Run(place.name, func(t *testing.T) {
			b := check.Start(t, func(c *coordinator.Coordinator) (http.Handler, error) {
				once, err := coordhttp.New(c, coordhttp.SingleTenant())
				router := chi.NewRouter()
				place.put(router, once)
				return router, err
			})
			b.Post(t, "/v1/accounts/7", "acme", "key-1", "")
			want := coordinator.JoinScope("*", http.MethodPost, place.want)
			if got := b.Scopes(); !slices.Equal(got, []string{want}) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}
