package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
)

type world struct {
	c                   *coordinator.Coordinator
	ordersURL, stockURL string
	reserved            sync.Map
}

func start(t *testing.T) *world {
	t.Helper()
	client := func() *redis.Client {
		rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	}
	listen := func(handler http.Handler, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return server.URL
	}
	w := &world{}
	var err error
	if w.c, err = coordinator.New(client()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.c.Close() })
	w.stockURL = listen(stock(client(), &w.reserved)) // a Redis of its own
	w.ordersURL = listen(orders(w.c, internalClient(), w.stockURL))
	return w
}

func (w *world) order(t *testing.T, key, amount string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.ordersURL+"/items/tea/orders", strings.NewReader(amount))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Idempotency-Key", `"`+key+`"`)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response
}

func (w *world) inStock(t *testing.T, want string) {
	t.Helper()
	if got, _ := w.reserved.Load("tea"); got != want {
		t.Errorf("%v reserved, want %s", got, want)
	}
}

func TestTheGrantGoesAlong(t *testing.T) {
	w := start(t)
	for n, key := range []string{"order-1", "order-1", "order-2"} {
		response := w.order(t, key, "12")
		if replayed := response.Header.Get("Idempotency-Replayed") == "true"; response.StatusCode != http.StatusCreated || replayed != (n == 1) {
			t.Errorf("order %d: %s, replayed %v", n, response.Status, replayed)
		}
	}
	w.inStock(t, "12")
	url := w.stockURL + "/items/tea/reserved"
	if err := reserve(t.Context(), http.DefaultClient, url, strings.NewReader("99")); err == nil || !strings.Contains(err.Error(), "428") {
		t.Errorf("without a grant: %v, want 428", err)
	}
	w.inStock(t, "12")
}

func TestAStaleGrantIsRefused(t *testing.T) {
	w := start(t)
	url := w.stockURL + "/items/tea/reserved"
	key := coordinator.Key{ID: "order-1", Resource: "item/tea"}
	late, err := w.c.Claim(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	working := coordinator.ContextWithGrant(t.Context(), late.Grant()) // of a worker that does not know yet what follows
	if err := reserve(working, internalClient(), url, strings.NewReader("1")); err != nil {
		t.Fatal(err)
	}
	// Somebody takes the item from a worker that seems to hang, and another order goes through.
	if err := w.c.Expire(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if response := w.order(t, "order-2", "12"); response.StatusCode != http.StatusCreated {
		t.Fatal(response.Status)
	}
	if err := reserve(working, internalClient(), url, strings.NewReader("1")); err == nil || !strings.Contains(err.Error(), "412") {
		t.Errorf("the late worker: %v, want 412", err)
	}
	w.inStock(t, "12")
}
