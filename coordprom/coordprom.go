// Package coordprom feeds Prometheus with what a coordinator does.
//
//	observer, err := coordprom.New(prometheus.DefaultRegisterer)
//	if err != nil {
//		return err
//	}
//	c, err := coordinator.New(rdb, coordinator.WithObserver(observer))
//
// No label holds a key, a scope or a resource: op and outcome, whose values are those of [coordinator.Event], are all there
// are, beside the constant labels of [WithConstLabels].
//
//	coordinator_calls_total{op,outcome}         calls that have ended; a batch of ClaimMany is one
//	coordinator_call_duration_seconds{op}       how long they took, waiting and the work within Do included
//	coordinator_leases                          leases held by this process
//	coordinator_leases_lost_total               leases that ended before their work did
//	coordinator_renewals_total                  renewals in the background that took place
//	coordinator_renewals_late_total             those that failed, or came after two thirds of the lease
//	coordinator_waiters                         claims and Await calls that wait for another holder
//	coordinator_takeovers_total                 grants of keys whose lease had lapsed
//	coordinator_late_writes_refused_total       writes of holders that were not the current one any more
//	coordinator_unknown_outcomes_total          calls of which nobody knows whether they took effect
//	coordinator_results_restored_total          results written anew after Redis had lost the record
//
// Durations are a native histogram, for servers that scrape those, and a classic one for the others.
package coordprom

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceward/coordinator"
)

// Observer counts what coordinators do. One may serve several coordinators, which are then counted together; to tell
// them apart, give each an Observer of its own, with different constant labels.
type Observer struct {
	calls         *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	leases        prometheus.Gauge
	leasesLost    prometheus.Counter
	renewals      prometheus.Counter
	renewalsLate  prometheus.Counter
	waiters       prometheus.Gauge
	takeovers     prometheus.Counter
	lateWrites    prometheus.Counter
	unknown       prometheus.Counter
	restored      prometheus.Counter
	allCollectors []prometheus.Collector
}

var _ coordinator.Observer = (*Observer)(nil)

type settings struct {
	labels  prometheus.Labels
	buckets []float64
}

// Option configures [New].
type Option func(*settings) error

// WithConstLabels puts labels on every metric: the default is none. Two Observers on one registry need different ones.
func WithConstLabels(labels prometheus.Labels) Option {
	return func(s *settings) error {
		s.labels = labels
		return nil
	}
}

// defaultBuckets go from a round trip on loopback to work of a minute.
var defaultBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// WithBuckets sets the upper bounds, in seconds and rising, of the classic histogram of durations: the default goes from
// 0.5 ms to 60 s. The native one needs none.
func WithBuckets(bounds ...float64) Option {
	return func(s *settings) error {
		if len(bounds) == 0 {
			return errors.New("coordprom: WithBuckets needs a bound; leave it out for the default")
		}
		for i := 1; i < len(bounds); i++ {
			if bounds[i] <= bounds[i-1] {
				return fmt.Errorf("coordprom: WithBuckets takes rising bounds; %v follows %v", bounds[i], bounds[i-1])
			}
		}
		s.buckets = append([]float64{}, bounds...)
		return nil
	}
}

// New makes an Observer and registers its metrics on reg, all of them or, with an error, none: they are there already,
// with the same constant labels, or reg refuses them.
func New(reg prometheus.Registerer, opts ...Option) (*Observer, error) {
	if reg == nil {
		return nil, errors.New("coordprom: the registerer is nil; prometheus.DefaultRegisterer is one")
	}
	s := settings{buckets: defaultBuckets}
	for _, opt := range opts {
		if opt == nil {
			return nil, errors.New("coordprom: an option is nil; leave it out")
		}
		if err := opt(&s); err != nil {
			return nil, err
		}
	}
	o := newObserver(s)
	if err := reg.Register(collectors(o.allCollectors)); err != nil {
		return nil, fmt.Errorf("coordprom: %w", err)
	}
	return o, nil
}

func newObserver(s settings) *Observer {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "coordinator_" + name, Help: help, ConstLabels: s.labels})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "coordinator_" + name, Help: help, ConstLabels: s.labels})
	}
	o := &Observer{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coordinator_calls_total", Help: "Calls that have ended, by operation and outcome; a batch of claims is one.", ConstLabels: s.labels,
		}, []string{"op", "outcome"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "coordinator_call_duration_seconds", Help: "How long calls took, by operation; waiting, and the work within Do, included.",
			ConstLabels: s.labels, Buckets: s.buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, []string{"op"}),
		leases:       gauge("leases", "Leases that this process holds."),
		leasesLost:   counter("leases_lost_total", "Leases that ended before their work did."),
		renewals:     counter("renewals_total", "Renewals in the background that took place."),
		renewalsLate: counter("renewals_late_total", "Renewals in the background that failed, or came after two thirds of the lease."),
		waiters:      gauge("waiters", "Calls of this process that wait for a holder's result, or for its key."),
		takeovers:    counter("takeovers_total", "Grants of keys whose lease had lapsed."),
		lateWrites:   counter("late_writes_refused_total", "Writes that were refused because their grant was not the current one any more."),
		unknown:      counter("unknown_outcomes_total", "Calls of which it is not known whether they took effect."),
		restored:     counter("results_restored_total", "Results that were written anew after Redis had lost the record."),
	}
	o.allCollectors = []prometheus.Collector{
		o.calls, o.durations, o.leases, o.leasesLost, o.renewals, o.renewalsLate, o.waiters, o.takeovers, o.lateWrites, o.unknown, o.restored,
	}
	return o
}

// collectors are registered as one, so that it is all or none.
type collectors []prometheus.Collector

func (all collectors) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range all {
		c.Describe(ch)
	}
}

func (all collectors) Collect(ch chan<- prometheus.Metric) {
	for _, c := range all {
		c.Collect(ch)
	}
}

// Begin implements [coordinator.Observer].
func (o *Observer) Begin(ctx context.Context, _ string) (context.Context, func(coordinator.Event)) {
	return ctx, o.ended
}

func (o *Observer) ended(e coordinator.Event) {
	o.calls.WithLabelValues(e.Op, e.Outcome).Inc()
	o.durations.WithLabelValues(e.Op).Observe(e.Duration.Seconds())
	if e.Op != "do" { // the calls within tell the same themselves
		o.count(e)
	}
}

// count keeps what operators look for, out of a call or out of one element of a batch.
func (o *Observer) count(e coordinator.Event) {
	switch e.Outcome {
	case "takeover":
		o.takeovers.Inc()
	case "unknown":
		o.unknown.Inc()
	case "stale", "lease_lost":
		switch e.Op {
		case "checkpoint", "complete", "fail", "fence_do", "fence_eval":
			o.lateWrites.Inc()
		}
	}
}

// Note implements [coordinator.Observer].
func (o *Observer) Note(e coordinator.Event) {
	switch e.Op + " " + e.Outcome {
	case "lease held":
		o.leases.Add(float64(e.Count))
	case "lease lost":
		o.leasesLost.Add(float64(e.Count))
	case "renewal renewed":
		o.renewals.Add(float64(e.Count))
	case "renewal late":
		o.renewalsLate.Add(float64(e.Count))
	case "wait waiting":
		o.waiters.Add(float64(e.Count))
	case "complete restored":
		o.restored.Add(float64(e.Count))
	default:
		if e.Op == "claim_many" {
			o.count(e)
		}
	}
}
