package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/coordprom"
)

// metrics are what /metrics tells.
type metrics struct {
	registry *prometheus.Registry
	observer *coordprom.Observer
	requests *prometheus.CounterVec
}

func newMetrics() (*metrics, error) {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coordhttp_requests_total", Help: "Requests that were answered, by what became of them.",
		}, []string{"outcome"}),
	}
	m.registry.MustRegister(m.requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	m.observer, err = coordprom.New(m.registry)
	return m, err
}

// answered counts what [coordhttp.Observe] tells.
func (m *metrics) answered(outcome string) {
	m.requests.WithLabelValues(outcome).Inc()
}

// readyTime is how long Redis may take to answer /readyz.
const readyTime = time.Second

// adminHandler serves what operators ask. The proxy is not ready any more when ending has ended.
func adminHandler(ending context.Context, m *metrics, rdb redis.UniversalClient) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if ending.Err() != nil {
			http.Error(w, "the proxy is ending", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), readyTime)
		defer cancel()
		if err := rdb.Ping(ctx).Err(); err != nil {
			http.Error(w, "Redis does not answer", http.StatusServiceUnavailable) // the reason may name servers
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
