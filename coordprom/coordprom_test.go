package coordprom_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordprom"
	"github.com/onceward/coordinator/coordtest"
)

// bench is a coordinator in memory with its metrics.
type bench struct {
	*coordtest.Env
	t   *testing.T
	reg *prometheus.Registry
}

func newBench(t *testing.T, newEnv func(testing.TB, ...coordinator.Option) *coordtest.Env, opts ...coordinator.Option) *bench {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	o, err := coordprom.New(reg)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{Env: newEnv(t, append(opts, coordinator.WithObserver(o))...), t: t, reg: reg}
}

// value is that of a series: a name, or name{label="value",…} with the labels in alphabetical order. 0 when it is not there.
func (b *bench) value(series string) float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, pair := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", pair.GetName(), pair.GetValue()))
			}
			slices.Sort(labels)
			name := family.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if name == series {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

func (b *bench) want(what string, series map[string]float64) {
	b.t.Helper()
	for name, want := range series {
		if got := b.value(name); got != want {
			b.t.Errorf("%s: %s is %v, not %v", what, name, got, want)
		}
	}
}

func calls(op, outcome string) string {
	return fmt.Sprintf("coordinator_calls_total{op=%q,outcome=%q}", op, outcome)
}

func (b *bench) claim(key coordinator.Key, opts ...coordinator.ClaimOption) *coordinator.Lease {
	b.t.Helper()
	l, err := b.Coordinator.Claim(b.t.Context(), key, opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

func (b *bench) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	b := newBench(t, coordtest.New, coordinator.WithMaxPayload(64))
	ctx, c := t.Context(), b.Coordinator
	secret := coordinator.Key{Scope: "scope-of-a-tenant", ID: "id-of-a-client"}
	l := b.claim(secret)
	b.want("claimed", map[string]float64{calls("claim", "granted"): 1, "coordinator_leases": 1, "coordinator_takeovers_total": 0})
	_, _ = c.Claim(ctx, secret)
	_, _ = c.Claim(ctx, secret, coordinator.Fingerprint([]byte("another")))
	_, _ = c.Claim(ctx, coordinator.Key{})
	_, _ = c.Claim(ctx, coordinator.Key{ID: "old"}, coordinator.IssuedAt(b.Now().Add(-48*time.Hour)))
	_, _ = c.Result(ctx, coordinator.Key{ID: "nothing"}, nil)
	_ = l.SaveCheckpoint(ctx, make([]byte, 65))
	b.want("refused", map[string]float64{
		calls("claim", "in_progress"): 1, calls("claim", "mismatch"): 1, calls("claim", "invalid"): 1, calls("claim", "key_expired"): 1,
		calls("result", "not_found"): 1, calls("checkpoint", "too_large"): 1, "coordinator_leases": 1,
	})

	b.Lapse(secret)
	_, _ = c.Claim(ctx, secret, coordinator.QuarantineLapsed())
	next := b.claim(secret)
	f := c.Fence(secret)
	for range 2 {
		_ = l.Complete(ctx, nil)
		_ = l.Fail(ctx, nil)
		_ = l.SaveCheckpoint(ctx, nil)
		_ = f.Do(ctx, l.Grant(), "set", "v"+f.Tag(), 1)
		_ = f.Eval(ctx, l.Grant(), "return 1", nil)
	}
	_ = l.Renew(ctx)
	b.want("taken over", map[string]float64{
		calls("claim", "uncertain"): 1, calls("claim", "takeover"): 1, "coordinator_takeovers_total": 1, "coordinator_leases": 1, "coordinator_leases_lost_total": 1,
		calls("complete", "stale"): 2, calls("fail", "stale"): 2, calls("checkpoint", "stale"): 2, calls("fence_do", "stale"): 2, calls("fence_eval", "stale"): 2,
		calls("renew", "lease_lost"): 1, "coordinator_late_writes_refused_total": 10,
	})

	b.ok(next.Complete(ctx, []byte("done")))
	b.ok(next.Complete(ctx, []byte("done")))
	_ = next.Complete(ctx, []byte("otherwise"))
	_, _ = c.Claim(ctx, secret)
	b.want("completed", map[string]float64{
		calls("complete", "ok"): 2, calls("complete", "replayed"): 1, calls("claim", "replayed"): 1, "coordinator_leases": 0, "coordinator_leases_lost_total": 1,
	})

	released := b.claim(coordinator.Key{ID: "released"})
	b.ok(released.Release(ctx))
	b.ok(released.Release(ctx))
	b.claim(coordinator.Key{ID: "released"})
	b.want("released and granted again", map[string]float64{"coordinator_takeovers_total": 1, calls("claim", "granted"): 3, calls("release", "ok"): 2, "coordinator_leases": 1})

	b.DropNext("claim")
	_, _ = c.Claim(ctx, coordinator.Key{ID: "dropped"})
	b.FailNext("claim")
	_, _ = c.Claim(ctx, coordinator.Key{ID: "failed"})
	b.DropNext("complete")
	_, _, _ = coordinator.Do(ctx, c, coordinator.Key{ID: "done"}, func(context.Context, *coordinator.Lease) (int, error) { return 1, nil })
	b.want("unknown", map[string]float64{
		calls("claim", "unknown"): 1, calls("claim", "unavailable"): 1, calls("complete", "unknown"): 1, calls("do", "unknown"): 1,
		"coordinator_unknown_outcomes_total": 2, "coordinator_leases": 1,
	})

	lost := b.claim(coordinator.Key{ID: "lost"})
	b.Flush()
	b.ok(lost.Complete(ctx, nil))
	b.want("restored", map[string]float64{"coordinator_results_restored_total": 1, "coordinator_leases": 1})

	text := b.scrape("text/plain")
	for _, part := range []string{"scope-of-a-tenant", "id-of-a-client"} {
		if strings.Contains(text, part) {
			t.Errorf("the metrics show %q", part)
		}
	}
	b.ok(c.Close())
	b.want("closed", map[string]float64{"coordinator_leases": 0, "coordinator_leases_lost_total": 1})
	_, _ = c.Claim(ctx, secret)
	b.want("after Close", map[string]float64{calls("claim", "closed"): 1, "coordinator_leases": 0})
}

func TestBatch(t *testing.T) {
	t.Parallel()
	b := newBench(t, coordtest.New)
	b.claim(coordinator.Key{ID: "taken over"})
	b.Lapse(coordinator.Key{ID: "taken over"})
	batch := []coordinator.ClaimRequest{{Key: coordinator.Key{ID: "1"}}, {Key: coordinator.Key{ID: "2"}}, {Key: coordinator.Key{ID: "2"}}, {Key: coordinator.Key{ID: "taken over"}}}
	results := b.Coordinator.ClaimMany(t.Context(), batch)
	b.want("a batch", map[string]float64{calls("claim_many", "ok"): 1, "coordinator_takeovers_total": 1, "coordinator_leases": 4}) // with the one that lapsed
	for _, r := range results {
		if r.Err == nil {
			b.ok(r.Lease.Complete(t.Context(), nil))
		}
	}
	b.DropNext("claim_many")
	b.Coordinator.ClaimMany(t.Context(), []coordinator.ClaimRequest{{Key: coordinator.Key{ID: "3"}}, {Key: coordinator.Key{ID: "4"}}})
	b.want("a batch that is not answered", map[string]float64{"coordinator_unknown_outcomes_total": 2, "coordinator_leases": 1})
}

func TestRenewalsAndLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, coordtest.NewInBubble, coordinator.WithLease(30*time.Second), coordinator.WithMaxLifetime(5*time.Minute))
		b.claim(coordinator.Key{ID: "1"})
		b.claim(coordinator.Key{ID: "2"})
		b.Advance(2 * time.Minute)
		renewed := b.value("coordinator_renewals_total")
		if renewed < 24 || renewed > 36 {
			t.Errorf("%v renewals of two leases in 2 minutes, at a third of 30s", renewed)
		}
		b.want("renewed", map[string]float64{"coordinator_renewals_late_total": 0, "coordinator_leases": 2})
		b.FailNext("renewal")
		b.Advance(15 * time.Second)
		if late := b.value("coordinator_renewals_late_total"); late < 1 {
			t.Errorf("%v renewals late after one that failed", late)
		}
		b.Advance(5 * time.Minute)
		b.want("at the maximum lifetime", map[string]float64{"coordinator_leases": 0, "coordinator_leases_lost_total": 2})
	})
}

func TestWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, coordtest.NewInBubble)
		key := coordinator.Key{ID: "1"}
		l := b.claim(key)
		returned := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := b.Coordinator.Await(context.Background(), key, nil)
				returned <- err
			}()
		}
		b.Advance(time.Second)
		b.want("three wait", map[string]float64{"coordinator_waiters": 3})
		b.ok(l.Complete(t.Context(), nil))
		for range 3 {
			b.ok(<-returned)
		}
		b.want("nobody waits", map[string]float64{"coordinator_waiters": 0, calls("await", "ok"): 3, `coordinator_call_duration_seconds{op="await"}`: 3})
	})
}

func (b *bench) scrape(accept string) string {
	b.t.Helper()
	server := httptest.NewServer(promhttp.HandlerFor(b.reg, promhttp.HandlerOpts{}))
	defer server.Close()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, server.URL, nil)
	b.ok(err)
	req.Header.Set("Accept", accept)
	resp, err := server.Client().Do(req)
	b.ok(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	b.ok(err)
	return string(body)
}

// The names, the types, the units and the labels of everything there is, as a server scrapes it.
func TestScrape(t *testing.T) {
	t.Parallel()
	b := newBench(t, coordtest.New)
	b.ok(b.claim(coordinator.Key{ID: "1"}).Complete(t.Context(), nil))
	text := b.scrape("text/plain")
	for name, kind := range map[string]string{
		"coordinator_calls_total": "counter", "coordinator_call_duration_seconds": "histogram", "coordinator_leases": "gauge",
		"coordinator_leases_lost_total": "counter", "coordinator_renewals_total": "counter", "coordinator_renewals_late_total": "counter",
		"coordinator_waiters": "gauge", "coordinator_takeovers_total": "counter", "coordinator_late_writes_refused_total": "counter",
		"coordinator_unknown_outcomes_total": "counter", "coordinator_results_restored_total": "counter",
	} {
		if !strings.Contains(text, "# TYPE "+name+" "+kind+"\n") || !strings.Contains(text, "# HELP "+name+" ") {
			t.Errorf("there is no %s %s, or no help for it", kind, name)
		}
	}
	if n := strings.Count(text, "# TYPE "); n != 11 {
		t.Errorf("%d metrics are scraped; name the new ones here and in the package's documentation", n)
	}
	for _, line := range []string{
		`coordinator_calls_total{op="claim",outcome="granted"} 1`, `coordinator_call_duration_seconds_bucket{op="complete",le="60"} 1`,
		`coordinator_call_duration_seconds_count{op="claim"} 1`, "coordinator_leases 0",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("there is no line %q in\n%s", line, text)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	b.ok(err)
	gathered, err := testutil.GatherAndLint(b.reg)
	b.ok(err)
	for _, p := range append(problems, gathered...) {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if proto := b.scrape("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"); !strings.Contains(proto, "coordinator_call_duration_seconds") {
		t.Error("it cannot be scraped as protobuf, which native histograms need")
	}
}

func TestDurationsAreNativeAndClassic(t *testing.T) {
	t.Parallel()
	b := newBench(t, coordtest.New)
	b.claim(coordinator.Key{ID: "1"})
	families, err := b.reg.Gather()
	b.ok(err)
	for _, family := range families {
		if family.GetName() != "coordinator_call_duration_seconds" {
			continue
		}
		h := family.GetMetric()[0].GetHistogram()
		if len(h.GetBucket()) < 10 || len(h.GetPositiveSpan()) == 0 || h.GetSampleCount() != 1 {
			t.Errorf("the histogram has %d classic buckets and %d native spans", len(h.GetBucket()), len(h.GetPositiveSpan()))
		}
		return
	}
	t.Error("there is no histogram")
}

// Two coordinators may be told apart by constant labels, or counted together by one Observer.
func TestTwoOnOneRegistry(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	first, err := coordprom.New(reg, coordprom.WithConstLabels(prometheus.Labels{"name": "first"}))
	if err != nil {
		t.Fatal(err)
	}
	second, err := coordprom.New(reg, coordprom.WithConstLabels(prometheus.Labels{"name": "second"}))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Env: coordtest.New(t, coordinator.WithObserver(first)), t: t, reg: reg}
	other := &bench{Env: coordtest.New(t, coordinator.WithObserver(second)), t: t, reg: reg}
	third := &bench{Env: coordtest.New(t, coordinator.WithObserver(second)), t: t, reg: reg}
	b.claim(coordinator.Key{ID: "1"})
	other.claim(coordinator.Key{ID: "1"})
	third.claim(coordinator.Key{ID: "1"})
	b.want("three coordinators, two observers", map[string]float64{`coordinator_leases{name="first"}`: 1, `coordinator_leases{name="second"}`: 2})

	_, err = coordprom.New(reg, coordprom.WithConstLabels(prometheus.Labels{"name": "first"}))
	if !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("with labels that are taken: %v", err)
	}
}

func TestNewRegistersAllOrNothing(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "coordinator_waiters", Help: "Somebody else's."}))
	if _, err := coordprom.New(reg); err == nil {
		t.Fatal("a name that is taken is accepted")
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Errorf("%d metrics are there after an error (%v)", len(families), err)
	}
	if _, err := coordprom.New(reg, coordprom.WithBuckets(1, 1)); err == nil {
		t.Error("bounds that do not rise are accepted")
	}
	if _, err := coordprom.New(reg, coordprom.WithBuckets()); err == nil {
		t.Error("no bounds are accepted")
	}
	if _, err := coordprom.New(reg, nil); err == nil {
		t.Error("a nil option is accepted")
	}
	if _, err := coordprom.New(nil); err == nil {
		t.Error("a nil registerer is accepted")
	}
}
