package coordslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordslog"
	"github.com/onceward/coordinator/coordtest"
)

// output is what a logger writes, line by line.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// find returns the lines with these values.
func (o *output) find(t *testing.T, op, outcome string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(o.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["op"] == op && fields["outcome"] == outcome {
			found = append(found, fields)
		}
	}
	return found
}

func logger(out *output, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level}))
}

var key = coordinator.Key{Scope: "scope-of-a-tenant", ID: "id-of-a-client", Resource: "account/42"}

// play takes a key through a life with a takeover.
func play(t *testing.T, opts ...coordslog.Option) (*output, *coordtest.Env) {
	t.Helper()
	out := &output{}
	env := coordtest.New(t, coordinator.WithObserver(coordslog.New(logger(out, slog.LevelDebug), opts...)))
	ctx, c := t.Context(), env.Coordinator
	late, err := c.Claim(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Claim(ctx, key)
	env.Lapse(key)
	next, err := c.Claim(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	_ = late.Complete(ctx, nil)
	_ = late.Renew(ctx)
	env.FailNext("complete")
	_ = next.Complete(ctx, nil)
	if err := next.Complete(ctx, nil); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Claim(ctx, key, coordinator.Fingerprint([]byte("another")))
	return out, env
}

func TestLevels(t *testing.T) {
	t.Parallel()
	out, _ := play(t)
	for _, want := range []struct {
		op, outcome, level string
		failed             bool
	}{
		{"claim", "granted", "DEBUG", false}, {"claim", "in_progress", "DEBUG", false}, {"claim", "takeover", "INFO", false},
		{"claim", "mismatch", "INFO", true}, {"complete", "stale", "WARN", true}, {"complete", "unavailable", "WARN", true},
		{"complete", "ok", "DEBUG", false}, {"lease", "lost", "WARN", true},
	} {
		found := out.find(t, want.op, want.outcome)
		if len(found) != 1 || found[0]["level"] != want.level || (found[0]["error"] != nil) != want.failed {
			t.Errorf("%s %s at %s: found %v", want.op, want.outcome, want.level, found)
		}
	}
	if found := out.find(t, "claim", "granted"); found[0]["duration"] == nil || found[0]["msg"] != "coordinator call" {
		t.Errorf("a call is logged as %v", found[0])
	}
	if found := out.find(t, "lease", "lost"); found[0]["msg"] != "coordinator note" {
		t.Errorf("a note is logged as %v", found[0])
	}
}

func TestKeysAreHashed(t *testing.T) {
	t.Parallel()
	out, env := play(t)
	if strings.Contains(out.String(), "id-of-a-client") {
		t.Errorf("the client's ID is in the log:\n%s", out)
	}
	granted, taken := out.find(t, "claim", "granted")[0]["key"], out.find(t, "claim", "takeover")[0]["key"]
	if granted != taken || len(granted.(string)) != 16 {
		t.Errorf("one key is logged as %v and %v", granted, taken)
	}
	other := coordinator.Key{Scope: key.Scope, ID: key.ID + "2"}
	if _, err := env.Coordinator.Claim(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if found := out.find(t, "claim", "granted"); len(found) != 2 || found[1]["key"] == granted {
		t.Errorf("two keys are logged as %v", found)
	}
	apart, _ := play(t)
	if apart.find(t, "claim", "granted")[0]["key"] == granted {
		t.Error("another Observer hashes alike, without a common secret")
	}
	one, _ := play(t, coordslog.HashWith([]byte("secret")))
	two, _ := play(t, coordslog.HashWith([]byte("secret")))
	if a, b := one.find(t, "claim", "granted")[0]["key"], two.find(t, "claim", "granted")[0]["key"]; a != b || a == granted {
		t.Errorf("under one secret a key is %v and %v", a, b)
	}
}

func TestShowKeys(t *testing.T) {
	t.Parallel()
	out, _ := play(t, coordslog.ShowKeys())
	shown, _ := out.find(t, "claim", "granted")[0]["key"].(map[string]any)
	if shown["scope"] != key.Scope || shown["id"] != key.ID || shown["resource"] != key.Resource {
		t.Errorf("the key is logged as %v", shown)
	}
}

func TestDisabledLevelsCostNothing(t *testing.T) {
	out := &output{}
	o := coordslog.New(logger(out, slog.LevelError), coordslog.HashWith([]byte("secret")))
	event := coordinator.Event{Op: "claim", Outcome: "granted", Key: key, Count: 1}
	_, end := o.Begin(t.Context(), "claim")
	if n := testing.AllocsPerRun(100, func() { end(event) }); n > 0 || out.String() != "" {
		t.Errorf("a call that is not logged costs %v allocations, and writes %q", n, out)
	}
}

func TestNotesAndCounts(t *testing.T) {
	t.Parallel()
	out := &output{}
	o := coordslog.New(logger(out, slog.LevelDebug))
	o.Note(coordinator.Event{Op: "renewal", Outcome: "renewed", Count: 7})
	o.Note(coordinator.Event{Op: "renewal", Outcome: "late", Count: 2})
	o.Note(coordinator.Event{Op: "complete", Outcome: "restored", Key: key, Count: 1})
	o.Note(coordinator.Event{Op: "claim_many", Outcome: "unknown", Key: key, Count: 1, Err: errors.New("no reply")})
	for _, want := range []struct {
		op, outcome, level string
		count              any
	}{
		{"renewal", "renewed", "DEBUG", 7.0}, {"renewal", "late", "WARN", 2.0}, {"complete", "restored", "WARN", nil}, {"claim_many", "unknown", "WARN", nil},
	} {
		found := out.find(t, want.op, want.outcome)
		if len(found) != 1 || found[0]["level"] != want.level || found[0]["count"] != want.count {
			t.Errorf("%s %s: %v", want.op, want.outcome, found)
		}
	}
	if found := out.find(t, "renewal", "late"); found[0]["key"] != nil {
		t.Errorf("a note of several leases names a key: %v", found)
	}
}

func TestContextReachesTheHandler(t *testing.T) {
	t.Parallel()
	type trace struct{}
	h := &contextual{Handler: slog.DiscardHandler, key: trace{}}
	env := coordtest.New(t, coordinator.WithObserver(coordslog.New(slog.New(h))))
	if _, err := env.Coordinator.Claim(context.WithValue(t.Context(), trace{}, "trace-1"), key); err != nil {
		t.Fatal(err)
	}
	if h.seen != "trace-1" {
		t.Errorf("the handler saw %v", h.seen)
	}
}

type contextual struct {
	slog.Handler
	key, seen any
}

func (h *contextual) Enabled(context.Context, slog.Level) bool { return true }
func (h *contextual) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "coordinator call" {
		h.seen = ctx.Value(h.key)
	}
	return nil
}

func TestNilLogger(t *testing.T) {
	coordslog.New(nil).Note(coordinator.Event{Op: "renewal", Outcome: "renewed", Count: 1})
}

func ExampleNew() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{} // the example's output must not change
			}
			return a
		},
	}))
	observer := coordslog.New(logger, coordslog.HashWith([]byte("the same in all processes")))

	// coordinator.New(rdb, coordinator.WithObserver(observer)) calls it like this:
	_, end := observer.Begin(context.Background(), "claim")
	end(coordinator.Event{Op: "claim", Outcome: "takeover", Key: coordinator.Key{Scope: "payments", ID: "4711"}, Count: 1})
	// Output:
	// level=INFO msg="coordinator call" op=claim outcome=takeover key=eca0e04e6c8b8cce
}
