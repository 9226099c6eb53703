// Grants is two services: orders makes each order once, and stock obeys the latest order for an item. Orders sends the grant that it
// works under; stock refuses one that was taken over, so that an order that was paused for long does not overwrite a later one.
//
//	go run ./examples/http/grants
//	curl -i -X POST localhost:8080/items/tea/orders -H 'Idempotency-Key: "order-17"' -d '12'
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

// item is what both services name a resource by: tokens rise for each of them.
func item(r *http.Request) string { return "item/" + r.PathValue("item") }

// orders covers its route with keys, and reserves under the grant.
func orders(c *coordinator.Coordinator, client *http.Client, stockURL string) (http.Handler, error) {
	once, err := coordhttp.New(c, coordhttp.SingleTenant(), coordhttp.RequireKey(), coordhttp.Resource(item))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /items/{item}/orders", once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := reserve(r.Context(), client, stockURL+"/items/"+r.PathValue("item")+"/reserved", r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway) // not kept: a retry orders again, under a new grant
			return
		}
		w.WriteHeader(http.StatusCreated)
	})))
	return mux, nil
}

// reserve passes the handler's context on: client has a GrantTransport, which finds the grant there.
func reserve(ctx context.Context, client *http.Client, url string, amount io.Reader) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, url, amount)
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("stock: %s", response.Status)
	}
	return nil
}

// stock keeps the latest amount of each item. It has its own Redis; that it has the coordinator's is not needed.
func stock(rdb redis.UniversalClient, reserved *sync.Map) (http.Handler, error) {
	guard, err := coordhttp.RequireGrant(coordhttp.GrantGuard{
		Redis:    rdb,
		Resource: func(r *http.Request) (string, error) { return item(r), nil },
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("PUT /items/{item}/reserved", guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		amount, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 100))
		if err != nil {
			http.Error(w, "send an amount", http.StatusBadRequest)
			return
		}
		reserved.Store(r.PathValue("item"), string(amount))
		w.WriteHeader(http.StatusNoContent)
	})))
	return mux, nil
}

// internalClient sends grants, so it is for services of our own only: a grant is a credential.
func internalClient() *http.Client {
	return &http.Client{Transport: &coordhttp.GrantTransport{}, Timeout: 10 * time.Second}
}

func serve(addr string, handler http.Handler) error {
	server := &http.Server{Addr: addr, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	return server.ListenAndServe()
}

func run() error {
	rdb := redis.NewClient(&redis.Options{Addr: cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379")})
	c, err := coordinator.New(rdb)
	if err != nil {
		return err
	}
	guarded, err := stock(rdb, &sync.Map{})
	if err != nil {
		return err
	}
	covered, err := orders(c, internalClient(), "http://127.0.0.1:8081")
	if err != nil {
		return err
	}
	ended := make(chan error)
	go func() { ended <- serve("127.0.0.1:8081", guarded) }()
	go func() { ended <- serve("127.0.0.1:8080", covered) }()
	return <-ended
}

func main() { log.Fatal(run()) }
