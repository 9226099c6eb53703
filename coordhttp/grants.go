package coordhttp

import (
	"errors"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/highest"
)

// GrantHeader carries a grant from a service that holds a lease to one that it calls: "<token>.<owner>". It is a credential.
const GrantHeader = "Fencing-Token"

// GrantTransport sends the grant of a request's context along, where it has one.
type GrantTransport struct {
	// Base sends the requests; nil is http.DefaultTransport.
	Base http.RoundTripper
	// To says which requests get the grant, such as those to one's own services; nil is all of them.
	To func(*http.Request) bool
}

// RoundTrip sends r with [GrantHeader]; a grant that r has in its header already stays.
func (t *GrantTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if g, there := coordinator.GrantFrom(r.Context()); there && len(r.Header.Values(GrantHeader)) == 0 && !redirected(r) && (t.To == nil || t.To(r)) {
		if r = r.Clone(r.Context()); r.Header == nil { // a RoundTripper leaves its request as it is
			r.Header = http.Header{}
		}
		r.Header.Set(GrantHeader, g.String())
	}
	return base(t.Base).RoundTrip(r)
}

// redirected says whether a request goes to another host than the one that was meant: a credential does not follow.
func redirected(r *http.Request) bool {
	first := r
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	return first.URL.Host != r.URL.Host
}

func base(b http.RoundTripper) http.RoundTripper {
	if b == nil {
		return http.DefaultTransport
	}
	return b
}

// GrantGuard is what [RequireGrant] works with.
type GrantGuard struct {
	// Redis remembers the highest grant of each resource. It need not be the coordinator's.
	Redis redis.UniversalClient
	// Resource says what a request writes to; it must be what the grants are for, the coordinator.Key.Resource, or the key itself.
	Resource func(*http.Request) (string, error)
	// Prefix of the keys in Redis; empty is "coordgrant".
	Prefix string
	// Remember is how long a resource's highest grant is known after its last request; 0 is a week. It must be longer than any
	// lease may live.
	Remember time.Duration
	// Problems, ProblemBase, DescribedBy are as the options of the same names; zero is the default.
	Problems                 ProblemWriter
	ProblemBase, DescribedBy string
}

// RequireGrant makes a middleware for the service that is written to: it refuses requests without a grant, and with one that is
// lower than the highest that it has seen for the resource, or as high and another owner's ([KindGrantStale]). The handler's
// context carries the grant. A request that was let in is not stopped by a higher grant that comes while it runs: what the
// handler writes is best fenced where it is written. (P3)
//
// It must stand behind authentication: a token proves nothing by itself, and who sends one that is higher than the holder's shuts the
// holder out until a later grant, for up to a day. A token that is further ahead of Redis' clock is refused.
func RequireGrant(g GrantGuard) (func(http.Handler) http.Handler, error) {
	if g.Resource == nil {
		return nil, invalid(errors.New("GrantGuard needs Redis and Resource"))
	}
	marks, err := highest.New(g.Redis, g.Prefix, g.Remember)
	if err != nil {
		return nil, invalid(err)
	}
	p := problems{base: defaultProblems, write: WriteProblem, described: g.DescribedBy}
	if g.ProblemBase != "" {
		p.base = g.ProblemBase
	}
	if g.Problems != nil {
		p.write = g.Problems
	}
	guard := &guard{GrantGuard: g, problems: p, marks: marks}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			grant, refused := guard.admit(r)
			if refused != nil {
				guard.answer(w, r, *refused)
				return
			}
			next.ServeHTTP(w, r.WithContext(coordinator.ContextWithGrant(r.Context(), grant)))
		})
	}, nil
}

type guard struct {
	GrantGuard
	problems
	marks *highest.Marks
}

func (g *guard) admit(r *http.Request) (coordinator.Grant, *Problem) {
	var grant coordinator.Grant
	values := r.Header.Values(GrantHeader)
	if len(values) == 0 {
		return grant, &Problem{Kind: KindGrantMissing, Detail: "Send the grant of the work at hand in a " + GrantHeader + " header."}
	}
	grant, err := coordinator.ParseGrant(values[0])
	if err != nil || len(values) > 1 {
		return grant, &Problem{Kind: KindGrantMalformed, Err: err, Detail: "Send one grant, <token>.<owner>."}
	}
	resource, err := g.Resource(r)
	if err != nil || resource == "" {
		return grant, &Problem{Kind: KindTenantUnknown, Err: err, Detail: "It cannot be told what the request writes to. Send it with the credentials of the account that it is for."}
	}
	switch err := g.marks.Admit(r.Context(), resource, int64(grant.Token), grant.Owner); {
	case err == nil:
		return grant, nil
	case errors.Is(err, highest.ErrAhead):
		return grant, &Problem{Kind: KindGrantMalformed, Err: err, Detail: "The token is more than a day ahead of the clock. Send the grant as it was made, and mend the clock that it came from."}
	case errors.Is(err, highest.ErrStale):
		return grant, &Problem{Kind: KindGrantStale, Detail: "Somebody else has taken over since: stop this work.", Err: err}
	default:
		return grant, &Problem{Kind: KindUnavailable, Err: err, RetryAfter: retrySoon, Detail: "Send the request again."}
	}
}
