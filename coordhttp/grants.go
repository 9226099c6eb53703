package coordhttp

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/keyname"
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
		r = r.Clone(r.Context()) // a RoundTripper leaves its request as it is
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
func RequireGrant(g GrantGuard) (func(http.Handler) http.Handler, error) {
	if g.Redis == nil || g.Resource == nil {
		return nil, invalid(errors.New("GrantGuard needs Redis and Resource"))
	}
	if g.Remember < 0 || g.Remember > 0 && g.Remember < time.Minute {
		return nil, invalid(fmt.Errorf("GrantGuard.Remember is longer than any lease may live, a minute at least, not %v", g.Remember))
	}
	if g.Remember == 0 {
		g.Remember = 7 * 24 * time.Hour
	}
	if g.Prefix == "" {
		g.Prefix = "coordgrant"
	}
	if strings.ContainsFunc(g.Prefix, func(c rune) bool { return c > '~' || !keyname.Plain(byte(c)) }) {
		return nil, invalid(fmt.Errorf("GrantGuard.Prefix takes letters, digits and -_. and not %q", g.Prefix))
	}
	p := problems{base: defaultProblems, write: WriteProblem, described: g.DescribedBy}
	if g.ProblemBase != "" {
		p.base = g.ProblemBase
	}
	if g.Problems != nil {
		p.write = g.Problems
	}
	guard := &guard{GrantGuard: g, problems: p, namer: keyname.Namer{Prefix: g.Prefix}, script: redis.NewScript(raise)}
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
	namer  keyname.Namer
	script *redis.Script
}

// raise keeps the highest grant, as 16 digits of its token and its owner; numbers of one length compare as text.
//
// KEYS[1] the mark, ARGV[1] the grant, ARGV[2] how long to remember it, ms. It returns nothing, or the mark that stands above.
const raise = `
local mark = redis.call('GET', KEYS[1])
if mark and #mark ~= 48 then return redis.error_reply('not a mark of grants: ' .. KEYS[1]) end
local token = string.sub(ARGV[1], 1, 16)
if mark and (string.sub(mark, 1, 16) > token or string.sub(mark, 1, 16) == token and mark ~= ARGV[1]) then return mark end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
`

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
		return grant, &Problem{Kind: KindTenantUnknown, Err: err}
	}
	name := g.namer.Names("", "", resource).Guard() + ":g" // no name of a coordinator's, whose prefix may be the same
	mark, err := g.script.Run(r.Context(), g.Redis, []string{name}, fmt.Sprintf("%016d%s", grant.Token, grant.Owner), g.Remember.Milliseconds()).Text()
	switch {
	case errors.Is(err, redis.Nil):
		return grant, nil
	case err != nil:
		return grant, &Problem{Kind: KindUnavailable, Err: err, RetryAfter: retrySoon, Detail: "Send the request again."}
	}
	return grant, &Problem{Kind: KindGrantStale, Detail: "Somebody else has taken over since: stop this work.", Err: fmt.Errorf("token %d against %.16s", grant.Token, mark)}
}
