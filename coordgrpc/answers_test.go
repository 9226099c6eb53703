package coordgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordgrpc"
	"github.com/onceward/coordinator/coordtest"
)

// A replay is the first answer, with its metadata, and a mark.
func TestReplay(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		s := serve(t, p.coordinator(t), func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			n := fmt.Sprint(runs.Add(1))
			for _, err := range []error{
				grpc.SetHeader(ctx, metadata.Pairs("x-run", n, "x-run", "again", "x-bin", "\x00\xff", "set-cookie", "session")),
				grpc.SetTrailer(ctx, metadata.Pairs("x-sum", n)),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if m, _ := grpc.Method(ctx); m != unaryCall {
				t.Errorf("the method is %q", m)
			}
			return said("run %s", n), nil
		})
		first := s.call(t, "a", idem, "k")
		wantRun(t, first, "run 1", false)
		if fmt.Sprint(first.header.Get("set-cookie")) != "[session]" {
			t.Errorf("the first caller's header: %v", first.header)
		}
		for range 2 {
			again := s.call(t, "a", idem, "k")
			wantRun(t, again, "run 1", true)
			for _, name := range []string{"x-run", "x-bin"} {
				if fmt.Sprint(again.header.Get(name)) != fmt.Sprint(first.header.Get(name)) || len(again.header.Get(name)) == 0 {
					t.Errorf("%s: %q, then %q", name, first.header.Get(name), again.header.Get(name))
				}
			}
			if fmt.Sprint(again.trailer.Get("x-sum")) != "[1]" || len(again.header.Get("set-cookie")) > 0 {
				t.Errorf("%v, %v", again.header, again.trailer)
			}
		}
		wantRun(t, s.call(t, "a", idem, "l"), "run 2", false)
		if got := fmt.Sprint(s.seen()); got != "map[executed:2 replayed:2]" {
			t.Error(got)
		}
	})
}

// A header that the handler sends at once is replayed too.
func TestHeaderSentAtOnce(t *testing.T) {
	s := serve(t, coordtest.New(t).Coordinator, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		if err := errors.Join(grpc.SetHeader(ctx, metadata.Pairs("x-a", "1")), grpc.SendHeader(ctx, metadata.Pairs("x-b", "2"))); err != nil {
			t.Error(err)
		}
		if grpc.SetHeader(ctx, metadata.Pairs("x-c", "3")) == nil {
			t.Error("a header after the header")
		}
		return said("done"), nil
	})
	for _, replayed := range []bool{false, true} {
		r := s.call(t, "", idem, "k")
		wantRun(t, r, "done", replayed)
		if fmt.Sprint(r.header.Get("x-a"), r.header.Get("x-b"), r.header.Get("x-c")) != "[1] [2] []" {
			t.Error(r.header)
		}
	}
}

// Each status of a handler: kept with its details and replayed, or released.
func TestStatuses(t *testing.T) {
	released := map[codes.Code]bool{
		codes.Unavailable: true, codes.DeadlineExceeded: true, codes.ResourceExhausted: true, codes.Aborted: true, codes.Internal: true, codes.Unknown: true,
	}
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
			var runs atomic.Int64
			s := serve(t, c, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
				n := runs.Add(1)
				_ = grpc.SetHeader(ctx, metadata.Pairs("x-run", fmt.Sprint(n)))
				_ = grpc.SetTrailer(ctx, metadata.Pairs("x-end", fmt.Sprint(n)))
				st, err := status.Newf(code, "run %d", n).WithDetails(&errdetails.ErrorInfo{Reason: "POOR", Domain: "bank"}, &errdetails.LocalizedMessage{Locale: "de", Message: "zu arm"})
				if err != nil {
					t.Error(err)
				}
				return nil, st.Err()
			})
			first, again := s.call(t, "", idem, "k"), s.call(t, "", idem, "k")
			if first.status.Code() != code || first.status.Message() != "run 1" || len(first.status.Details()) != 2 || first.replayed() {
				t.Errorf("%v: %v %v", code, first.err, first.header)
			}
			if released[code] {
				if again.status.Message() != "run 2" || again.replayed() || s.seen()[coordgrpc.OutcomeReleased] != 2 {
					t.Errorf("%v is not released: %v %v", code, again.err, s.seen())
				}
				continue
			}
			if !proto.Equal(first.status.Proto(), again.status.Proto()) || !again.replayed() || runs.Load() != 1 {
				t.Errorf("%v: %v, then %v %v", code, first.status.Proto(), again.status.Proto(), again.header)
			}
			if fmt.Sprint(again.header.Get("x-run"), again.trailer.Get("x-end")) != "[1] [1]" {
				t.Errorf("%v: %v %v", code, again.header, again.trailer)
			}
		}
	})
}

// Errors without a status are UNKNOWN, but for a context's; Store has the last word, and ReleaseKey before it.
func TestPolicies(t *testing.T) {
	c := coordtest.New(t).Coordinator
	for name, one := range map[string]struct {
		opts []coordgrpc.Option
		err  error
		code codes.Code
		runs int64
	}{
		"plain":               {err: errNobody, code: codes.Unknown, runs: 2},
		"a context's":         {err: fmt.Errorf("query: %w", context.DeadlineExceeded), code: codes.DeadlineExceeded, runs: 2},
		"cancelled elsewhere": {err: context.Canceled, code: codes.Canceled, runs: 1},
		"wrapped":             {err: fmt.Errorf("pay: %w", status.Error(codes.NotFound, "x")), code: codes.NotFound, runs: 1},
		"everything":          {opts: []coordgrpc.Option{coordgrpc.Store(func(codes.Code) bool { return true })}, err: errNobody, code: codes.Unknown, runs: 1},
		"nothing":             {opts: []coordgrpc.Option{coordgrpc.Store(func(codes.Code) bool { return false })}, err: status.Error(codes.NotFound, "x"), code: codes.NotFound, runs: 2},
	} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int64
			s := serve(t, c, func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
				runs.Add(1)
				return nil, one.err
			}, one.opts...)
			first, again := s.call(t, "", idem, "k"), s.call(t, "", idem, "k")
			if first.status.Code() != one.code || first.err.Error() != again.err.Error() || runs.Load() != one.runs || again.replayed() != (one.runs == 1) {
				t.Errorf("%v, then %v, ran %d times", first.err, again.err, runs.Load())
			}
		})
	}
	var runs atomic.Int64
	s := serve(t, c, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		coordgrpc.ReleaseKey(ctx)
		return said("run %d", runs.Add(1)), nil
	})
	s.call(t, "", idem, "k")
	wantRun(t, s.call(t, "", idem, "k"), "run 2", false)
	coordgrpc.ReleaseKey(t.Context()) // nothing to release
}

// A final status whose text is no UTF-8 is replayed as the first caller got it.
func TestStatusWithoutUTF8(t *testing.T) {
	s := serve(t, coordtest.New(t).Coordinator, func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		st, err := status.New(codes.NotFound, "no user \xff\xfe é").WithDetails(&errdetails.ErrorInfo{Reason: "POOR"})
		if err != nil {
			t.Error(err)
		}
		return nil, st.Err()
	})
	first, again := s.call(t, "", idem, "k"), s.call(t, "", idem, "k")
	if first.status.Code() != codes.NotFound || !proto.Equal(first.status.Proto(), again.status.Proto()) || !again.replayed() {
		t.Errorf("%v, then %v %v", first.status.Proto(), again.status.Proto(), again.header)
	}
}

func TestInProgress(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		g := newGate()
		s := serve(t, p.coordinator(t), g.handle)
		first := s.later(t.Context(), "", idem, "k")
		<-g.begun
		wantReason(t, s.call(t, "", idem, "k"), codes.Aborted, coordgrpc.ReasonInProgress)
		wantReason(t, s.call(t, "other", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonKeyReused)
		close(g.release)
		wantRun(t, <-first, "run 1", false)
		wantRun(t, s.call(t, "", idem, "k"), "run 1", true)
		wantReason(t, s.call(t, "other", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonKeyReused)
	})
}

// Of 200 calls at once one runs, and all have its answer.
func TestDuplicatesWait(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		g := newGate()
		s := serve(t, p.coordinator(t), g.handle, coordgrpc.Wait(15*time.Second))
		var answers []<-chan *reply
		for range 200 {
			answers = append(answers, s.later(t.Context(), "", idem, "k"))
		}
		<-g.begun
		close(g.release)
		replays := 0
		for _, answer := range answers {
			r := <-answer
			if r.err != nil || r.body != "run 1" {
				t.Errorf("%q, %v", r.body, r.err)
			}
			if r.replayed() {
				replays++
			}
		}
		if g.runs.Load() != 1 || replays != 199 {
			t.Errorf("ran %d times, %d replays", g.runs.Load(), replays)
		}
	})
}

// Who waits does so within its own deadline.
func TestWaitWithDeadline(t *testing.T) {
	g := newGate()
	s := serve(t, coordtest.New(t).Coordinator, g.handle, coordgrpc.Wait(time.Minute))
	first := s.later(t.Context(), "", idem, "k")
	<-g.begun
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r := s.send(ctx, "", idem, "k"); r.status.Code() != codes.DeadlineExceeded && r.status.Code() != codes.Aborted {
		t.Error(r.err)
	}
	close(g.release)
	<-first
	if g.runs.Load() != 1 {
		t.Errorf("ran %d times", g.runs.Load())
	}
}

// A UUIDv7 that is older than answers are kept is not run, and one of the future is none.
func TestKeysAge(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		var runs atomic.Int64
		c := p.coordinator(t)
		s, any := serve(t, c, counted(&runs)), serve(t, c, counted(&runs), coordgrpc.AnyAge())
		wantReason(t, s.call(t, "", idem, keyOf(-25*time.Hour)), codes.FailedPrecondition, coordgrpc.ReasonKeyExpired)
		wantReason(t, s.call(t, "", idem, keyOf(2*time.Hour)), codes.InvalidArgument, coordgrpc.ReasonKeyMalformed)
		wantRun(t, s.call(t, "", idem, keyOf(-23*time.Hour)), "run 1", false)
		wantRun(t, any.call(t, "", idem, keyOf(-25*time.Hour)), "run 2", false)
	})
}

// keyOf is a UUIDv7 that was made so long from now.
func keyOf(age time.Duration) string {
	id := uuid.Must(uuid.NewV7())
	ms := time.Now().Add(age).UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id.String()
}

// With Quarantine a run that lapsed is not taken over, until somebody says what became of it.
func TestQuarantine(t *testing.T) {
	env := coordtest.New(t)
	g := newGate()
	s := serve(t, env.Coordinator, g.handle, coordgrpc.Quarantine())
	first := s.later(t.Context(), "", idem, "k")
	<-g.begun
	env.Lapse(s.key("k"))
	wantReason(t, s.call(t, "", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonUncertain)
	if err := env.Coordinator.Resolve(t.Context(), s.key("k"), coordinator.Resolution{Failed: true}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, s.call(t, "", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonSettledAsFailed)
	close(g.release)
	wantReason(t, <-first, codes.FailedPrecondition, coordgrpc.ReasonSettledAsFailed)
}

// A handler that lost its lease and stops, or panics, does not free a key in quarantine: what it did is not known.
func TestQuarantineAfterALostLease(t *testing.T) {
	for name, panics := range map[string]bool{"it stops": false, "it panics": true} {
		t.Run(name, func(t *testing.T) {
			env := coordtest.New(t)
			var runs atomic.Int64
			begun := make(chan struct{}, 10)
			s := serve(t, env.Coordinator, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
				runs.Add(1)
				begun <- struct{}{}
				<-ctx.Done()
				if panics {
					panic("bug")
				}
				return nil, ctx.Err()
			}, coordgrpc.Quarantine(), coordgrpc.LeaseFor(300*time.Millisecond))
			first := s.later(t.Context(), "", idem, "k")
			<-begun
			env.Lapse(s.key("k"))
			if r := <-first; !panics && r.status.Code() != codes.Aborted {
				t.Error(r.err)
			}
			eventually(t, "the lease is over", func() bool { return env.Record(s.key("k")).LeaseRemaining <= 0 })
			wantReason(t, s.call(t, "", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonUncertain)
			if runs.Load() != 1 {
				t.Errorf("ran %d times", runs.Load())
			}
		})
	}
}

// What is stored and cannot be read is never run again.
func TestUnreadable(t *testing.T) {
	for name, stored := range map[string]string{
		"nothing":         "",
		"garbage":         "garbage",
		"a newer version": "2pr\x00\x00",
		"a newer kind":    "1px\x00\x00",
		"cut off":         "1pr\x00\x01",
		"an unknown type": "1pr\x00\x00\x0ano.Message",
		"no such message": "1pr\x00\x00\x00\xff",
		"not a message":   "1pr\x00\x00\x1bgrpc.testing.SimpleResponse\xff",
		"not a status":    "1ps\x00\x00\xff",
		"no error":        "1ps\x00\x00",
		"unkept and more": "1pu\x00\x00",
		"cut compression": "1z\x28\xb5",
	} {
		t.Run(name, func(t *testing.T) {
			env := coordtest.New(t)
			var runs atomic.Int64
			s := serve(t, env.Coordinator, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
				runs.Add(1)
				key, _ := coordgrpc.KeyFrom(ctx)
				grant, _ := coordinator.GrantFrom(ctx)
				lease, err := env.Coordinator.Resume(ctx, key, grant)
				if err == nil {
					err = lease.Complete(ctx, []byte(stored)) // as if it were ours
				}
				return said("done"), err
			})
			for range 2 {
				wantReason(t, s.call(t, "", idem, "k"), codes.Internal, coordgrpc.ReasonAnswerUnreadable)
			}
			if runs.Load() != 1 {
				t.Errorf("ran %d times", runs.Load())
			}
		})
	}
}

func TestResponseTypes(t *testing.T) {
	c := coordtest.New(t).Coordinator
	var runs atomic.Int64
	tenant := coordgrpc.SingleTenant()
	knows, not := serveAs(t, c, counted(&runs), tenant), serveAs(t, c, counted(&runs), tenant, coordgrpc.ResponseTypes(new(protoregistry.Types)))
	wantRun(t, not.call(t, "", idem, "k"), "run 1", false)
	wantReason(t, not.call(t, "", idem, "k"), codes.Internal, coordgrpc.ReasonAnswerUnreadable)
	wantRun(t, knows.call(t, "", idem, "k"), "run 1", true)
}

func TestEncryption(t *testing.T) {
	env := coordtest.New(t)
	var runs atomic.Int64
	ring := func(current string, keys ...string) coordgrpc.Option {
		e := coordgrpc.Encryption{Current: current, Keys: map[string][]byte{}}
		for _, key := range keys {
			name, text, _ := strings.Cut(key, "=")
			e.Keys[name] = []byte(strings.Repeat(text, 32))
		}
		return coordgrpc.Encrypt(e)
	}
	tenant := coordgrpc.SingleTenant()
	old, both := serveAs(t, env.Coordinator, counted(&runs), tenant, ring("a", "a=1")), serveAs(t, env.Coordinator, counted(&runs), tenant, ring("b", "a=1", "b=2"))
	none, wrong := serveAs(t, env.Coordinator, counted(&runs), tenant), serveAs(t, env.Coordinator, counted(&runs), tenant, ring("a", "a=3"))
	wantRun(t, old.call(t, "", idem, "k"), "run 1", false)
	wantRun(t, both.call(t, "", idem, "k"), "run 1", true)
	wantReason(t, none.call(t, "", idem, "k"), codes.Internal, coordgrpc.ReasonAnswerUnreadable)
	wantReason(t, wrong.call(t, "", idem, "k"), codes.Internal, coordgrpc.ReasonAnswerUnreadable)
	wantRun(t, both.call(t, "", idem, "l"), "run 2", false)
	wantReason(t, old.call(t, "", idem, "l"), codes.Internal, coordgrpc.ReasonAnswerUnreadable)
	wantRun(t, none.call(t, "", idem, "m"), "run 3", false)
	wantReason(t, both.call(t, "", idem, "m"), codes.Internal, coordgrpc.ReasonAnswerUnreadable)
	for _, entry := range env.Stored() {
		if strings.Contains(fmt.Sprint(entry), "run 1") {
			t.Errorf("it can be read: %v", entry)
		}
	}
}

// Large answers take effect once too: kept as long as they fit, compressed if that helps, and done without an answer otherwise.
func TestLargeAnswers(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t, coordinator.WithMaxPayload(10_000))
		long := strings.Repeat("long", 5000)
		var runs atomic.Int64
		answers := func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			runs.Add(1)
			return said("%s", long), nil
		}
		s := serve(t, c, answers)
		wantRun(t, s.call(t, "", idem, "k"), long, false)
		again := s.call(t, "", idem, "k")
		wantReason(t, again, codes.FailedPrecondition, coordgrpc.ReasonNotReplayable)
		if !strings.Contains(again.status.Proto().String(), `OK`) {
			t.Errorf("the code is not told: %v", again.status.Proto())
		}
		packs := serve(t, c, answers, coordgrpc.Compress(1000))
		wantRun(t, packs.call(t, "", idem, "k"), long, false)
		wantRun(t, packs.call(t, "", idem, "k"), long, true)
		if runs.Load() != 2 || s.seen()[coordgrpc.OutcomeUnkept] != 1 {
			t.Errorf("ran %d times, %v", runs.Load(), s.seen())
		}
		fails := serve(t, c, func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			st, err := status.New(codes.NotFound, "x").WithDetails(&errdetails.LocalizedMessage{Message: strings.Repeat("d", 12_000)})
			if err != nil {
				t.Error(err)
			}
			return nil, st.Err()
		})
		if r := fails.call(t, "", idem, "k"); r.status.Code() == codes.OK {
			t.Error("no error")
		}
		wantReason(t, fails.call(t, "", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonNotReplayable)
	})
}

// By default up to 1 MiB is kept of an answer, with what is written beside it.
func TestAnswersNearTheDefaultLimit(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.coordinator(t)
		for _, one := range []struct {
			size int
			kept bool
		}{{1<<20 - 200, true}, {1 << 20, false}} {
			var runs atomic.Int64
			s := serve(t, c, func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
				runs.Add(1)
				return said("%s", strings.Repeat("a", one.size)), nil
			})
			if r := s.call(t, "", idem, "k"); r.err != nil || len(r.body) != one.size {
				t.Errorf("%d bytes: %d, %v", one.size, len(r.body), r.err)
			}
			again := s.call(t, "", idem, "k")
			if one.kept && (again.err != nil || len(again.body) != one.size || !again.replayed()) {
				t.Errorf("%d bytes again: %d, %v", one.size, len(again.body), again.err)
			}
			if !one.kept {
				wantReason(t, again, codes.FailedPrecondition, coordgrpc.ReasonNotReplayable)
			}
			if runs.Load() != 1 {
				t.Errorf("ran %d times", runs.Load())
			}
		}
	})
}

// Requests up to gRPC's own limit are compared as a whole; what is over it does not come here.
func TestLargeRequests(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, counted(&runs))
	long := strings.Repeat("r", 4_000_000)
	wantRun(t, s.call(t, long, idem, "k"), "run 1", false)
	wantRun(t, s.call(t, long, idem, "k"), "run 1", true)
	wantReason(t, s.call(t, long[1:]+"s", idem, "k"), codes.FailedPrecondition, coordgrpc.ReasonKeyReused)
	if r := s.call(t, long+long, idem, "l"); r.status.Code() != codes.ResourceExhausted || runs.Load() != 1 {
		t.Errorf("%v, ran %d times", r.status.Code(), runs.Load())
	}
}
