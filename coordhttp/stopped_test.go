package coordhttp_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/coordtest"
)

// A handler that loses its lease amid its work and stops has no outcome: in quarantine nobody runs it again, otherwise a retry does.
func TestHandlerStopsWithoutItsLease(t *testing.T) {
	for name, c := range map[string]struct {
		then       func(w http.ResponseWriter)
		opts       []coordhttp.Option
		first      int // 0: the connection ends
		quarantine bool
	}{
		"an error":                        {then: func(w http.ResponseWriter) { w.WriteHeader(504) }, first: 504},
		"an error, quarantine":            {then: func(w http.ResponseWriter) { w.WriteHeader(504) }, first: 409, quarantine: true},
		"a streamed error, quarantine":    {then: func(w http.ResponseWriter) { w.WriteHeader(504); w.(http.Flusher).Flush() }, first: 504, quarantine: true},
		"a panic, quarantine":             {then: func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, quarantine: true},
		"silence":                         {then: func(http.ResponseWriter) {}, first: 503},
		"silence, quarantine":             {then: func(http.ResponseWriter) {}, first: 409, quarantine: true},
		"silence, detached":               {then: func(http.ResponseWriter) {}, first: 503, opts: []coordhttp.Option{coordhttp.DetachHandler()}},
		"silence, detached in quarantine": {then: func(http.ResponseWriter) {}, first: 409, quarantine: true, opts: []coordhttp.Option{coordhttp.DetachHandler()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.quarantine {
				c.opts = append(c.opts, coordhttp.Quarantine())
			}
			env := coordtest.New(t, coordinator.WithLease(300*time.Millisecond), coordinator.WithMaxLifetime(300*time.Millisecond))
			var runs atomic.Int64
			s := serve(t, env.Coordinator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if runs.Add(1) == 1 {
					<-r.Context().Done()
					c.then(w)
				}
			}), c.opts...)
			if r, err := s.once(t, "k"); (err == nil) != (c.first > 0) || err == nil && r.status != c.first {
				t.Errorf("%+v, %v", r, err)
			}
			env.Advance(time.Second)
			var again *reply
			eventually(t, "the lease lapses", func() bool {
				again = s.post(t, "/", "", idem, "k")
				return again.kind() != string(coordhttp.KindInProgress)
			})
			if c.quarantine {
				wantProblem(t, again, 409, coordhttp.KindUncertain)
			} else if again.status != 200 || runs.Load() != 2 {
				t.Errorf("%+v, ran %d times", again, runs.Load())
			}
		})
	}
}

// What a handler that has finished and written nothing means when its client has gone: a header says that it is done, and so does
// its silence where it is detached. See [TestSilenceOfAClientThatHasGone] for the rest.
func TestFinishedWithoutAClient(t *testing.T) {
	for name, c := range map[string]struct {
		then func(w http.ResponseWriter)
		opts []coordhttp.Option
	}{
		"a header":          {then: func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }},
		"silence, detached": {then: func(http.ResponseWriter) {}, opts: []coordhttp.Option{coordhttp.DetachHandler()}},
	} {
		t.Run(name, func(t *testing.T) {
			begun, left, gone := make(chan struct{}, 2), make(chan struct{}), make(chan struct{})
			var runs atomic.Int64
			s := serve(t, coordtest.New(t).Coordinator, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				runs.Add(1)
				begun <- struct{}{}
				<-left
				c.then(w)
			}), c.opts...)
			ctx, leave := context.WithCancel(t.Context())
			go func() {
				defer close(gone)
				_, _ = s.send(ctx, "POST", "/", "", idem, "k")
			}()
			within(t, 20*time.Second, "the handler runs", begun)
			leave()
			<-gone
			close(left)
			eventually(t, "it is stored", func() bool { return s.seen()[coordhttp.OutcomeExecuted] == 1 })
			if r := s.post(t, "/", "", idem, "k"); r.status != 200 || r.header.Get("Idempotency-Replayed") != "true" || runs.Load() != 1 {
				t.Errorf("%+v, ran %d times", r, runs.Load())
			}
		})
	}
}
