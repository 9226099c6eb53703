package coordhttp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/coordtest"
)

func TestOptionsThatAreNone(t *testing.T) {
	c := coordtest.New(t).Coordinator
	tenant := coordhttp.Tenant(func(*http.Request) (string, error) { return "t", nil })
	single := coordhttp.SingleTenant()
	for name, opts := range map[string][]coordhttp.Option{
		"no tenant":           {},
		"both tenants":        {tenant, single},
		"a tenant of nil":     {coordhttp.Tenant(nil)},
		"nil":                 {single, nil},
		"no methods":          {single, coordhttp.Methods()},
		"a small method":      {single, coordhttp.Methods("post")},
		"a header":            {single, coordhttp.Header("a b")},
		"a scope of nil":      {single, coordhttp.Scope(nil)},
		"a resource of nil":   {single, coordhttp.Resource(nil)},
		"a body of nothing":   {single, coordhttp.MaxBody(0)},
		"an answer, too long": {single, coordhttp.MaxAnswer(1 << 30)},
		"an empty profile":    {single, coordhttp.WithProfile(coordhttp.Profile{})},
		"a status":            {single, coordhttp.WithProfile(with(coordhttp.Draft07(), coordhttp.KindInProgress, 200))},
		"a kind":              {single, coordhttp.WithProfile(with(coordhttp.Draft07(), "no-such", 400))},
		"a negative wait":     {single, coordhttp.Wait(-1)},
		"a negative size":     {single, coordhttp.Compress(-1)},
		"a short key":         {single, coordhttp.Encrypt(coordhttp.Encryption{Current: "k", Keys: map[string][]byte{"k": []byte("short")}})},
		"no current key":      {single, coordhttp.Encrypt(coordhttp.Encryption{Current: "k"})},
		"a link":              {single, coordhttp.DescribedBy("a>b")},
		"a writer of nil":     {single, coordhttp.Problems(nil)},
		"an observer of nil":  {single, coordhttp.Observe(nil)},
		"a check of nil":      {single, coordhttp.ValidateKey(nil)},
		"print headers":       {single, coordhttp.FingerprintHeaders("")},
	} {
		if _, err := coordhttp.New(c, opts...); !errors.Is(err, coordinator.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := coordhttp.New(nil, single); !errors.Is(err, coordinator.ErrInvalid) {
		t.Errorf("no coordinator: %v", err)
	}
}

func with(p coordhttp.Profile, kind coordhttp.Kind, status int) coordhttp.Profile {
	p.Status = map[coordhttp.Kind]int{kind: status}
	return p
}

func TestWhatPassesThrough(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, counted(&runs, 200), coordhttp.RequireKey())
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE"} {
		for range 2 {
			if r, err := s.send(t.Context(), method, "/", "", idem, "k"); err != nil || r.status != 200 || r.header.Get("Idempotency-Replayed") != "" {
				t.Errorf("%s: %+v, %v", method, r, err)
			}
		}
	}
	if runs.Load() != 8 || s.seen()[coordhttp.OutcomePassed] != 8 {
		t.Errorf("ran %d times, %v", runs.Load(), s.seen())
	}
	only := serve(t, coordtest.New(t).Coordinator, counted(&runs, 200), coordhttp.Methods("POST"))
	if r, err := only.send(t.Context(), "PUT", "/", "", idem, `"`); err != nil || r.status != 200 {
		t.Errorf("a method that is not covered: %+v, %v", r, err)
	}
}

// One key of two tenants, on two routes, of two methods: different operations.
func TestKeysDoNotMeet(t *testing.T) {
	c := coordtest.New(t).Coordinator
	var runs atomic.Int64
	s := serveAs(t, c, counted(&runs, 200), coordhttp.Tenant(func(r *http.Request) (string, error) {
		switch name := r.Header.Get("X-Tenant"); name {
		case "nobody":
			return "", errNobody
		default:
			return name, nil
		}
	}))
	for _, call := range [][3]string{{"POST", "/a", "one"}, {"POST", "/a", "two"}, {"POST", "/b", "one"}, {"PUT", "/a", "one"}, {"POST", "/a/POST", "one"}, {"POST", "/a", "one/POST"}} {
		for i := range 2 {
			r, err := s.send(t.Context(), call[0], call[1], "", idem, "k", "X-Tenant", call[2])
			if err != nil || r.status != 200 || (r.header.Get("Idempotency-Replayed") == "true") != (i == 1) {
				t.Errorf("%v, time %d: %+v, %v", call, i, r, err)
			}
		}
	}
	if runs.Load() != 6 {
		t.Errorf("ran %d times", runs.Load())
	}
	for _, tenant := range []string{"nobody", ""} {
		wantProblem(t, s.post(t, "/a", "", idem, "k", "X-Tenant", tenant), 403, coordhttp.KindTenantUnknown)
	}
}

// Where a pattern has matched, it is the scope, and the path tells requests apart.
func TestScopes(t *testing.T) {
	c := coordtest.New(t).Coordinator
	once, err := coordhttp.New(c, coordhttp.SingleTenant())
	if err != nil {
		t.Fatal(err)
	}
	var runs atomic.Int64
	mux := http.NewServeMux()
	mux.Handle("POST /accounts/{id}/credits", once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		runs.Add(1)
		fmt.Fprint(w, r.PathValue("id"), r.Pattern)
	})))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s := &site{url: server.URL}
	if r := s.post(t, "/accounts/1/credits", "", idem, "k"); r.body != "1POST /accounts/{id}/credits" {
		t.Errorf("%+v", r)
	}
	wantProblem(t, s.post(t, "/accounts/2/credits", "", idem, "k"), 422, coordhttp.KindKeyReused)

	byHand := serve(t, c, counted(&runs, 200), coordhttp.Scope(func(*http.Request) string { return "everything" }), coordhttp.Header("X-Key"))
	byHand.post(t, "/a", "", "X-Key", "k")
	wantProblem(t, byHand.post(t, "/b", "", "X-Key", "k"), 422, coordhttp.KindKeyReused)
}

// Two tenants with one key do not meet, whatever else the scope is made of.
func TestTenantsOfAScope(t *testing.T) {
	c := coordtest.New(t).Coordinator
	tenant := coordhttp.Tenant(func(r *http.Request) (string, error) { return r.Header.Get("X-Tenant"), nil })
	for name, opts := range map[string][]coordhttp.Option{
		"pattern": {tenant},
		"Scope":   {tenant, coordhttp.Scope(func(*http.Request) string { return "all" })},
	} {
		t.Run(name, func(t *testing.T) {
			once, err := coordhttp.New(c, opts...)
			if err != nil {
				t.Fatal(err)
			}
			mux := http.NewServeMux()
			mux.Handle("POST /pay/{id}", once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Tenant")) })))
			server := httptest.NewServer(mux)
			t.Cleanup(server.Close)
			s := &site{url: server.URL}
			for i := range 2 {
				for _, tenant := range []string{"one", "two"} {
					r := s.post(t, "/pay/1", "", idem, "k", "X-Tenant", tenant)
					if r.body != tenant || (r.header.Get("Idempotency-Replayed") == "true") != (i == 1) {
						t.Errorf("%s, time %d: %+v", tenant, i, r)
					}
				}
			}
		})
	}
}

// Requests for two paths are two, also where they were made one before the middleware.
func TestRewrittenPaths(t *testing.T) {
	once, err := coordhttp.New(coordtest.New(t).Coordinator, coordhttp.SingleTenant())
	if err != nil {
		t.Fatal(err)
	}
	inner := once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.PathValue("id")) }))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /accounts/{id}/pay", func(w http.ResponseWriter, r *http.Request) {
		http.StripPrefix("/accounts/"+r.PathValue("id"), inner).ServeHTTP(w, r)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s := &site{url: server.URL}
	for range 2 {
		if r := s.post(t, "/accounts/1/pay", "", idem, "k"); r.body != "1" {
			t.Errorf("%+v", r)
		}
	}
	wantProblem(t, s.post(t, "/accounts/2/pay", "", idem, "k"), 422, coordhttp.KindKeyReused)
}

func TestFingerprint(t *testing.T) {
	c := coordtest.New(t).Coordinator
	var runs atomic.Int64
	plain := serve(t, c, counted(&runs, 200))
	same := serve(t, c, counted(&runs, 200), coordhttp.CanonicalJSON(), coordhttp.FingerprintHeaders("X-Version"))
	const asJSON, a, b = "application/json; charset=utf-8", `{"amount": 1.0, "to": "é"}`, "{\"to\":\"\\u00e9\",\n\"amount\":1}"
	for _, c := range []struct {
		name    string
		on      *site
		body    [2]string
		headers [2][]string
		reused  bool
	}{
		{"other order", plain, [2]string{a, b}, [2][]string{{"Content-Type", asJSON}, {"Content-Type", asJSON}}, true},
		{"other order, by content", same, [2]string{a, b}, [2][]string{{"Content-Type", asJSON}, {"Content-Type", asJSON}}, false},
		{"problem+json by content", same, [2]string{a, b}, [2][]string{{"Content-Type", "application/x+json"}, {"Content-Type", "application/x+json"}}, false},
		{"other content", same, [2]string{a, `{"amount":2,"to":"é"}`}, [2][]string{{"Content-Type", asJSON}, {"Content-Type", asJSON}}, true},
		{"not said to be JSON", same, [2]string{a, b}, [2][]string{}, true},
		{"not JSON", same, [2]string{"{", "{ "}, [2][]string{{"Content-Type", asJSON}, {"Content-Type", asJSON}}, true},
		{"another header", same, [2]string{"", ""}, [2][]string{{"X-Version", "1"}, {"X-Version", "2"}}, true},
		{"a header twice", same, [2]string{"", ""}, [2][]string{{"X-Version", "1", "X-Version", "2"}, {"X-Version", "1"}}, true},
		{"a header that does not matter", plain, [2]string{"", ""}, [2][]string{{"X-Version", "1"}, {"X-Version", "2"}}, false},
	} {
		key := strings.ReplaceAll(c.name, " ", "-")
		key = strings.ReplaceAll(key, ",", "")
		c.on.post(t, "/", c.body[0], append([]string{idem, key}, c.headers[0]...)...)
		if r := c.on.post(t, "/", c.body[1], append([]string{idem, key}, c.headers[1]...)...); (r.kind() == string(coordhttp.KindKeyReused)) != c.reused {
			t.Errorf("%s: %d %q", c.name, r.status, r.body)
		}
	}
}

func TestBodies(t *testing.T) {
	c := coordtest.New(t).Coordinator
	s := serve(t, c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || int64(len(body)) != r.ContentLength {
			t.Errorf("the handler got %d bytes of %d, %v", len(body), r.ContentLength, err)
		}
		_, _ = w.Write(body)
	}), coordhttp.MaxBody(100_000))
	long := strings.Repeat("b", 100_000)
	if r := s.post(t, "/", long, idem, "k"); r.body != long {
		t.Errorf("%d bytes came back", len(r.body))
	}
	wantProblem(t, s.post(t, "/", long+"b", idem, "l"), 413, coordhttp.KindBodyTooLarge)

	// Chunks have no length to refuse beforehand.
	chunked := func(body string) *reply {
		request, err := http.NewRequestWithContext(t.Context(), "POST", s.url, struct{ io.Reader }{strings.NewReader(body)})
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set(idem, "m")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return &reply{status: response.StatusCode, header: response.Header, body: string(text)}
	}
	wantProblem(t, chunked(long+"b"), 413, coordhttp.KindBodyTooLarge)
	if r := chunked(long); r.body != long {
		t.Errorf("%d bytes came back", len(r.body))
	}
}

// What no client that means well sends, byte by byte.
func TestRawRequests(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, counted(&runs, 200))
	for name, c := range map[string]struct {
		text string
		want string // what the answer begins with, or nothing: the connection ends
		runs int64
	}{
		"cut off":                    {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: a\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 400", 0},
		"chunks that lie":            {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: b\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc\r\n0\r\n\r\n", "HTTP/1.1 400", 0},
		"chunks that are none":       {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: c\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", "HTTP/1.1 400", 0},
		"two lengths":                {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: d\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "HTTP/1.1 400", 0},
		"length and chunks":          {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: e\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200", 1},
		"two keys":                   {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: f\r\nidempotency-key: g\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 400", 0},
		"NUL in the key":             {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"\x00\"\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 400", 0},
		"a key that is not UTF-8":    {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"\xff\xfe\"\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 400", 0},
		"a header of 10 MB":          {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: h\r\nX-Long: " + strings.Repeat("x", 10<<20) + "\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 431", 0},
		"a body of 10 MB":            {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: i\r\nContent-Length: 10485760\r\n\r\n" + strings.Repeat("x", 10<<20), "HTTP/1.1 413", 0},
		"a body that is not UTF-8":   {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: j\r\nContent-Length: 3\r\n\r\n\xff\xfe\x00", "HTTP/1.1 200", 1},
		"a header beyond all limits": {"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: " + strings.Repeat("k", 2<<20) + "\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 431", 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := runs.Load()
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.text); err == nil && c.runs == 0 { // a half-closed connection is a client that has gone
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			answer, _ := bufio.NewReader(conn).ReadString('\n')
			if !strings.HasPrefix(answer, c.want) && !(len(c.text) > 1<<20 && answer == "") || runs.Load()-before != c.runs {
				t.Errorf("%q, ran %d times", answer, runs.Load()-before)
			}
		})
	}
}

func TestKeysInQuotesOnly(t *testing.T) {
	var runs atomic.Int64
	s := serve(t, coordtest.New(t).Coordinator, counted(&runs, 200), coordhttp.QuotedOnly(), coordhttp.ValidateKey(coordhttp.UUIDOnly))
	id := "8e03978e-40d5-43dd-bc93-6894a57f9324"
	wantProblem(t, s.post(t, "/", "", idem, id), 400, coordhttp.KindKeyMalformed)
	wantProblem(t, s.post(t, "/", "", idem, `"k"`), 400, coordhttp.KindKeyMalformed)
	if r := s.post(t, "/", "", idem, `"`+id+`"`); r.status != 200 {
		t.Errorf("%+v", r)
	}
}

func TestProblems(t *testing.T) {
	c := coordtest.New(t).Coordinator
	var runs atomic.Int64
	r := serve(t, c, counted(&runs, 200), coordhttp.RequireKey(), coordhttp.ProblemBase("https://example.com/keys"), coordhttp.DescribedBy("https://example.com/policy")).post(t, "/", "")
	want := `{"type":"https://example.com/keys#key-missing","title":"An idempotency key is required","status":400,"detail":"Send the Idempotency-Key header, with a key that is unique to the operation, a UUIDv7 best."}` + "\n"
	if r.body != want || r.header.Get("Link") != `<https://example.com/policy>; rel="describedby"` {
		t.Errorf("%s %v", r.body, r.header)
	}
	own := serve(t, c, counted(&runs, 200), coordhttp.RequireKey(), coordhttp.WithProfile(with(coordhttp.Draft07(), coordhttp.KindKeyMissing, 428)),
		coordhttp.Problems(func(w http.ResponseWriter, _ *http.Request, p coordhttp.Problem) {
			w.WriteHeader(p.Status)
			fmt.Fprint(w, p.Kind)
		})).post(t, "/", "")
	if own.status != 428 || own.body != "key-missing" {
		t.Errorf("%+v", own)
	}
}

// One resource: one request at a time, and tokens that rise.
func TestResource(t *testing.T) {
	g := newGate()
	s := serve(t, coordtest.New(t).Coordinator, g, coordhttp.Resource(func(r *http.Request) string { return r.Header.Get("X-Account") }))
	done := make(chan *reply, 1)
	go func() {
		r, _ := s.send(t.Context(), "POST", "/", "", idem, "k", "X-Account", "1")
		done <- r
	}()
	work := <-g.begun
	first, _ := coordinator.GrantFrom(work)
	if key, there := coordhttp.KeyFrom(work); !there || key.ID != "k" || key.Resource != "1" {
		t.Errorf("the handler's key is %+v", key)
	}
	if key, there := coordhttp.KeyFrom(t.Context()); there {
		t.Errorf("without a request the key is %+v", key)
	}
	wantProblem(t, s.post(t, "/", "", idem, "l", "X-Account", "1"), 409, coordhttp.KindInProgress)
	close(g.release)
	<-done
	s.post(t, "/", "", idem, "l", "X-Account", "1")
	if second, there := coordinator.GrantFrom(<-g.begun); !there || second.Token <= first.Token {
		t.Errorf("token %d, then %d", first.Token, second.Token)
	}
}

// The client goes away while the handler works.
func TestClientLeaves(t *testing.T) {
	for name, detached := range map[string]bool{"detached": true, "not": false} {
		t.Run(name, func(t *testing.T) {
			opts := []coordhttp.Option{}
			if detached {
				opts = append(opts, coordhttp.DetachHandler())
			}
			g := newGate()
			s := serve(t, coordtest.New(t).Coordinator, g, opts...)
			ctx, leave := context.WithCancel(t.Context())
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				_, _ = s.send(ctx, "POST", "/", "", idem, "k")
			}()
			work := <-g.begun
			leave()
			<-gone
			if detached {
				if work.Err() != nil {
					t.Error("the work's context has ended")
				}
			} else {
				<-work.Done()
			}
			close(g.release)
			eventually(t, "the answer is stored", func() bool { return s.seen()[coordhttp.OutcomeExecuted] == 1 })
			if r := s.post(t, "/", "", idem, "k"); r.status != 201 || r.header.Get("Idempotency-Replayed") != "true" {
				t.Errorf("%+v", r)
			}
		})
	}
}

// The lease is lost while the handler works: its context ends, and its client gets the successor's answer.
func TestLeaseIsLost(t *testing.T) {
	for name, detached := range map[string]bool{"detached": true, "not": false} {
		t.Run(name, func(t *testing.T) {
			env := coordtest.New(t, coordinator.WithLease(300*time.Millisecond))
			opts := []coordhttp.Option{coordhttp.SingleTenant()}
			if detached {
				opts = append(opts, coordhttp.DetachHandler())
			}
			g := newGate()
			s, successor := serveAs(t, env.Coordinator, g, opts...), newGate()
			other := serveAs(t, env.Another(coordinator.WithLease(time.Minute)).Coordinator, successor, opts...)
			close(successor.release)
			done := make(chan *reply, 1)
			go func() {
				r, _ := s.send(t.Context(), "POST", "/", "", idem, "k")
				done <- r
			}()
			work := <-g.begun
			env.Lapse(coordinator.Key{Scope: coordinator.JoinScope("*", "POST", "/"), ID: "k"})
			if r := other.post(t, "/", "", idem, "k"); r.status != 201 {
				t.Errorf("the successor: %+v", r)
			}
			ended := time.NewTimer(10 * time.Second)
			defer ended.Stop()
			select {
			case <-work.Done():
			case <-ended.C:
			}
			if !errors.Is(context.Cause(work), coordinator.ErrLeaseLost) {
				t.Errorf("the work's context ended with %v", context.Cause(work))
			}
			close(g.release)
			if r := <-done; r == nil || r.status != 201 || r.header.Get("Idempotency-Replayed") != "true" {
				t.Errorf("the client of the one that lost: %+v", r)
			}
		})
	}
}

// A claim whose reply is lost is given back, so that the client's next try is not kept out.
func TestLostReplyDoesNotLockOut(t *testing.T) {
	env := coordtest.New(t, coordinator.WithTimeout(200*time.Millisecond))
	var runs atomic.Int64
	s := serve(t, env.Coordinator, counted(&runs, 201))
	for range 50 {
		env.DropNext("claim")
	}
	r := s.post(t, "/", "", idem, "k")
	if r.kind() != string(coordhttp.KindUnavailable) && r.status != 201 {
		t.Errorf("%+v", r)
	}
	eventually(t, "the key is free", func() bool { return s.post(t, "/", "", idem, "k").status == 201 })
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}
