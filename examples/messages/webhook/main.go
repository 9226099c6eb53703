// Webhook takes deliveries of a provider that sends each until it gets a 2xx, so some of them twice, and lets each take effect once: first the
// signature, then the provider's delivery ID.
//
//	go run ./examples/messages/webhook
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordmsg"
	"github.com/redis/go-redis/v9"
)

const (
	maxBody = 1 << 20
	// tolerance is how old a signature may be: who has overheard a delivery cannot send it later, under a new ID of his own.
	tolerance = 5 * time.Minute
)

// Receiver is the endpoint that the provider calls.
type Receiver struct {
	Coordinator *coordinator.Coordinator
	Secret      []byte
	Handle      func(body []byte) coordmsg.Handler
	// Park keeps what is given up, before the provider is told that all is well.
	Park func(ctx context.Context, id string, body []byte, v coordmsg.Verdict) error
	Now  func() time.Time
}

// sign is the provider's signature: it covers the ID and the time beside the body, so that neither can be exchanged.
func sign(secret []byte, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, at)
	_, _ = mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func (rc *Receiver) authentic(r *http.Request, body []byte) bool {
	id, at := r.Header.Get("Delivery-Id"), r.Header.Get("Delivery-Time")
	seconds, err := strconv.ParseInt(at, 10, 64)
	age := rc.Now().Sub(time.Unix(seconds, 0))
	return err == nil && age.Abs() <= tolerance &&
		hmac.Equal([]byte(r.Header.Get("Delivery-Signature")), []byte(sign(rc.Secret, id, at, body)))
}

func (rc *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "cannot read the body", http.StatusBadRequest)
		return
	}
	// First, so that nobody can use up a delivery's ID before the provider does.
	if !rc.authentic(r, body) {
		http.Error(w, "wrong signature", http.StatusUnauthorized)
		return
	}
	id := r.Header.Get("Delivery-Id")
	print := sha256.Sum256(body)
	v := coordmsg.Handle(r.Context(), rc.Coordinator, coordinator.Key{Scope: "webhook", ID: id}, rc.Handle(body), coordmsg.Claim(coordinator.Fingerprint(print[:])))
	switch v.Action {
	case coordmsg.Ack:
		w.WriteHeader(http.StatusNoContent)
		return
	case coordmsg.Park:
		if err := rc.Park(r.Context(), id, body, v); err == nil {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		v.After = time.Minute
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(v.After.Seconds()))))
	http.Error(w, "send it again later", http.StatusServiceUnavailable)
}

func run() error {
	server, err := miniredis.Run()
	if err != nil {
		return err
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = rdb.Close() }()
	c, err := coordinator.New(rdb)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	receiver := &Receiver{
		Coordinator: c, Secret: []byte("of this run"), Now: time.Now,
		Handle: func(body []byte) coordmsg.Handler {
			return func(context.Context, *coordinator.Lease) error {
				_, err := fmt.Printf("took effect: %s\n", body)
				return err
			}
		},
		Park: func(_ context.Context, id string, _ []byte, v coordmsg.Verdict) error {
			_, err := fmt.Printf("parked: %s: %v\n", id, v)
			return err
		},
	}
	s := &http.Server{Addr: "127.0.0.1:8085", Handler: receiver, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	fmt.Println("listening on", s.Addr)
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
