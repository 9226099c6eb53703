package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

func newTestService(t *testing.T) *service {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { rdb.Close() })
	coord, err := coordinator.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coord.Close() })
	return &service{
		worker: "worker", coord: coord, tally: newTally(), diary: newDiary(io.Discard),
		ledger: &ledger{rdb: rdb, coord: coord, name: "ledger:", fenced: true},
		strike: func(moment, string) error { return nil },
	}
}

func (s *service) answer(key, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/payments", strings.NewReader(body))
	r.Header.Set("Idempotency-Key", key)
	w := httptest.NewRecorder()
	s.post(w, r)
	return w
}

func TestServiceReplays(t *testing.T) {
	s := newTestService(t)
	const body = `{"account":"account-1","cents":100}`
	first, second := s.answer("pay-01", body), s.answer("pay-01", body)
	if first.Code != http.StatusCreated || first.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("first: %d %v", first.Code, first.Header())
	}
	if second.Code != http.StatusCreated || second.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("second: %d %v", second.Code, second.Header())
	}
	if first.Body.String() != second.Body.String() {
		t.Errorf("%s, then %s", first.Body, second.Body)
	}
	if entries, err := s.ledger.entries(t.Context(), paymentKey("pay-01")); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestServiceRefuses(t *testing.T) {
	s := newTestService(t)
	s.answer("pay-01", `{"cents":100}`)
	for _, test := range []struct {
		key, body string
		status    int
	}{
		{"pay-01", `{"cents":200}`, http.StatusUnprocessableEntity},
		{"", `{"cents":100}`, http.StatusBadRequest},
		{"pay-02", `{"cents":`, http.StatusBadRequest},
		{"pay-02", strings.Repeat(" ", maxBody+1), http.StatusBadRequest},
	} {
		if got := s.answer(test.key, test.body); got.Code != test.status {
			t.Errorf("key %q, body %.20q: %d, want %d", test.key, test.body, got.Code, test.status)
		}
	}
}

func TestServiceInProgress(t *testing.T) {
	s := newTestService(t)
	working, done := make(chan struct{}), make(chan struct{})
	s.strike = func(at moment, _ string) error {
		if at == beforeBooking {
			close(working)
			<-done
		}
		return nil
	}
	const body = `{"cents":100}`
	first := make(chan int)
	go func() { first <- s.answer("pay-01", body).Code }()
	<-working
	second := s.answer("pay-01", body)
	close(done)
	if second.Code != http.StatusConflict || second.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", second.Code, second.Header())
	}
	if code := <-first; code != http.StatusCreated {
		t.Errorf("the first got %d", code)
	}
}

func TestRetryAfterIsWholeSeconds(t *testing.T) {
	for after, want := range map[time.Duration]string{0: "1", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2"} {
		w := httptest.NewRecorder()
		comeBack(w, http.StatusConflict, after, "")
		if got := w.Header().Get("Retry-After"); got != want {
			t.Errorf("%v: %s, want %s", after, got, want)
		}
	}
}
