package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/internal/redistest"
)

// What flags change that no other test looks at: each with what happens without it.
func TestProxyFlags(t *testing.T) {
	t.Parallel()
	const old, asJSON = "01000000-0000-7000-8000-000000000000", "application/json"
	idem := func(key string, fields ...string) []string { return append(fields, "Idempotency-Key", key) }
	status := func(got reply) string { return fmt.Sprint(got.status) }
	ask := func(fields []string, body string) func(t *testing.T, url string) string {
		return func(t *testing.T, url string) string { return status(post(t, url, body, fields...)) }
	}
	twice := func(one, two []string, first, second string) func(t *testing.T, url string) string {
		return func(t *testing.T, url string) string {
			post(t, url, first, one...)
			return status(post(t, url, second, two...))
		}
	}
	refused := func(of func(reply) string) func(t *testing.T, url string) string {
		return func(t *testing.T, url string) string { return of(post(t, url, "", idem(`"`)...)) }
	}
	for _, test := range []struct {
		flag          string
		try           func(t *testing.T, url string) string
		with, without string
	}{
		{"--any-age", ask(idem(old), ""), "201", "422"},
		{"--quoted-only", ask(idem("k"), ""), "400", "201"},
		{"--uuid-only", ask(idem("k"), ""), "400", "201"},
		{"--fingerprint-headers=X-Version", twice(idem("k", "X-Version", "1"), idem("k", "X-Version", "2"), "", ""), "422", "201"},
		{"--canonical-json", twice(idem("k", "Content-Type", asJSON), idem("k", "Content-Type", asJSON), `{"a":1,"b":2}`, `{"b":2, "a":1}`), "201", "422"},
		{"--max-answer=3", twice(idem("k"), idem("k"), "", ""), "409", "201"},
		{"--problem-base=https://example.com/keys", refused(func(got reply) string {
			return fmt.Sprint(strings.Contains(got.body, `"type":"https://example.com/keys#key-malformed"`))
		}), "true", "false"},
		{"--described-by=https://example.com/policy", refused(func(got reply) string { return got.header.Get("Link") }), `<https://example.com/policy>; rel="describedby"`, ""},
		{"--max-header-bytes=1", ask([]string{"X-Long", strings.Repeat("x", 8<<10)}, ""), "431", "201"},
		{"--idle-timeout=50ms", idle, "closed", "open"},
		{"--read-header-timeout=50ms", halfAHeader, "closed", "open"},
	} {
		t.Run(strings.TrimLeft(test.flag, "-"), func(t *testing.T) {
			t.Parallel()
			up := newCounter(t, nil)
			for want, flags := range map[string][]string{test.with: {"--single-tenant", test.flag}, test.without: {"--single-tenant"}} {
				if got := test.try(t, startProxy(t, up.URL, flags...).url); got != want {
					t.Errorf("with %v: %s instead of %s", flags, got, want)
				}
			}
		})
	}
}

// endsSoon says whether the proxy ends a connection, within a time that is not enough for the defaults.
func endsSoon(t *testing.T, conn net.Conn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return "open"
	}
	return "closed"
}

func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func idle(t *testing.T, url string) string {
	conn := dial(t, url)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	if response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, 1<<10)), nil); err != nil || response.StatusCode != http.StatusCreated {
		t.Fatalf("%+v, %v", response, err)
	}
	return endsSoon(t, conn)
}

func halfAHeader(t *testing.T, url string) string {
	conn := dial(t, url)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\n")
	return endsSoon(t, conn)
}

// A cluster is found by one of its nodes.
func TestProxyCluster(t *testing.T) {
	redistest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := redistest.StartCluster(ctx, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Stop)
	up := newCounter(t, nil)
	at := "--redis=" + cluster.Addrs()[0]
	p := startProxy(t, up.URL, "--single-tenant", at, "--cluster")
	for i := range 10 { // of which some are on other nodes
		key := fmt.Sprint("k", i)
		first, again := post(t, p.url, "", "Idempotency-Key", key), post(t, p.url, "", "Idempotency-Key", key)
		if first.status != http.StatusCreated || again.body != first.body || !again.replayed() {
			t.Errorf("%+v, then %+v", first, again)
		}
	}
	up.ran(t, 10)
}

// What no client that means well sends: it reaches the service as one whole request, or not at all.
func TestProxyRawRequests(t *testing.T) {
	t.Parallel()
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--single-tenant")
	for name, test := range map[string]struct {
		text   string
		status int
		runs   int64
	}{
		"cut off":                     {"Content-Length: 10\r\n\r\nabc", 400, 0},
		"chunks that lie":             {"Transfer-Encoding: chunked\r\n\r\nff\r\nabc\r\n0\r\n\r\n", 400, 0},
		"chunks that are none":        {"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", 400, 0},
		"two lengths":                 {"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, 0},
		"length and chunks":           {"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 201, 1},
		"another encoding":            {"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, 0},
		"two keys":                    {"Idempotency-Key: other\r\nContent-Length: 0\r\n\r\n", 400, 0},
		"a header of 10 MB":           {"X-Long: " + strings.Repeat("x", 10<<20) + "\r\nContent-Length: 0\r\n\r\n", 431, 0},
		"a body of 10 MB":             {"Content-Length: 10485760\r\n\r\n" + strings.Repeat("x", 10<<20), 413, 0},
		"a body that is not UTF-8":    {"Content-Length: 3\r\n\r\n\xff\xfe\x00", 201, 1},
		"JSON that is not UTF-8":      {"Content-Type: application/json\r\nContent-Length: 5\r\n\r\n[\"\xff\"]", 201, 1},
		"a NUL in a header":           {"X-Set: \x00\r\nContent-Length: 0\r\n\r\n", 400, 0},
		"a header's name with spaces": {"X Set : a\r\nContent-Length: 0\r\n\r\n", 400, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := up.runs.Load()
			conn := dial(t, p.url)
			go func() { // the proxy may answer before it has read all
				_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIdempotency-Key: %s\r\n%s", strings.ReplaceAll(name, " ", "-"), test.text)
				if err == nil && test.runs == 0 {
					_ = conn.(*net.TCPConn).CloseWrite()
				}
			}()
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			// A connection that is reset while much is still being sent may take the answer with it.
			if large := len(test.text) > 1<<20; err == nil && response.StatusCode != test.status || err != nil && !large {
				t.Errorf("%+v, %v", response, err)
			}
			if err == nil {
				response.Body.Close()
			}
			if runs := up.runs.Load() - before; runs != test.runs {
				t.Errorf("the upstream ran %d times", runs)
			}
			if seen := up.last.Load(); seen != nil && seen.URL.Path == "/smuggled" {
				t.Error("what was in a body came as a request")
			}
		})
	}
	if got := post(t, p.url, "\xff\xfe\x00", "Idempotency-Key", "a-body-that-is-not-UTF-8"); !got.replayed() || !strings.HasSuffix(got.body, "of \xff\xfe\x00") {
		t.Errorf("%+v", got)
	}
	if got := post(t, p.url, "\xff\xfd\x00", "Idempotency-Key", "a-body-that-is-not-UTF-8"); got.kind(t) != string(coordhttp.KindKeyReused) {
		t.Errorf("%+v", got)
	}
}
