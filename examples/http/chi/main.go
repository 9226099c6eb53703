// Chi is the payment service on chi, whose middleware is net/http's.
//
//	go run ./examples/http/chi
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/examples/http/internal/bank"
)

func service(c *coordinator.Coordinator) (http.Handler, error) {
	once, err := coordhttp.New(c, coordhttp.Tenant(bank.Tenant), coordhttp.Resource(bank.Account), coordhttp.RequireKey(), coordhttp.Wait(5*time.Second))
	if err != nil {
		return nil, err
	}
	router := chi.NewRouter()
	router.Use(bank.Authenticate)
	// With runs when the route is known, so the scope is the pattern. Use runs before: there it is the path, or in a sub-router the
	// sub-router's own pattern, which all its routes share.
	router.With(once).Post("/charges", charge(c))
	return router, nil
}

func charge(c *coordinator.Coordinator) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var order struct{ Cents int }
		if err := json.NewDecoder(r.Body).Decode(&order); err != nil || order.Cents < 1 {
			http.Error(w, "send cents", http.StatusBadRequest)
			return
		}
		booked, err := bank.Book(c, r, order.Cents)
		if err != nil {
			log.Print(err)
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/charges/"+booked.ID)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(booked)
	}
}

func main() { log.Fatal(bank.Serve(service)) }
