// Postgres is a service that pays out money once for each idempotency key, whatever Redis loses. Accounts and payouts are in
// PostgreSQL, in tables that refuse late writers; while Redis is away the database coordinates alone.
//
//	DATABASE_URL=postgres://user@localhost:5432/bank REDIS_ADDR=localhost:6379 go run ./examples/postgres
//	curl -i localhost:8080/payouts -H 'Authorization: Bearer token-of-acme' -H 'Idempotency-Key: 8e03978e' -d '{"cents":1000}'
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordpg"
)

// Payout is what a request takes effect as, and the answer to it.
type Payout struct {
	ID    int64 `json:"id"`
	Cents int64 `json:"cents"`
}

// Service pays out.
type Service struct {
	coordinator *coordinator.Coordinator
	pool        *pgxpool.Pool
	standby     *coordpg.Standby
}

var errTooLittle = errors.New("there is not so much on the account")

// PayOut takes cents from the account, once for each key.
func (s *Service) PayOut(ctx context.Context, account, id string, cents int64) (p Payout, replayed bool, err error) {
	key := coordinator.Key{
		Scope: coordinator.JoinScope(account, "POST /payouts"), ID: id,
		Resource: "account/" + account, // payouts of one account take turns, and share its fence
	}
	asked := sha256.Sum256(strconv.AppendInt(nil, cents, 10))
	return coordpg.Do(ctx, s.coordinator, s.pool, key, func(ctx context.Context, tx pgx.Tx, lease *coordpg.Lease) (p Payout, err error) {
		done, err := tx.Exec(ctx, `UPDATE accounts SET cents = cents - $2 WHERE id = $1 AND cents >= $2`, account, cents)
		if err != nil {
			return p, err
		}
		if done.RowsAffected() == 0 {
			return p, coordinator.Final(errTooLittle) // rolled back, and what every retry gets
		}
		p.Cents = cents
		if err := tx.QueryRow(ctx, `INSERT INTO payouts (account, cents) VALUES ($1, $2) RETURNING id`, account, cents).Scan(&p.ID); err != nil {
			return p, err
		}
		told, err := json.Marshal(p)
		if err != nil {
			return p, err
		}
		return p, lease.Emit(coordpg.Event{Topic: "payouts", Payload: told}) // the bank hears of it when this is committed
	}, coordpg.Fingerprint(asked[:]), coordpg.WaitUpTo(5*time.Second), coordpg.WithStandby(s.standby))
}

// ServeHTTP answers POST /payouts.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	account, known := map[string]string{"token-of-acme": "acme", "token-of-zeta": "zeta"}[token] // an identity provider's task
	if !known {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	var order struct{ Cents int64 }
	id := strings.Trim(r.Header.Get("Idempotency-Key"), `"`)
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&order); err != nil || order.Cents < 1 || id == "" {
		http.Error(w, "send cents, and an Idempotency-Key", http.StatusBadRequest)
		return
	}
	payout, replayed, err := s.PayOut(r.Context(), account, id, order.Cents)
	if err != nil {
		refuse(w, err)
		return
	}
	if replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(payout)
}

// refuse says what the client has to do.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable // send the same again: what has taken effect is not done twice
	busy, _ := errors.AsType[*coordinator.InProgressError](err)
	outcome, _ := errors.AsType[*coordinator.CompletedError](err)
	switch {
	case outcome != nil && outcome.Result.Failed:
		http.Error(w, string(outcome.Result.Payload), http.StatusPaymentRequired)
		return
	case busy != nil:
		w.Header().Set("Retry-After", strconv.Itoa(1+int(busy.RetryAfter.Seconds())))
		status = http.StatusConflict
	case errors.Is(err, coordinator.ErrMismatch):
		status = http.StatusUnprocessableEntity // that key was another payout
	case errors.Is(err, coordinator.ErrInvalid):
		status = http.StatusBadRequest
	default:
		log.Print(err)
	}
	http.Error(w, http.StatusText(status), status)
}

//go:embed schema.sql
var schema string

// prepare makes the tables. A program with a role of its own for this has it done by its deployment, with coordctl pg migrate.
func prepare(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := coordpg.Migrate(ctx, pool); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, schema); err != nil {
		return err
	}
	for table, column := range map[string]string{"accounts": "id", "payouts": "account"} {
		guard, err := coordpg.Trigger(pgx.Identifier{table}, "account/", column)
		if err != nil {
			return err
		}
		if _, err := pool.Exec(ctx, guard); err != nil {
			return err
		}
	}
	return nil
}

// Run serves until ctx ends. tell hands the outbox on.
func Run(ctx context.Context, pool *pgxpool.Pool, c *coordinator.Coordinator, tell coordpg.Publisher, serve func(context.Context, http.Handler) error) error {
	if err := prepare(ctx, pool); err != nil {
		return err
	}
	standby, err := coordpg.NewStandby(c, pool)
	if err != nil {
		return err
	}
	relay, err := coordpg.NewRelay(c, pool, tell, coordpg.RelayWithStandby(standby), coordpg.OnFailure(func(err error) { log.Print(err) }))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	parts := []func(context.Context) error{
		standby.Run, relay.Run,
		func(ctx context.Context) error {
			return coordpg.KeepSwept(ctx, pool, time.Minute, func(err error) { log.Print(err) })
		},
		func(ctx context.Context) error {
			return serve(ctx, &Service{coordinator: c, pool: pool, standby: standby})
		},
	}
	var running sync.WaitGroup
	for _, part := range parts {
		running.Go(func() { cancel(part(ctx)) }) // the first to end is the end of all
	}
	running.Wait()
	return context.Cause(ctx)
}

func listen(ctx context.Context, handler http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("POST /payouts", handler)
	server := &http.Server{Addr: "127.0.0.1:8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	log.Print("listening on ", server.Addr)
	return server.ListenAndServe()
}

// publish stands for a broker.
func publish(_ context.Context, events []coordpg.Event) error {
	for _, e := range events {
		fmt.Println(e.Seq, e.Topic, string(e.Payload))
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	c, err := coordinator.New(redis.NewClient(&redis.Options{Addr: cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379")}))
	if err != nil {
		log.Fatal(err)
	}
	log.Print(Run(ctx, pool, c, publish, listen))
}
