package coordgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordgrpc"
	"github.com/onceward/coordinator/coordtest"
)

func owner(c string) string { return strings.Repeat(c, 32) }

// guarded is a service that asks for grants, which answers with the token that its handler sees.
func guarded(t *testing.T, rdb redis.UniversalClient) *site {
	t.Helper()
	require, err := coordgrpc.RequireGrant(coordgrpc.GrantGuard{Redis: rdb, Prefix: unique(t), Resource: func(_ context.Context, method string, req any) (string, error) {
		if req == nil {
			return method, nil
		}
		body := string(req.(*testpb.SimpleRequest).GetPayload().GetBody())
		if body == "nobody" {
			return "", errNobody
		}
		return body, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		g, _ := coordinator.GrantFrom(ctx)
		return said("%d", g.Token), nil
	}, grpc.UnaryInterceptor(require.Unary()), grpc.StreamInterceptor(require.Stream()))
	return &site{addr: addr, TestServiceClient: testpb.NewTestServiceClient(dial(t, addr))}
}

func TestRequireGrant(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		rdb := p.client()
		t.Cleanup(func() { _ = rdb.Close() })
		s := guarded(t, rdb)
		const token = coordgrpc.GrantMetadata
		a, b := owner("a"), owner("b")
		wantReason(t, s.call(t, "x"), codes.InvalidArgument, coordgrpc.ReasonGrantMissing)
		wantReason(t, s.call(t, "x", token, "7"), codes.InvalidArgument, coordgrpc.ReasonGrantMalformed)
		wantReason(t, s.call(t, "x", token, "7."+a, token, "7."+a), codes.InvalidArgument, coordgrpc.ReasonGrantMalformed)
		wantReason(t, s.call(t, "x", token, "9007199254740991."+a), codes.InvalidArgument, coordgrpc.ReasonGrantMalformed) // nobody was granted that
		soon := fmt.Sprint(time.Now().Add(time.Hour).UnixMicro())
		for _, nobody := range []string{"nobody", ""} {
			wantReason(t, s.call(t, nobody, token, "7."+a), codes.PermissionDenied, coordgrpc.ReasonResourceUnknown)
		}
		for _, c := range []struct {
			resource, grant string
			stale           bool
		}{
			{"x", "7." + a, false},
			{"x", "7." + a, false}, // again
			{"x", "7." + b, true},  // as high, another owner's
			{"x", "10." + b, false},
			{"x", "9." + a, true},
			{"y", "1." + a, false}, // another resource
			{"x", soon + "." + a, false},
			{"x", "10." + b, true},
		} {
			r := s.call(t, c.resource, token, c.grant)
			if c.stale {
				wantReason(t, r, codes.FailedPrecondition, coordgrpc.ReasonGrantStale)
			} else if want, _, _ := strings.Cut(c.grant, "."); r.err != nil || r.body != want {
				t.Errorf("%s of %s: %q, %v", c.grant, c.resource, r.body, r.err)
			}
		}
		for grant, want := range map[string]codes.Code{"": codes.InvalidArgument, "7." + a: codes.OK} {
			ctx := t.Context()
			if grant != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, token, grant)
			}
			stream, err := s.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&testpb.StreamingOutputCallRequest{}) // where it is refused the stream has ended
			resp, err := stream.Recv()
			if got := status.Code(err); got != want || want == codes.OK && string(resp.GetPayload().GetBody()) != "7" {
				t.Errorf("a stream with %q: %v, %v", grant, resp, err)
			}
			_ = stream.CloseSend()
			_, _ = stream.Recv()
		}
		p.kill(t)
		wantReason(t, s.call(t, "x", token, soon+"."+a), codes.Unavailable, coordgrpc.ReasonUnavailable)
	})
}

func TestGuardsThatAreNone(t *testing.T) {
	resource := func(context.Context, string, any) (string, error) { return "r", nil }
	rdb := redis.NewClient(&redis.Options{})
	t.Cleanup(func() { _ = rdb.Close() })
	for name, g := range map[string]coordgrpc.GrantGuard{
		"no Redis": {Resource: resource}, "no resource": {Redis: rdb}, "forgetful": {Redis: rdb, Resource: resource, Remember: time.Second},
		"a prefix": {Redis: rdb, Resource: resource, Prefix: "{a"},
	} {
		if _, err := coordgrpc.RequireGrant(g); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A client sends the grant of its context to those that it is for, on streams too.
func TestGrantsAreSent(t *testing.T) {
	g := coordinator.Grant{Token: 7, Owner: owner("a")}
	with := coordinator.ContextWithGrant(t.Context(), g)
	all := func(string, string) bool { return true }
	for name, c := range map[string]struct {
		ctx  context.Context
		to   func(target, method string) bool
		want string
	}{
		"by default":      {ctx: with},
		"to all":          {ctx: with, to: all, want: g.String()},
		"none to send":    {ctx: t.Context(), to: all},
		"its own":         {ctx: metadata.AppendToOutgoingContext(with, coordgrpc.GrantMetadata, "own"), to: all, want: "own"},
		"to this one":     {ctx: with, to: func(target, m string) bool { return strings.Contains(target, "127.0.0.1") && m == unaryCall }, want: g.String()},
		"not to this one": {ctx: with, to: func(target, _ string) bool { return !strings.Contains(target, "127.0.0.1") }},
	} {
		s := &script{answers: []error{nil}}
		if _, err := s.client(t, &coordgrpc.Client{GrantTo: c.to}).UnaryCall(c.ctx, &testpb.SimpleRequest{}); err != nil || s.grants[0] != c.want {
			t.Errorf("%s: %q, %v", name, s.grants, err)
		}
	}
	rdb := coordtest.New(t).Client
	s := guarded(t, rdb)
	client := testpb.NewTestServiceClient(dial(t, s.addr, grpc.WithStreamInterceptor((&coordgrpc.Client{GrantTo: all}).Stream())))
	stream, err := client.FullDuplexCall(with)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || string(resp.GetPayload().GetBody()) != "7" {
		t.Errorf("%v, %v", resp, err)
	}
	_ = stream.CloseSend()
	_, _ = stream.Recv()
}

// From one service to another: the handler's grant goes down, and that of a handler that was overtaken is refused there.
func TestGrantsBetweenServices(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		rdb := p.client()
		t.Cleanup(func() { _ = rdb.Close() })
		below := guarded(t, rdb)
		down := testpb.NewTestServiceClient(dial(t, below.addr, grpc.WithUnaryInterceptor((&coordgrpc.Client{GrantTo: func(string, string) bool { return true }}).Unary())))
		var late context.Context
		s := serve(t, p.coordinator(t), func(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			if late == nil {
				late = context.WithoutCancel(ctx)
			}
			return down.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte("account")}})
		}, coordgrpc.Resource(func(context.Context, string, any) string { return "account" }))
		for _, key := range []string{"k", "l"} {
			if r := s.call(t, "", idem, key); r.err != nil || r.body == "0" {
				t.Errorf("%q, %v", r.body, r.err)
			}
		}
		if _, err := down.UnaryCall(late, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte("account")}}); coordgrpc.ReasonOf(err) != coordgrpc.ReasonGrantStale {
			t.Errorf("the first one's grant, after the second's: %v", err)
		}
	})
}
