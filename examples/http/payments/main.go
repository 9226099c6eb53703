// Payments is a service whose charges take effect once for each idempotency key, on net/http.
//
//	go run ./examples/http/payments
//	curl -i localhost:8080/charges -H 'Authorization: Bearer token-of-acme' -H 'Idempotency-Key: "8e03978e-40d5-43dd-bc93-6894a57f9324"' -d '{"cents":1000}'
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/examples/http/internal/bank"
)

func service(c *coordinator.Coordinator) (http.Handler, error) {
	once, err := coordhttp.New(c,
		coordhttp.Tenant(bank.Tenant),
		coordhttp.Resource(bank.Account), // the fence that the handler writes behind
		coordhttp.RequireKey(),
		coordhttp.ValidateKey(coordhttp.UUIDOnly),
		coordhttp.Wait(5*time.Second), // duplicates wait for the answer; without it they get 409 and Retry-After
	)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	// Around the route and not around the mux: the scope is then the pattern, and what has no route needs no key.
	mux.Handle("POST /charges", once(charge(c)))
	return bank.Authenticate(mux), nil
}

func charge(c *coordinator.Coordinator) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var order struct{ Cents int }
		if err := json.NewDecoder(r.Body).Decode(&order); err != nil || order.Cents < 1 {
			http.Error(w, "send cents", http.StatusBadRequest) // 4xx is final: it is kept and replayed
			return
		}
		booked, err := bank.Book(c, r, order.Cents)
		if err != nil {
			log.Print(err)
			http.Error(w, "try again", http.StatusServiceUnavailable) // 5xx is not: a retry runs the handler again
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/charges/"+booked.ID)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(booked) // into memory; it is sent when it is stored
	})
}

func main() { log.Fatal(bank.Serve(service)) }
