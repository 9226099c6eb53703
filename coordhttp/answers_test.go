package coordhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

func TestKeyMissing(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		var runs atomic.Int64
		wantProblem(t, serve(t, c, counted(&runs, 201), coordhttp.RequireKey()).post(t, "/", "body"), 400, coordhttp.KindKeyMissing)
		if runs.Load() != 0 {
			t.Error("the handler ran")
		}
		if r := serve(t, c, counted(&runs, 201)).post(t, "/", "body"); r.status != 201 || r.body != "run 1" {
			t.Errorf("without RequireKey: %+v", r)
		}
	})
}

func TestKeyMalformed(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		s := serve(t, p.coordinator(t), counted(&runs, 201))
		for name, keys := range map[string][]string{
			"empty": {""}, "quoted and empty": {`""`}, "no end": {`"k`}, "rubbish behind": {`"k" "l"`}, "parameters": {`"k";a=1`}, "a list": {`"k", "l"`}, "two raw": {"k,l"},
			"a space": {"k l"}, "not ASCII": {"schlüssel"}, "quoted, not ASCII": {`"schlüssel"`}, "two": {"k", "l"}, "twice the same": {"k", "k"},
			"too long": {strings.Repeat("k", 256)}, "quoted and too long": {`"` + strings.Repeat("k", 256) + `"`}, "far too long": {`"` + strings.Repeat("k", 100_000) + `"`},
			"a quote within": {`k"l`}, "a bad escape": {`"\k"`}, "from the future": {"0fffffff-ffff-7000-8000-000000000000"},
		} {
			headers := []string{}
			for _, key := range keys {
				headers = append(headers, idem, key)
			}
			r := s.post(t, "/", "body", headers...)
			if r.kind() != string(coordhttp.KindKeyMalformed) || r.status != 400 {
				t.Errorf("%s: %d %q", name, r.status, r.body)
			}
		}
		if runs.Load() != 0 {
			t.Errorf("the handler ran %d times", runs.Load())
		}
	})
}

func TestReplay(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		s := serve(t, p.coordinator(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			runs.Add(1)
			for name, values := range map[string][]string{
				"Location": {"/charges/1"}, "X-Many": {"a", "b"}, "Set-Cookie": {"session=secret"}, "Authorization": {"secret"},
				"Connection": {"X-Hop"}, "X-Hop": {"secret"}, "Trailer": {"X-Checksum"}, "Content-Type": {"application/octet-stream"},
			} {
				w.Header()[name] = values
			}
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte{0, 255, '\n'})
			w.Header().Set("X-Checksum", "sum")
			w.Header().Set(http.TrailerPrefix+"X-Late", "late")
		}))
		first := s.post(t, "/charges", "body", idem, `"k"`)
		for _, key := range []string{"k", `"k"`} {
			again := s.post(t, "/charges", "body", idem, key)
			if again.status != first.status || again.body != first.body || again.body != "\x00\xff\n" {
				t.Errorf("%d %q, at first %d %q", again.status, again.body, first.status, first.body)
			}
			for _, name := range []string{"Location", "X-Many", "Content-Type"} {
				if got, want := fmt.Sprint(again.header.Values(name)), fmt.Sprint(first.header.Values(name)); got != want || got == "[]" {
					t.Errorf("%s: %s, at first %s", name, got, want)
				}
			}
			for _, name := range []string{"Set-Cookie", "Authorization", "X-Hop"} {
				if again.header.Get(name) != "" {
					t.Errorf("%s was replayed", name)
				}
			}
			if again.header.Get("Idempotency-Replayed") != "true" || first.header.Get("Idempotency-Replayed") != "" {
				t.Error("Idempotency-Replayed")
			}
			if got := again.trailer; got.Get("X-Checksum") != "sum" || got.Get("X-Late") != "late" || first.trailer.Get("X-Checksum") != "sum" || first.trailer.Get("X-Late") != "late" {
				t.Errorf("trailers %v, at first %v", got, first.trailer)
			}
		}
		if first.header.Get("Set-Cookie") == "" {
			t.Error("the first caller did not get the cookie")
		}
		if runs.Load() != 1 {
			t.Errorf("ran %d times", runs.Load())
		}
		if seen := s.seen(); seen[coordhttp.OutcomeExecuted] != 1 || seen[coordhttp.OutcomeReplayed] != 2 {
			t.Errorf("outcomes %v", seen)
		}
	})
}

func TestKeyReused(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		g := newGate()
		s := serve(t, p.coordinator(t), g)
		done := make(chan *reply, 1)
		go func() {
			r, _ := s.send(t.Context(), "POST", "/charges?a=1", "body", idem, "k")
			done <- r
		}()
		<-g.begun
		wantProblem(t, s.post(t, "/charges?a=1", "more", idem, "k"), 422, coordhttp.KindKeyReused) // while the first is running
		close(g.release)
		<-done
		wantProblem(t, s.post(t, "/charges?a=1", "more", idem, "k"), 422, coordhttp.KindKeyReused)
		wantProblem(t, s.post(t, "/charges?a=2", "body", idem, "k"), 422, coordhttp.KindKeyReused)
		if g.runs.Load() != 1 {
			t.Errorf("ran %d times", g.runs.Load())
		}
	})
}

func TestInProgress(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		g := newGate()
		s := serve(t, p.coordinator(t), g)
		done := make(chan *reply, 1)
		go func() {
			r, _ := s.send(t.Context(), "POST", "/", "body", idem, "k")
			done <- r
		}()
		<-g.begun
		r := s.post(t, "/", "body", idem, "k")
		wantProblem(t, r, 409, coordhttp.KindInProgress)
		if r.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
		}
		close(g.release)
		if first := <-done; first == nil || first.status != 201 {
			t.Errorf("the first: %+v", first)
		}
	})
}

func TestWaiting(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		g := newGate()
		c := p.coordinator(t)
		tenant := unique(t)
		as := coordhttp.Tenant(func(*http.Request) (string, error) { return tenant, nil })
		patient, hasty := serveAs(t, c, g, as, coordhttp.Wait(20*time.Second)), serveAs(t, c, g, as, coordhttp.Wait(50*time.Millisecond))
		replies := make(chan *reply, 2)
		for range 2 {
			go func() {
				r, _ := patient.send(t.Context(), "POST", "/", "body", idem, "k")
				replies <- r
			}()
		}
		<-g.begun
		wantProblem(t, hasty.post(t, "/", "body", idem, "k"), 409, coordhttp.KindInProgress)
		close(g.release)
		for range 2 {
			if r := <-replies; r == nil || r.status != 201 || r.body != "run 1" {
				t.Errorf("%+v", r)
			}
		}
	})
}

// Two hundred at once: one runs; the others get its answer, or are told to come again.
func TestManyDuplicates(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		for name, wait := range map[string]time.Duration{"waiting": time.Minute, "not": 0} {
			t.Run(name, func(t *testing.T) {
				g := newGate()
				s := serve(t, p.coordinator(t, coordinator.WithTimeout(time.Minute)), g, coordhttp.Wait(wait)) // miniredis runs one script at a time
				replies := make(chan *reply, 200)
				var all sync.WaitGroup
				for range 200 {
					all.Go(func() {
						r, err := s.send(t.Context(), "POST", "/", "body", idem, "k")
						if err != nil {
							t.Error(err)
							return
						}
						replies <- r
					})
				}
				<-g.begun
				if wait == 0 {
					eventually(t, "199 are refused", func() bool { return s.seen()[string(coordhttp.KindInProgress)] == 199 })
				}
				close(g.release)
				all.Wait()
				close(replies)
				counts := map[string]int{}
				for r := range replies {
					what := r.body
					if r.status != 201 {
						what = r.kind()
					}
					counts[fmt.Sprint(r.status, " ", what, " ", r.header.Get("X-Run"), " ", r.header.Get("Idempotency-Replayed"))]++
				}
				if want := map[string]int{"201 run 1 1 ": 1, "201 run 1 1 true": 199}; wait > 0 && fmt.Sprint(counts) != fmt.Sprint(want) {
					t.Errorf("%v; want %v", counts, want)
				}
				if want := map[string]int{"201 run 1 1 ": 1, "409 in-progress  ": 199}; wait == 0 && fmt.Sprint(counts) != fmt.Sprint(want) {
					t.Errorf("%v; want %v", counts, want)
				}
				if g.runs.Load() != 1 {
					t.Errorf("ran %d times", g.runs.Load())
				}
			})
		}
	})
}

func TestKeyExpired(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		var runs atomic.Int64
		old := "01000000-0000-7000-8000-000000000000" // of 2004
		wantProblem(t, serve(t, c, counted(&runs, 201)).post(t, "/", "body", idem, old), 422, coordhttp.KindKeyExpired)
		if runs.Load() != 0 {
			t.Error("the handler ran")
		}
		if r := serve(t, c, counted(&runs, 201), coordhttp.AnyAge()).post(t, "/", "body", idem, old); r.status != 201 {
			t.Errorf("AnyAge: %+v", r)
		}
		young, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		if r := serve(t, c, counted(&runs, 201)).post(t, "/", "body", idem, young.String()); r.status != 201 {
			t.Errorf("a key of now: %+v", r)
		}
	})
}

// Redis dies while a handler works: its client gets the answer, marked, and those who come later are refused, or let through where that was
// asked for.
func TestRedisAway(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t, coordinator.WithTimeout(2*time.Second))
		if err := c.Load(t.Context()); err != nil { // and so have connections
			t.Fatal(err)
		}
		g, tenant := newGate(), unique(t)
		as := coordhttp.Tenant(func(*http.Request) (string, error) { return tenant, nil })
		closed, open := serveAs(t, c, g, as), serveAs(t, c, g, as, coordhttp.PassWhenUnavailable())
		done := make(chan *reply, 1)
		go func() {
			r, _ := closed.send(context.Background(), "POST", "/", "body", idem, "k")
			done <- r
		}()
		within(t, 20*time.Second, "the handler runs", g.begun)
		p.kill(t)
		close(g.release)
		if r := within(t, 20*time.Second, "its answer", done); r == nil || r.status != 201 || r.body != "run 1" || r.header.Get("Idempotency-Unstored") != "true" {
			t.Errorf("the answer of work that could not be stored: %+v", r)
		}
		r := closed.post(t, "/", "body", idem, "l")
		wantProblem(t, r, 503, coordhttp.KindUnavailable)
		if r.header.Get("Retry-After") == "" || g.runs.Load() != 1 {
			t.Errorf("Retry-After %q, ran %d times", r.header.Get("Retry-After"), g.runs.Load())
		}
		if r := open.post(t, "/", "body", idem, "l"); r.status != 201 || r.header.Get("Idempotency-Unprotected") != "true" {
			t.Errorf("let through: %+v", r)
		}
		if closed.seen()[coordhttp.OutcomeUnstored] != 1 || open.seen()[coordhttp.OutcomeUnprotected] != 1 {
			t.Errorf("outcomes %v, %v", closed.seen(), open.seen())
		}
	})
}

// A process dies amid its work, as far as Redis can tell: its coordinator is closed, and the lease lapses.
func TestLapsed(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		for name, quarantine := range map[string]bool{"quarantine": true, "takeover": false} {
			t.Run(name, func(t *testing.T) {
				dying, c := p.coordinator(t, coordinator.WithLease(200*time.Millisecond)), p.coordinator(t)
				tenant := unique(t)
				opts := []coordhttp.Option{coordhttp.Tenant(func(*http.Request) (string, error) { return tenant, nil })}
				if quarantine {
					opts = append(opts, coordhttp.Quarantine())
				}
				g := newGate()
				first, second := serveAs(t, dying, g, opts...), serveAs(t, c, g, opts...)
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					_, _ = first.send(t.Context(), "POST", "/", "body", idem, "k")
				}()
				work := <-g.begun
				_ = dying.Close()
				<-work.Done()
				var r *reply
				close(g.release)
				eventually(t, "the lease lapses", func() bool {
					r = second.post(t, "/", "body", idem, "k")
					return r.kind() != string(coordhttp.KindInProgress)
				})
				<-gone
				if !quarantine {
					if r.status != 201 || r.body != "run 2" {
						t.Errorf("%+v", r)
					}
					return
				}
				wantProblem(t, r, 409, coordhttp.KindUncertain)
				if g.runs.Load() != 1 {
					t.Errorf("ran %d times", g.runs.Load())
				}
			})
		}
	})
}

// What cannot be replayed, and what an operator has put in an answer's place.
func TestOtherOutcomes(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		for name, handler := range map[string]http.HandlerFunc{
			"streamed": func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() },
			"too long": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "text") },
		} {
			s := serve(t, c, handler, coordhttp.MaxAnswer(3), coordhttp.DescribedBy("https://example.com/policy"))
			s.post(t, "/", "", idem, "k")
			again := s.post(t, "/", "", idem, "k")
			if wantProblem(t, again, 409, coordhttp.KindNotReplayable); again.header.Get("Link") != `<https://example.com/policy>; rel="describedby"` {
				t.Errorf("%s: %v", name, again.header)
			}
		}
		brief := p.coordinator(t, coordinator.WithLease(200*time.Millisecond), coordinator.WithMaxLifetime(200*time.Millisecond))
		for name, settled := range map[string]struct {
			with   coordinator.Resolution
			status int
			kind   coordhttp.Kind
		}{
			"failed":          {coordinator.Resolution{Failed: true}, 409, coordhttp.KindSettledAsFailed},
			"none":            {coordinator.Resolution{Payload: []byte("receipt 17")}, 500, coordhttp.KindAnswerUnreadable},
			"a newer version": {coordinator.Resolution{Payload: []byte("2pk")}, 500, coordhttp.KindAnswerUnreadable},
		} {
			t.Run(name, func(t *testing.T) {
				var key coordinator.Key
				s := serve(t, brief, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					key, _ = coordhttp.KeyFrom(r.Context())
					<-r.Context().Done() // the end of its longest lease
				}), coordhttp.Quarantine(), coordhttp.Problems(func(w http.ResponseWriter, r *http.Request, p coordhttp.Problem) {
					w.Header().Set("X-Kind", string(p.Kind))
					coordhttp.WriteProblem(w, r, p)
				}))
				wantProblem(t, s.post(t, "/", "", idem, "k"), 409, coordhttp.KindUncertain)
				eventually(t, "it is settled", func() bool {
					err := c.Resolve(t.Context(), key, settled.with)
					if err != nil && !errors.Is(err, coordinator.ErrInProgress) {
						t.Fatal(err)
					}
					return err == nil
				})
				r := s.post(t, "/", "", idem, "k")
				if wantProblem(t, r, settled.status, settled.kind); r.header.Get("X-Kind") != string(settled.kind) {
					t.Errorf("%v", r.header)
				}
			})
		}
	})
}

// What each status does: kept and replayed, or released.
func TestStatuses(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		for status, kept := range map[int][2]bool{
			200: {true, true}, 204: {true, true}, 303: {true, true}, 400: {true, true}, 404: {true, true}, 422: {true, true},
			408: {false, true}, 409: {false, true}, 423: {false, true}, 425: {false, true}, 429: {false, true}, 500: {false, true}, 503: {false, true},
		} {
			for i, profile := range []coordhttp.Profile{coordhttp.Draft07(), coordhttp.Stripe()} {
				var runs atomic.Int64
				s := serve(t, c, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					runs.Add(1)
					w.WriteHeader(status)
				}), coordhttp.WithProfile(profile))
				first, err := s.once(t, "k")
				if err != nil {
					t.Fatal(err)
				}
				again, err := s.once(t, "k")
				if err != nil {
					t.Fatal(err)
				}
				replayed := again.header.Get(profile.ReplayedHeader) == "true"
				if first.status != status || again.status != status || replayed != kept[i] || (runs.Load() == 1) != kept[i] {
					t.Errorf("profile %d, %d: then %d, replayed %v, ran %d times", i, first.status, again.status, replayed, runs.Load())
				}
			}
		}
	})
}

// once sends without following redirects.
func (s *site) once(t testing.TB, key string) (*reply, error) {
	request, err := http.NewRequestWithContext(t.Context(), "POST", s.url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(idem, key)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	return &reply{status: response.StatusCode, header: response.Header}, response.Body.Close()
}

// A handler that knows that nothing took place says so, whatever it answers.
func TestReleaseKey(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		s := serve(t, p.coordinator(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if runs.Add(1) == 1 {
				coordhttp.ReleaseKey(r.Context())
			}
			w.WriteHeader(http.StatusBadGateway)
		}), coordhttp.WithProfile(coordhttp.Stripe()))
		for range 3 {
			if r := s.post(t, "/", "", idem, "k"); r.status != 502 {
				t.Errorf("%+v", r)
			}
		}
		if seen := s.seen(); runs.Load() != 2 || seen[coordhttp.OutcomeReleased] != 1 || seen[coordhttp.OutcomeReplayed] != 1 {
			t.Errorf("ran %d times, %v", runs.Load(), seen)
		}
		coordhttp.ReleaseKey(t.Context())
	})
}

func TestStripe(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		s := serve(t, p.coordinator(t), counted(&runs, 500), coordhttp.WithProfile(coordhttp.Stripe()))
		first, again := s.post(t, "/", "body", idem, "k"), s.post(t, "/", "body", idem, "k")
		if first.status != 500 || again.status != 500 || again.body != first.body || again.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%+v, then %+v", first, again)
		}
		wantProblem(t, s.post(t, "/", "other", idem, "k"), 400, coordhttp.KindKeyReused)
	})
}
