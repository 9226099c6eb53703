package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

// dropping ends the connection of a request that says so, after its work was done; others are answered.
func dropping(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Drop") == "" {
		fmt.Fprint(w, "done")
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	conn.Close()
}

// An upstream that drops a connection, also one that was used before, has run once: nobody but the client sends the request again.
func TestProxyUpstreamDrops(t *testing.T) {
	for _, test := range []struct{ method, body, header, profile string }{
		{"POST", "x", "Idempotency-Key", "draft07"},
		{"POST", "", "Idempotency-Key", "draft07"},
		{"POST", "x", "Idempotency-Key", "stripe"},
		{"DELETE", "", "X-Idempotency-Key", "draft07"},
		{"GET", "", "Idempotency-Key", "draft07"},
		{"GET", "x", "Idempotency-Key", "draft07"},
	} {
		t.Run(test.method+test.body+test.profile, func(t *testing.T) {
			up := newCounter(t, dropping)
			p := startProxy(t, up.URL, "--single-tenant", "--profile", test.profile, "--header", test.header, "--methods", "GET,POST,DELETE")
			ask := func(key string, fields ...string) reply {
				got, err := send(t.Context(), test.method, p.url, test.body, append(fields, test.header, key)...)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			if warm := ask("warm"); warm.body != "done" {
				t.Fatalf("%+v", warm)
			}
			got := ask("k", "Drop", "yes")
			if got.status != http.StatusBadGateway || got.header.Get("Content-Type") != "application/problem+json" || !strings.Contains(got.body, `"status":502`) {
				t.Errorf("%+v", got)
			}
			up.ran(t, 2)
			if again := ask("k"); again.status != http.StatusOK || again.body != "done" {
				t.Errorf("the proxy's own answer was kept: %+v", again)
			}
			up.ran(t, 3)
			if seen := up.last.Load(); seen.Header.Get(test.header) != "k" || len(seen.TransferEncoding) > 0 || test.body == "" && seen.ContentLength != 0 {
				t.Errorf("%v, %d bytes, %v", seen.Header, seen.ContentLength, seen.TransferEncoding)
			}
			if !strings.Contains(p.said.String(), "upstream: "+test.method+" answered with 502: ") {
				t.Error(p.said)
			}
		})
	}
}

// With the stripe profile the upstream's own 502 is an answer as any other; the proxy's are not.
func TestProxyWhoseAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		profile string
		status  int
		answer  int
		kept    bool
	}{
		{"stripe", 500, 500, true}, {"stripe", 502, 502, true}, {"stripe", 504, 504, true}, {"draft07", 502, 502, false}, {"draft07", 404, 404, true},
		{"stripe", 902, 502, false}, {"draft07", 700, 502, false},
	} {
		up := newCounter(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(test.status) })
		p := startProxy(t, up.URL, "--single-tenant", "--profile", test.profile)
		first := post(t, p.url, "", "Idempotency-Key", "k")
		again := post(t, p.url, "", "Idempotency-Key", "k")
		if first.status != test.answer || again.status != test.answer {
			t.Errorf("%+v: %+v, then %+v", test, first, again)
		}
		runs := int64(2)
		if test.kept {
			runs = 1
		}
		up.ran(t, runs)
	}
}

func TestProxyUpstreamAway(t *testing.T) {
	p := startProxy(t, "http://127.0.0.1:1", "--single-tenant", "--profile", "stripe")
	for range 2 {
		if got := post(t, p.url, "", "Idempotency-Key", "k"); got.status != http.StatusBadGateway || got.header.Get("Idempotent-Replayed") != "" {
			t.Errorf("%+v", got)
		}
	}
}

func TestProxyUpstreamLate(t *testing.T) {
	up := newCounter(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	p := startProxy(t, up.URL, "--single-tenant", "--profile", "stripe", "--upstream-timeout", "30ms")
	for range 2 {
		if got := post(t, p.url, "", "Idempotency-Key", "k"); got.status != http.StatusGatewayTimeout {
			t.Errorf("%+v", got)
		}
	}
	eventually(t, "both have reached it", func() bool { return up.runs.Load() == 2 })
}

// An answer that is cut off is not kept, whatever the profile.
func TestProxyUpstreamCutsItsAnswer(t *testing.T) {
	var runs atomic.Int64
	up := newCounter(t, func(w http.ResponseWriter, _ *http.Request) {
		if runs.Add(1) > 1 {
			fmt.Fprint(w, "done")
			return
		}
		w.Header().Set("Content-Length", "4")
		fmt.Fprint(w, "do")
	})
	p := startProxy(t, up.URL, "--single-tenant", "--profile", "stripe")
	if got, err := send(t.Context(), http.MethodPost, p.url, "x", "Idempotency-Key", "k"); err == nil {
		t.Errorf("%+v", got)
	}
	if got := post(t, p.url, "x", "Idempotency-Key", "k"); got.body != "done" {
		t.Errorf("%+v", got)
	}
}

// The upstream gets the grant of the work, and no client can make one up.
func TestProxySendsGrant(t *testing.T) {
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--single-tenant", "--send-grant")
	post(t, p.url, "", "Idempotency-Key", "k", coordhttp.GrantHeader, "9.forged")
	grant, err := coordinator.ParseGrant(up.last.Load().Header.Get(coordhttp.GrantHeader))
	if err != nil || grant.Token == 9 {
		t.Errorf("%v, %v", grant, err)
	}
	post(t, p.url, "", coordhttp.GrantHeader, "9.forged")
	if got := up.last.Load().Header.Values(coordhttp.GrantHeader); len(got) > 0 {
		t.Error(got)
	}
}

// The query arrives as it was sent, also where Go would parse it otherwise.
func TestProxyQueries(t *testing.T) {
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--single-tenant")
	for _, query := range []string{"a=1;b=2", "a=%zz&b=2", "a=%", "", "&&", "a+b&c=%20"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /pay?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", query)
		answer, err := io.ReadAll(conn)
		conn.Close()
		if seen := up.last.Load(); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 201") || seen == nil || seen.URL.RawQuery != query {
			t.Errorf("%q: %q, %v", query, answer, err)
		}
	}
}

// The upstream is called by its own name, or by the client's where that was asked for.
func TestProxyHost(t *testing.T) {
	up := newCounter(t, nil)
	for want, flags := range map[string][]string{strings.TrimPrefix(up.URL, "http://"): {"--single-tenant"}, "pay.example": {"--single-tenant", "--preserve-host"}} {
		p := startProxy(t, up.URL, flags...)
		r, err := http.NewRequestWithContext(t.Context(), "POST", p.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "pay.example"
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if seen := up.last.Load(); seen.Host != want || seen.Header.Get("X-Forwarded-Host") != "pay.example" {
			t.Errorf("%v: %s, %v", flags, seen.Host, seen.Header)
		}
	}
}

func TestProxyTrustsForwarded(t *testing.T) {
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--single-tenant", "--trust-forwarded")
	post(t, p.url, "", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https")
	seen := up.last.Load().Header
	if seen.Get("X-Forwarded-For") != "1.2.3.4, 127.0.0.1" || seen.Get("X-Forwarded-Proto") != "https" || !strings.HasPrefix(seen.Get("X-Forwarded-Host"), "127.0.0.1:") {
		t.Error(seen)
	}
}

// A request goes on when its client has gone, unless it was told not to.
func TestProxyDetach(t *testing.T) {
	for _, test := range []struct {
		flag string
		runs int64
	}{{"--detach", 1}, {"--no-detach", 2}} {
		begun, end, broken := make(chan struct{}, 2), make(chan struct{}), make(chan struct{}, 2)
		up := newCounter(t, func(w http.ResponseWriter, r *http.Request) {
			begun <- struct{}{}
			select {
			case <-end:
				fmt.Fprint(w, "done")
			case <-r.Context().Done():
				broken <- struct{}{}
			}
		})
		p := startProxy(t, up.URL, "--single-tenant", test.flag, "--wait", "8s")
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n")
		<-begun
		conn.Close()
		if test.flag == "--no-detach" {
			<-broken
		}
		close(end)
		if got := post(t, p.url, "", "Idempotency-Key", "k"); got.body != "done" {
			t.Errorf("%s: %+v", test.flag, got)
		}
		up.ran(t, test.runs)
	}
}

// A client that sends slowly is cut off; an answer may take longer than that.
func TestProxyReadTimeout(t *testing.T) {
	t.Parallel()
	up := newCounter(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(1300 * time.Millisecond): // longer than the timeout
			fmt.Fprint(w, "done")
		case <-r.Context().Done():
		}
	})
	p := startProxy(t, up.URL, "--single-tenant", "--read-timeout", "1s", "--no-detach")
	for _, body := range []string{"", "x"} {
		if got := post(t, p.url, body, "Idempotency-Key", "k"+body); got.body != "done" {
			t.Errorf("%+v", got)
		}
		if got := post(t, p.url, body); got.body != "done" {
			t.Errorf("without a key: %+v", got)
		}
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nIdempotency-Key: slow\r\nContent-Length: 10\r\n\r\nabc")
	if err := conn.SetReadDeadline(time.Now().Add(8 * time.Second)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusBadRequest {
		t.Errorf("%d, %v", response.StatusCode, err)
	}
	up.ran(t, 4)
}
