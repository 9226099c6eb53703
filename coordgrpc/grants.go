package coordgrpc

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/highest"
)

// GrantGuard is what [RequireGrant] works with.
type GrantGuard struct {
	// Redis remembers the highest grant of each resource. It need not be the coordinator's.
	Redis redis.UniversalClient
	// Resource says what a call writes to; it must be what the grants are for, the coordinator.Key.Resource, or the key itself.
	// The request of a stream is nil, as none has come yet.
	Resource func(ctx context.Context, fullMethod string, req any) (string, error)
	// Prefix of the keys in Redis; empty is "coordgrant".
	Prefix string
	// Remember is how long a resource's highest grant is known after its last call; 0 is a week. It must be longer than any
	// lease may live.
	Remember time.Duration
}

// Guard makes the interceptors of a service that is written to.
type Guard struct {
	resource func(context.Context, string, any) (string, error)
	marks    *highest.Marks
}

// RequireGrant makes interceptors that refuse calls without a grant, and with one that is lower than the highest that they have seen
// for the resource, or as high and another owner's ([ReasonGrantStale]). The handler's context carries the grant. A call that
// was let in is not stopped by a higher grant that comes while it runs: what the handler writes is best fenced where it is
// written. (P3) Its errors are coordinator.ErrInvalid.
func RequireGrant(g GrantGuard) (*Guard, error) {
	if g.Resource == nil {
		return nil, invalid(errors.New("GrantGuard needs Redis and Resource"))
	}
	marks, err := highest.New(g.Redis, g.Prefix, g.Remember)
	if err != nil {
		return nil, invalid(err)
	}
	return &Guard{resource: g.Resource, marks: marks}, nil
}

// Unary is the interceptor of unary methods.
func (g *Guard) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		grant, err := g.admit(ctx, info.FullMethod, req)
		if err != nil {
			return nil, err
		}
		return handler(coordinator.ContextWithGrant(ctx, grant), req)
	}
}

// Stream is the interceptor of streams; it looks at their grant when they begin.
func (g *Guard) Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		grant, err := g.admit(stream.Context(), info.FullMethod, nil)
		if err != nil {
			return err
		}
		return handler(srv, &granted{stream, coordinator.ContextWithGrant(stream.Context(), grant)})
	}
}

// granted is a stream whose context carries the grant.
type granted struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the stream's.
func (s *granted) Context() context.Context { return s.ctx }

func (g *Guard) admit(ctx context.Context, method string, req any) (grant coordinator.Grant, err error) {
	values := metadata.ValueFromIncomingContext(ctx, GrantMetadata)
	if len(values) == 0 {
		return grant, refusal{reason: ReasonGrantMissing, detail: "send the grant of the work at hand in " + GrantMetadata}.status(ctx)
	}
	grant, err = coordinator.ParseGrant(values[0])
	if err != nil || len(values) > 1 {
		return grant, refusal{reason: ReasonGrantMalformed, detail: "send one grant, <token>.<owner>"}.status(ctx)
	}
	resource, err := g.resource(ctx, method, req)
	if err != nil || resource == "" {
		return grant, refusal{reason: ReasonResourceUnknown}.status(ctx)
	}
	err = g.marks.Admit(ctx, resource, int64(grant.Token), grant.Owner)
	switch {
	case err == nil:
		return grant, nil
	case errors.Is(err, highest.ErrAhead):
		return grant, refusal{reason: ReasonGrantMalformed, detail: "the token is more than a day ahead of the clock, so nobody was granted it; send the grant of the work at hand"}.status(ctx)
	case errors.Is(err, highest.ErrStale):
		return grant, refusal{reason: ReasonGrantStale, detail: "somebody else has taken over since; stop this work"}.status(ctx)
	case ctx.Err() != nil:
		return grant, refusal{reason: ReasonGone}.status(ctx)
	}
	return grant, refusal{reason: ReasonUnavailable, detail: "send the call again", after: retrySoon}.status(ctx)
}
