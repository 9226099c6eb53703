// Package caller is the load of a chaos run: what one process of callers does. The callers fight for small fence
// domains that live for a second or two, with short leases, and write down everything they ask for and are told.
package caller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/chaos/faults"
	"github.com/onceward/coordinator/chaos/history"
)

// Config is what a process of callers is told by the one that starts it.
type Config struct {
	Process  int               `json:"process"`
	First    int               `json:"first"`   // the number of its first caller, unique in the run
	Seat     int               `json:"seat"`    // and that one's seat; a process that takes another's place takes its seats
	Callers  int               `json:"callers"` // how many
	Plan     *Plan             `json:"plan"`
	File     string            `json:"file"`     // of its history
	Network  map[string]string `json:"network"`  // for the address of every node the one to dial instead
	Postgres string            `json:"postgres"` // connection string of the server that has the table
	Prefix   string            `json:"prefix"`
	Shortest time.Duration     `json:"shortest"` // lease
	Longest  time.Duration     `json:"longest"`  // lease
	Replicas int               `json:"replicas"`
	Confirm  time.Duration     `json:"confirm"` // how long a call waits for the replicas
	Cache    time.Duration     `json:"cache"`   // of WithReplayCache, 0 for none
}

// ClientName is what the servers, PostgreSQL too, know the callers' connections by.
const ClientName = "chaos-caller"

// MaxLifetime ends the leases of processes that were stopped and go on.
const MaxLifetime = 10 * time.Second

// cacheBytes hold all results of a run.
const cacheBytes = 8 << 20

// Report is what a process says in the end.
type Report struct {
	Goroutines  int `json:"goroutines"`  // left over
	Connections int `json:"connections"` // left open
	Steps       int `json:"steps"`       // operations begun
}

// Client makes a client as the callers have it: go-redis' defaults, by way of the proxies.
func Client(network map[string]string, name string, dial func(context.Context, string, string) (net.Conn, error)) *redis.ClusterClient {
	var nodes []string
	for node := range network {
		nodes = append(nodes, node)
	}
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: nodes, ClientName: name, Dialer: dial})
}

// Main is the process: it is configured by JSON on in, works until in ends, and reports on out.
func Main(in io.Reader, out io.Writer) error {
	redis.SetLogger(Silence{})
	decoder := json.NewDecoder(in)
	var config Config
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf("read the configuration of a process of callers: %w", err)
	}
	done := make(chan struct{})
	go func() { // ends with in
		defer close(done)
		_, _ = io.Copy(io.Discard, in)
	}()
	report, err := Run(config, done, func() { _, _ = fmt.Fprintln(out, "ready") })
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(report)
}

// Run is the load of one process. It calls ready when the callers are at work, and has them end their last operations
// when done is closed.
func Run(config Config, done <-chan struct{}, ready func()) (_ *Report, err error) {
	before := runtime.NumGoroutine()
	out, err := history.Create(config.File)
	if err != nil {
		return nil, err
	}
	rec := NewRecorder(out, config.Process)
	open := &atomic.Int64{}
	rdb := Client(config.Network, ClientName, counted(faults.Dialer(config.Network), open))
	options := []coordinator.Option{
		coordinator.WithPrefix(config.Prefix), coordinator.WithLease(config.Longest),
		coordinator.WithMaxLifetime(MaxLifetime), coordinator.WithObserver(Watcher{}),
	}
	if config.Replicas > 0 {
		options = append(options, coordinator.WithReplicas(config.Replicas, config.Confirm))
	}
	if config.Cache > 0 {
		options = append(options, coordinator.WithReplayCache(cacheBytes, config.Cache))
	}
	coord, err := coordinator.New(rdb, options...)
	if err != nil {
		return nil, err
	}
	table, err := OpenTable(config.Postgres, config.Callers, open)
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	var watcher, callers sync.WaitGroup
	watcher.Go(func() { rec.stalls.watch(ended) })
	for i := range config.Callers {
		number := config.First + i
		a := &actor{
			coord: coord, table: table, rec: rec, plan: config.Plan, number: number, seat: config.Seat + i, done: done,
			random: rand.New(rand.NewPCG(uint64(config.Plan.Seed), streamCallers+uint64(number))),
			lease:  [2]time.Duration{config.Shortest, config.Longest}, visited: map[int]int{},
		}
		callers.Go(a.run)
	}
	ready()
	callers.Wait()
	if err := coord.Close(); err != nil {
		return nil, err
	}
	if err := rdb.Close(); err != nil {
		return nil, err
	}
	table.Close()
	close(ended)
	watcher.Wait()
	report := settled(before, open)
	report.Steps = int(rec.last.Load())
	if err := rec.Err(); err != nil {
		return nil, err
	}
	return report, out.Close()
}

// settled waits until nothing is left over, or long enough.
func settled(before int, open *atomic.Int64) *Report {
	const longest = 5 * time.Second
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		r := &Report{Goroutines: max(runtime.NumGoroutine()-before, 0), Connections: int(open.Load())}
		if r.Goroutines == 0 && r.Connections == 0 || time.Since(begun) > longest {
			return r
		}
	}
}

// connection counts itself out when it is closed.
type connection struct {
	*net.TCPConn
	open *atomic.Int64
	once sync.Once
}

func (c *connection) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.TCPConn.Close()
}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

func counted(dial dialer, open *atomic.Int64) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		tcp, ok := conn.(*net.TCPConn)
		if err != nil || !ok {
			return conn, err
		}
		open.Add(1)
		return &connection{TCPConn: tcp, open: open}, nil
	}
}

// Silence keeps go-redis' own log off the terminal: what matters in it comes back as an error as well.
type Silence struct{}

// Printf drops it.
func (Silence) Printf(context.Context, string, ...any) {}
