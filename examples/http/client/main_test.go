package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

// serve counts the charges of a service that takes part.
func serve(t *testing.T) (url string, charges *int) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	c, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	once, err := coordhttp.New(c, coordhttp.SingleTenant(), coordhttp.RequireKey())
	if err != nil {
		t.Fatal(err)
	}
	charges = new(int)
	server := httptest.NewServer(once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*charges++ // the tests send one request at a time
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	})))
	t.Cleanup(func() {
		server.Close()
		_, _ = c.Close(), rdb.Close()
	})
	return server.URL, charges
}

// lossy loses the first answers.
type lossy struct{ lost, most int }

func (l *lossy) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && l.lost < l.most {
		l.lost++
		_ = response.Body.Close()
		return nil, errors.New("the answer was lost")
	}
	return response, err
}

func client(lost, tries int) *http.Client {
	return &http.Client{Transport: &coordhttp.Transport{Base: &lossy{most: lost}, Tries: tries, Pause: time.Millisecond}}
}

func TestARestartedClientChargesOnce(t *testing.T) {
	url, charges := serve(t)
	file := filepath.Join(t.TempDir(), "order-17.key")
	if _, err := charge(t.Context(), client(2, 2), url, file, "1000"); err == nil || *charges != 1 {
		t.Fatalf("all answers were lost: %v, %d charges; want an error and one charge", err, *charges)
	}
	for range 2 { // new processes, which have the file only
		if text, err := charge(t.Context(), client(1, 2), url, file, "1000"); text != `{"cents":1000}` || err != nil {
			t.Errorf("after a restart: %q, %v", text, err)
		}
	}
	if *charges != 1 {
		t.Errorf("%d charges for one key", *charges)
	}
	if _, err := charge(t.Context(), client(0, 2), url, file, "9900"); err == nil {
		t.Error("the file of one order served another one")
	}
	if _, err := charge(t.Context(), client(0, 2), url, file+"2", "1000"); err != nil || *charges != 2 {
		t.Errorf("another order: %v, %d charges", err, *charges)
	}
}

func TestAKeyThatWasCutOffIsReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "order-17.key")
	if err := os.WriteFile(file, []byte("8e03978e-40d5"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := keyIn(file)
	again, errAgain := keyIn(file)
	if len(key) != 36 || key != again || err != nil || errAgain != nil {
		t.Errorf("%q, %v; then %q, %v", key, err, again, errAgain)
	}
	if _, err := keyIn(t.TempDir()); err == nil {
		t.Error("a file that cannot be read gave a key")
	}
}
