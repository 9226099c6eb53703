// Package bank is what the payment examples have in common: who calls, and where charges are booked.
package bank

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/redis/go-redis/v9"
)

type tenantKey struct{}

// tokens stand for an identity provider.
var tokens = map[string]string{"token-of-acme": "acme", "token-of-zeta": "zeta"}

// Authenticate goes before the middleware: answers are replayed to the tenant that it finds.
func Authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		tenant, known := tokens[token]
		if !known {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenantKey{}, tenant)))
	})
}

// Tenant is for coordhttp.Tenant.
func Tenant(r *http.Request) (string, error) {
	tenant, there := r.Context().Value(tenantKey{}).(string)
	if !there {
		return "", errors.New("the route is not behind Authenticate")
	}
	return tenant, nil
}

// Account is for coordhttp.Resource: charges of one account take turns, and their tokens rise together.
func Account(r *http.Request) string {
	tenant, _ := Tenant(r) // the middleware has asked for it before, and refused the request where there is none
	return "account/" + tenant
}

// Charge is what is booked, and the answer.
type Charge struct {
	ID    string `json:"id"`
	Cents int    `json:"cents"`
}

// Book books a charge on the caller's account, behind the account's fence: a handler that was paused until another took over books
// nothing. The charge has the idempotency key's name, so that a run after a crash writes the same entry and not a second one.
func Book(c *coordinator.Coordinator, r *http.Request, cents int) (Charge, error) {
	grant, there := coordinator.GrantFrom(r.Context())
	if !there {
		return Charge{}, errors.New("the route is not behind the middleware")
	}
	key, _ := coordhttp.KeyFrom(r.Context())
	charge := Charge{ID: key.ID, Cents: cents}
	fence := c.Fence(coordinator.Key{Resource: Account(r)})
	return charge, fence.Do(r.Context(), grant, "hset", "charges:"+fence.Tag(), charge.ID, cents).Err()
}

// Serve runs a service on the Redis at $REDIS_ADDR.
func Serve(service func(*coordinator.Coordinator) (http.Handler, error)) error {
	addr := os.Getenv("REDIS_ADDR")
	if addr == "" {
		addr = "127.0.0.1:6379"
	}
	c, err := coordinator.New(redis.NewClient(&redis.Options{Addr: addr}))
	if err != nil {
		return err
	}
	handler, err := service(c)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: "127.0.0.1:8080", Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	log.Print("listening on ", server.Addr)
	return server.ListenAndServe()
}
