package coordhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

// A charge is made once, however often its request is sent.
func ExampleNew() {
	server, err := miniredis.Run() // a program has a Redis of its own
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	c, err := coordinator.New(rdb)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	once, err := coordhttp.New(c, coordhttp.Tenant(func(r *http.Request) (string, error) {
		account, _, _ := r.BasicAuth() // what authentication in front of it has let through
		return account, nil
	}))
	if err != nil {
		log.Fatal(err)
	}
	charges := 0
	mux := http.NewServeMux()
	mux.Handle("POST /charges", once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		charges++
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "charge %d", charges)
	})))

	for _, body := range []string{"10 EUR", "10 EUR", "20 EUR"} {
		r := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader(body))
		r.SetBasicAuth("acme", "secret")
		r.Header.Set("Idempotency-Key", `"018f3c9e-7d4b-4c35-9f5e-3a1f0e6d2b11"`)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Printf("%d %s replayed: %q\n", w.Code, w.Body.String()[:8], w.Header().Get("Idempotency-Replayed"))
	}
	// Output:
	// 201 charge 1 replayed: ""
	// 201 charge 1 replayed: "true"
	// 422 {"type": replayed: ""
}

// A run died in its work, and somebody has found out that the charge was made: retries get this answer.
func ExampleAnswer_Payload() {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	c, err := coordinator.New(rdb, coordinator.WithLease(200*time.Millisecond), coordinator.WithMaxLifetime(200*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	once, err := coordhttp.New(c, coordhttp.SingleTenant(), coordhttp.Quarantine())
	if err != nil {
		log.Fatal(err)
	}
	keys := make(chan coordinator.Key, 1)
	mux := http.NewServeMux()
	mux.Handle("POST /charges", once(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		key, _ := coordhttp.KeyFrom(r.Context()) // which a service logs
		keys <- key
		<-r.Context().Done() // it takes longer than any lease may live
	})))
	send := func() {
		r := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader("10 EUR"))
		r.Header.Set("Idempotency-Key", "order-17")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Printf("%d %q %q\n", w.Code, w.Header().Get("Idempotency-Replayed"), w.Header().Get("Location"))
	}
	send()

	key := <-keys
	payload, err := coordhttp.Answer{Status: http.StatusCreated, Header: http.Header{"Location": {"/charges/17"}}}.Payload(key)
	if err != nil {
		log.Fatal(err)
	}
	for {
		err = c.Resolve(context.Background(), key, coordinator.Resolution{Payload: payload})
		if !errors.Is(err, coordinator.ErrInProgress) { // until the lease's grace is over
			break
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	send()
	// Output:
	// 409 "" ""
	// 201 "true" "/charges/17"
}

// A client that sends a request again with the same key and body until it is answered.
func ExampleTransport() {
	tries := 0
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(r.Header.Get("Idempotency-Key"), string(body))
		if tries++; tries == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer service.Close()

	client := &http.Client{Transport: &coordhttp.Transport{Pause: 1}}
	r, err := http.NewRequest(http.MethodPost, service.URL, strings.NewReader("10 EUR"))
	if err != nil {
		log.Fatal(err)
	}
	r = r.WithContext(coordhttp.WithKey(r.Context(), "order-17")) // without it, a new UUIDv7
	response, err := client.Do(r)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	fmt.Println(response.Status)
	// Output:
	// "order-17" 10 EUR
	// "order-17" 10 EUR
	// 200 OK
}
