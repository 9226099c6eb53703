package coordhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

func owner(c string) string { return strings.Repeat(c, 32) }

// guarded is a service that asks for grants, which answers with the token that its handler sees.
func guarded(t *testing.T, rdb redis.UniversalClient) *site {
	t.Helper()
	require, err := coordhttp.RequireGrant(coordhttp.GrantGuard{Redis: rdb, Prefix: unique(t), Resource: func(r *http.Request) (string, error) {
		if r.URL.Path == "/nobody" {
			return "", errNobody
		}
		return r.URL.Path, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, _ := coordinator.GrantFrom(r.Context())
		fmt.Fprint(w, g.Token)
	})))
	t.Cleanup(server.Close)
	return &site{url: server.URL}
}

func TestRequireGrant(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		rdb := p.client()
		t.Cleanup(func() { _ = rdb.Close() })
		s := guarded(t, rdb)
		a, b := owner("a"), owner("b")
		high := fmt.Sprint(time.Now().Add(23 * time.Hour).UnixMicro())
		wantProblem(t, s.post(t, "/x", ""), 428, coordhttp.KindGrantMissing)
		wantProblem(t, s.post(t, "/x", "", coordhttp.GrantHeader, "7"), 400, coordhttp.KindGrantMalformed)
		wantProblem(t, s.post(t, "/x", "", coordhttp.GrantHeader, "7."+a, coordhttp.GrantHeader, "7."+a), 400, coordhttp.KindGrantMalformed)
		wantProblem(t, s.post(t, "/nobody", "", coordhttp.GrantHeader, "7."+a), 403, coordhttp.KindTenantUnknown)
		for _, c := range []struct {
			path, grant string
			stale       bool
		}{
			{"/x", "7." + a, false},
			{"/x", "7." + a, false}, // again
			{"/x", "7." + b, true},  // as high, another owner's
			{"/x", "10." + b, false},
			{"/x", "9." + a, true},
			{"/x", "7." + a, true},
			{"/y", "1." + a, false}, // another resource
			{"/x", high + "." + a, false},
			{"/x", "10." + b, true},
		} {
			r := s.post(t, c.path, "", coordhttp.GrantHeader, c.grant)
			if c.stale {
				wantProblem(t, r, 412, coordhttp.KindGrantStale)
			} else if token, _, _ := strings.Cut(c.grant, "."); r.status != 200 || r.body != token {
				t.Errorf("%s of %s: %+v", c.path, c.grant, r)
			}
		}
		// What nobody was granted shuts nobody out.
		for _, token := range []string{"9007199254740991", fmt.Sprint(time.Now().Add(25 * time.Hour).UnixMicro())} {
			wantProblem(t, s.post(t, "/z", "", coordhttp.GrantHeader, token+"."+b), 400, coordhttp.KindGrantMalformed)
		}
		if r := s.post(t, "/z", "", coordhttp.GrantHeader, "7."+a); r.status != 200 {
			t.Errorf("after tokens that are ahead: %+v", r)
		}
		p.kill(t)
		wantProblem(t, s.post(t, "/x", "", coordhttp.GrantHeader, high+"."+a), 503, coordhttp.KindUnavailable)
	})
}

func TestMarksAreForgotten(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		rdb, prefix := p.client(), unique(t)
		t.Cleanup(func() { _ = rdb.Close() })
		require, err := coordhttp.RequireGrant(coordhttp.GrantGuard{Redis: rdb, Prefix: prefix, Remember: time.Hour, Resource: func(*http.Request) (string, error) { return "r", nil }})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set(coordhttp.GrantHeader, "7."+owner("a"))
		require(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
		names := []string{}
		var mu sync.Mutex
		each := func(ctx context.Context, rdb *redis.Client) error {
			found, err := rdb.Keys(ctx, prefix+"*").Result()
			mu.Lock()
			defer mu.Unlock()
			names = append(names, found...)
			return err
		}
		var failed error
		if cluster, is := rdb.(*redis.ClusterClient); is {
			failed = cluster.ForEachMaster(t.Context(), each)
		} else {
			failed = each(t.Context(), rdb.(*redis.Client))
		}
		if failed != nil {
			t.Fatal(failed)
		}
		if len(names) != 1 {
			t.Fatalf("keys %q", names)
		}
		if ttl := rdb.PTTL(t.Context(), names[0]).Val(); ttl <= 59*time.Minute || ttl > time.Hour {
			t.Errorf("it stays for %v", ttl)
		}
	})
}

func TestGuardsThatAreNone(t *testing.T) {
	resource := func(*http.Request) (string, error) { return "r", nil }
	rdb := redis.NewClient(&redis.Options{})
	t.Cleanup(func() { _ = rdb.Close() })
	for name, g := range map[string]coordhttp.GrantGuard{
		"no Redis": {Resource: resource}, "no resource": {Redis: rdb}, "forgetful": {Redis: rdb, Resource: resource, Remember: time.Second},
	} {
		if _, err := coordhttp.RequireGrant(g); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGrantTransport(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Values(coordhttp.GrantHeader) }))
	t.Cleanup(server.Close)
	g := coordinator.Grant{Token: 7, Owner: owner("a")}
	ctx := coordinator.ContextWithGrant(t.Context(), g)
	for name, c := range map[string]struct {
		transport *coordhttp.GrantTransport
		plain     bool
		bare      bool
		own       string
		want      string
	}{
		"sent":            {transport: &coordhttp.GrantTransport{}, want: "[" + g.String() + "]"},
		"none to send":    {transport: &coordhttp.GrantTransport{}, plain: true, want: "[]"},
		"its own":         {transport: &coordhttp.GrantTransport{}, own: "own", want: "[own]"},
		"no header":       {transport: &coordhttp.GrantTransport{}, bare: true, want: "[" + g.String() + "]"},
		"not for strange": {transport: &coordhttp.GrantTransport{To: func(*http.Request) bool { return false }}, want: "[]"},
	} {
		request, err := http.NewRequestWithContext(ctx, "POST", server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.plain {
			request = request.WithContext(t.Context())
		}
		if c.own != "" {
			request.Header.Set(coordhttp.GrantHeader, c.own)
		}
		if c.bare {
			request.Header = nil
		}
		before := len(request.Header)
		response, err := c.transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if fmt.Sprint(got) != c.want || len(request.Header) != before {
			t.Errorf("%s: %v; want %s", name, got, c.want)
		}
	}
}
