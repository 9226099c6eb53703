package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/coordhttp"
)

// lockedText is what a program says while it runs.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// running is a proxy within this test.
type running struct {
	url, admin string
	said       *lockedText
	stop       context.CancelFunc
	status     chan int
}

var listening = regexp.MustCompile(`(?m)^coordctl: (proxy|admin).* listens on (\S+)$`)

func startProxy(t *testing.T, upstream string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &running{said: &lockedText{}, stop: cancel, status: make(chan int, 1)}
	go func() {
		p.status <- run(ctx, append([]string{"proxy", "--listen=127.0.0.1:0", "--upstream=" + upstream}, args...), streams{io.Discard, p.said})
	}()
	t.Cleanup(func() {
		cancel()
		<-p.status
	})
	doors := 1
	if strings.Contains(strings.Join(args, " "), "--admin") {
		doors = 2
	}
	eventually(t, "the proxy listens", func() bool {
		select {
		case status := <-p.status:
			p.status <- status
			t.Fatalf("it ended with %d: %s", status, p.said)
		default:
		}
		return p.read(p.said.String()) == doors
	})
	return p
}

// read takes the addresses out of what the proxy says, and returns how many there are.
func (p *running) read(said string) int {
	all := listening.FindAllStringSubmatch(said, -1)
	for _, m := range all {
		if m[1] == "admin" {
			p.admin = "http://" + m[2]
		} else {
			p.url = "http://" + m[2]
		}
	}
	return len(all)
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) replayed() bool { return r.header.Get("Idempotency-Replayed") == "true" }

func (r reply) kind(t *testing.T) string {
	t.Helper()
	var p struct{ Type string }
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("%v in %q", err, r.body)
	}
	_, kind, _ := strings.Cut(p.Type, "#")
	return kind
}

// post sends a request; fields are pairs of a header's name and value.
func post(t *testing.T, url, body string, fields ...string) reply {
	t.Helper()
	got, err := send(t.Context(), http.MethodPost, url, body, fields...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func send(ctx context.Context, method, url, body string, fields ...string) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text)}, err
}

// counter is an upstream that says how often it ran.
type counter struct {
	*httptest.Server
	runs atomic.Int64
	last atomic.Pointer[http.Request]
}

func newCounter(t *testing.T, then http.HandlerFunc) *counter {
	c := &counter{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n := c.runs.Add(1)
		c.last.Store(r.Clone(context.Background()))
		if then != nil {
			then(w, r)
			return
		}
		w.Header().Set("X-Run", fmt.Sprint(n))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "run %d of %s", n, body)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *counter) ran(t *testing.T, want int64) {
	t.Helper()
	if got := c.runs.Load(); got != want {
		t.Errorf("the upstream ran %d times instead of %d", got, want)
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestProxyUsage(t *testing.T) {
	const up = "--upstream http://127.0.0.1:9 "
	for _, test := range []struct{ line, says string }{
		{"--single-tenant", "--upstream"},
		{up, "exactly one of --single-tenant"},
		{up + "--single-tenant --tenant-header X-Tenant", "exactly one of --single-tenant"},
		{up + "--tenant-header X-Tenant --tenant-jwt-claim sub --jwt-key f", "exactly one of --single-tenant"},
		{up + "--tenant-jwt-claim sub", "exactly one of --jwt-key"},
		{up + "--tenant-jwt-claim sub --jwt-key a --jwt-secret b", "exactly one of --jwt-key"},
		{up + "--single-tenant --jwt-key a", "go with --tenant-jwt-claim"},
		{up + "--single-tenant --profile other", "--profile"},
		{up + "--single-tenant --read-timeout 0s", "--read-timeout"},
		{up + "--single-tenant --max-header-bytes 0", "--max-header-bytes"},
		{"--single-tenant --upstream ftp://host", "--upstream takes"},
		{"--single-tenant --upstream http://user:secret@host", "--upstream takes"},
		{up + "--single-tenant --config /no/such/file", "no such file"},
	} {
		got := invoke(t.Context(), strings.Fields("proxy "+test.line)...)
		if got.status != exitUsage || got.out != "" || !strings.Contains(got.err, test.says) || strings.Contains(got.err, "secret@") {
			t.Errorf("coordctl proxy %s: %+v", test.line, got)
		}
	}
}

// What only shows when files are read and options are taken.
func TestProxyDoesNotStart(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct{ line, says string }{
		{"--redis nonsense", "not an address"},
		{"--listen 127.0.0.1:no", "cannot listen"},
		{"--admin 127.0.0.1:no", "cannot listen"},
		{"--methods post", "capitals"},
		{"--header a:b", "Header takes"},
		{"--max-body 0", "MaxBody takes"},
		{"--lease 1ms", "WithLease takes"},
		{"--compress=-2", "Compress takes"},
		{"--encryption-allow-plain", "goes with --encryption-keys"},
		{"--encryption-keys /no/such/file", "no such file"},
		{"--encryption-keys " + file(t, "\n"), "has no key"},
		{"--encryption-keys " + file(t, "one"), ":1: write a name"},
		{"--encryption-keys " + file(t, "one "+key+"\ntwo abcd"), ":2: the key is not 32 bytes"},
		{"--encryption-keys " + file(t, "one "+key+"\none "+key), ":2: the name"},
	} {
		got := invoke(t.Context(), strings.Fields("proxy --upstream http://127.0.0.1:9 --single-tenant --listen 127.0.0.1:0 "+test.line)...)
		if got.status != exitFailed || !strings.Contains(got.err, test.says) || strings.Contains(got.err, "abcd") {
			t.Errorf("coordctl proxy %s: %+v", test.line, got)
		}
	}
}

// Nobody else on the machine reads the answers that the proxy keeps by itself.
func TestProxyKeepsItsAnswers(t *testing.T) {
	rdb, stop, err := (&proxyCommand{}).connect(log.New(io.Discard, "", 0))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := rdb.Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	other := redis.NewClient(&redis.Options{Addr: rdb.(*redis.Client).Options().Addr})
	defer other.Close()
	if err := other.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without the password: %v", err)
	}
}

func TestProxyReplays(t *testing.T) {
	up := newCounter(t, nil)
	p := startProxy(t, up.URL+"/base", "--single-tenant")
	first := post(t, p.url+"/pay?a=1", "10 EUR", "Idempotency-Key", `"k1"`, "X-Forwarded-For", "1.2.3.4", "Fencing-Token", "mine")
	if first.status != http.StatusCreated || first.body != "run 1 of 10 EUR" || first.replayed() {
		t.Errorf("%+v", first)
	}
	seen := up.last.Load()
	if seen.URL.String() != "/base/pay?a=1" || seen.Header.Get("Idempotency-Key") != `"k1"` || seen.Header.Get("X-Forwarded-For") != "127.0.0.1" || seen.Header.Get("Fencing-Token") != "" {
		t.Errorf("%s %v", seen.URL, seen.Header)
	}
	again := post(t, p.url+"/pay?a=1", "10 EUR", "Idempotency-Key", `k1`)
	if again.status != first.status || again.body != first.body || !again.replayed() || again.header.Get("X-Run") != "1" {
		t.Errorf("%+v", again)
	}
	other := post(t, p.url+"/pay?a=1", "11 EUR", "Idempotency-Key", `"k1"`)
	if other.status != http.StatusUnprocessableEntity || other.kind(t) != string(coordhttp.KindKeyReused) {
		t.Errorf("%+v", other)
	}
	up.ran(t, 1)
	post(t, p.url+"/pay", "no key")
	post(t, p.url+"/pay", "no key")
	up.ran(t, 3)
	if said := p.said.String(); strings.Count(said, "\n") != 2 || !strings.Contains(said, "warning: there is no --redis") || !strings.Contains(said, "forgotten") {
		t.Error(said)
	}
}

// An answer that comes in chunks is kept as any other, an event stream is passed on.
func TestProxyChunks(t *testing.T) {
	up := newCounter(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Accept"))
		for range 3 {
			fmt.Fprint(w, "data\n")
			w.(http.Flusher).Flush()
		}
	})
	p := startProxy(t, up.URL, "--single-tenant")
	held := startProxy(t, up.URL, "--single-tenant", "--hold-streams")
	for _, test := range []struct {
		proxy  *running
		accept string
		again  int
	}{{p, "text/plain", http.StatusOK}, {p, "text/event-stream; charset=utf-8", http.StatusConflict}, {held, "text/event-stream", http.StatusOK}} {
		first := post(t, test.proxy.url, "", "Idempotency-Key", test.accept[:7]+"1", "Accept", test.accept)
		again := post(t, test.proxy.url, "", "Idempotency-Key", test.accept[:7]+"1", "Accept", test.accept)
		if first.status != http.StatusOK || first.body != "data\ndata\ndata\n" || again.status != test.again {
			t.Errorf("%s: %+v, then %+v", test.accept, first, again)
		}
	}
	up.ran(t, 3)
}

func TestProxyTenantHeader(t *testing.T) {
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--tenant-header", "x-tenant")
	a := post(t, p.url, "", "Idempotency-Key", "k1", "X-Tenant", "a", "Connection", "X-Tenant, Idempotency-Key")
	if seen := up.last.Load().Header; seen.Get("X-Tenant") != "a" || seen.Get("Idempotency-Key") != "k1" {
		t.Errorf("a client can have the proxy take headers away: %v", seen)
	}
	b := post(t, p.url, "", "Idempotency-Key", "k1", "X-Tenant", "b")
	if a.body == b.body || a.status != http.StatusCreated || b.status != http.StatusCreated {
		t.Errorf("%+v and %+v", a, b)
	}
	for _, fields := range [][]string{{}, {"X-Tenant", ""}, {"X-Tenant", "a", "X-Tenant", "b"}} {
		got := post(t, p.url, "", append(fields, "Idempotency-Key", "k1")...)
		if got.status != http.StatusForbidden || got.kind(t) != string(coordhttp.KindTenantUnknown) {
			t.Errorf("%v: %+v", fields, got)
		}
	}
	up.ran(t, 2)
}

func TestProxyConfigFile(t *testing.T) {
	up := newCounter(t, nil)
	config := func(flags map[string]any) string {
		all := map[string]any{"upstream": up.URL, "listen": "127.0.0.1:0", "single-tenant": true}
		maps.Copy(all, flags)
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return file(t, string(text))
	}
	p := startProxy(t, up.URL, "--header", "X-Key", "--config", config(map[string]any{
		"upstream": "http://127.0.0.1:9", "header": "X-Other", "require-key": true, "methods": []string{"PUT", "POST"}, "max-body": 5, "wait": "10ms", "detach": false,
	}))
	for _, test := range []struct {
		body   string
		fields []string
		status int
	}{
		{"12345", []string{"X-Key", "k"}, http.StatusCreated},
		{"123456", []string{"X-Key", "k"}, http.StatusRequestEntityTooLarge},
		{"", []string{"X-Other", "k"}, http.StatusBadRequest},
	} {
		if got := post(t, p.url, test.body, test.fields...); got.status != test.status {
			t.Errorf("%+v: %+v", test, got)
		}
	}
	for _, test := range []struct{ file, says string }{
		{config(map[string]any{"requirekey": true}), `no flag "requirekey"`},
		{config(map[string]any{"max-body": "much"}), "max-body"},
		{file(t, "upstream: x"), "not a JSON object"},
	} {
		if got := invoke(t.Context(), "proxy", "--config", test.file); got.status != exitUsage || !strings.Contains(got.err, test.says) {
			t.Errorf("%s: %+v", test.says, got)
		}
	}
}

// Duplicates that come at once are one run; those that do not wait are told to come back.
func TestProxyConcurrentDuplicates(t *testing.T) {
	for _, wait := range []string{"0s", "1m"} {
		t.Run(wait, func(t *testing.T) {
			t.Parallel()
			begun, end := make(chan struct{}), make(chan struct{})
			up := newCounter(t, func(w http.ResponseWriter, _ *http.Request) {
				close(begun)
				<-end
				fmt.Fprint(w, "done")
			})
			p := startProxy(t, up.URL, "--single-tenant", "--wait", wait, "--admin", "127.0.0.1:0", "--redis-timeout", "1m") // the store within runs one script at a time
			finish := sync.OnceFunc(func() { close(end) })
			t.Cleanup(finish) // or else a test that fails before does not end
			const duplicates = 200
			replies := make(chan reply, duplicates+1)
			ask := func() {
				got, err := send(t.Context(), http.MethodPost, p.url, "x", "Idempotency-Key", "k")
				if err != nil {
					t.Error(err)
				}
				replies <- got
			}
			go ask()
			<-begun
			for range duplicates {
				go ask()
			}
			if wait == "0s" {
				for range duplicates {
					if got := <-replies; got.status != http.StatusConflict || got.kind(t) != string(coordhttp.KindInProgress) || got.header.Get("Retry-After") == "" {
						t.Errorf("%+v", got)
					}
				}
			} else {
				eventually(t, "they wait", func() bool {
					got, err := send(t.Context(), http.MethodGet, p.admin+"/metrics", "")
					return err == nil && strings.Contains(got.body, fmt.Sprintf("coordinator_waiters %d\n", duplicates))
				})
			}
			finish()
			rest := duplicates + 1
			if wait == "0s" {
				rest = 1
			}
			for range rest {
				if got := <-replies; got.status != http.StatusOK || got.body != "done" {
					t.Errorf("%+v", got)
				}
			}
			if got := post(t, p.url, "x", "Idempotency-Key", "k"); got.body != "done" || !got.replayed() {
				t.Errorf("%+v", got)
			}
			up.ran(t, 1)
		})
	}
}

func TestProxyAdmin(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--single-tenant", "--admin", "127.0.0.1:0", "--redis", "redis://"+server.Addr()+"?max_retries=-1", "--redis-timeout", "2s")
	for range 3 {
		post(t, p.url, "", "Idempotency-Key", "k")
	}
	get := func(url string) reply {
		got, err := send(t.Context(), http.MethodGet, url, "")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	metrics := get(p.admin + "/metrics").body
	for _, line := range []string{
		`coordhttp_requests_total{outcome="executed"} 1`, `coordhttp_requests_total{outcome="replayed"} 2`,
		`coordinator_calls_total{op="claim",outcome="granted"} 1`, "go_goroutines ",
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("%s is not in %s", line, metrics)
		}
	}
	if strings.Contains(p.said.String(), "warning") {
		t.Error(p.said)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := get(p.admin + path); got.status != http.StatusOK {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got := get(p.url + "/metrics"); got.status != http.StatusCreated {
		t.Errorf("the admin's pages are where clients are: %+v", got)
	}
	server.Close()
	if got := get(p.admin + "/readyz"); got.status != http.StatusServiceUnavailable {
		t.Errorf("%+v", got)
	}
	if got := get(p.admin + "/healthz"); got.status != http.StatusOK {
		t.Errorf("%+v", got)
	}
	if got := post(t, p.url, "", "Idempotency-Key", "k"); got.status != http.StatusServiceUnavailable || got.kind(t) != string(coordhttp.KindUnavailable) {
		t.Errorf("%+v", got)
	}
	up.ran(t, 2)
}

// It starts without Redis, says so, and lets requests through where it was told to.
func TestProxyRedisAway(t *testing.T) {
	t.Parallel()
	up := newCounter(t, nil)
	p := startProxy(t, up.URL, "--single-tenant", "--redis", "redis://127.0.0.1:1?max_retries=-1", "--redis-timeout", "300ms", "--pass-when-unavailable")
	if got := post(t, p.url, "", "Idempotency-Key", "k"); got.status != http.StatusCreated || got.header.Get("Idempotency-Unprotected") != "true" {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(p.said.String(), "warning: ") {
		t.Error(p.said)
	}
}

// What is stored is encrypted, and another process with the keys replays it.
func TestProxyEncryption(t *testing.T) {
	server := miniredis.RunT(t)
	up := newCounter(t, nil)
	key := func(fill string) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, 32))) }
	at := "redis://" + server.Addr()
	old := startProxy(t, up.URL, "--single-tenant", "--redis", at, "--prefix", "mine", "--retention", "2h", "--encryption-keys", file(t, "a "+key("a")+"\n"))
	first := post(t, old.url, "secret", "Idempotency-Key", "k1")
	next := startProxy(t, up.URL, "--single-tenant", "--redis", at, "--prefix", "mine", "--compress", "0", "--encryption-keys", file(t, "b "+key("b")+"\na "+key("a")+"\n"))
	if again := post(t, next.url, "secret", "Idempotency-Key", "k1"); again.body != first.body || !again.replayed() {
		t.Errorf("%+v", again)
	}
	for _, name := range server.Keys() {
		value, err := server.Get(name)
		if !strings.HasPrefix(name, "mine:") || err == nil && strings.Contains(value, "run 1") {
			t.Errorf("%s: %q", name, value)
		}
		if ttl := server.TTL(name); ttl <= 0 || ttl > 3*time.Hour {
			t.Errorf("%s stays for %v", name, ttl)
		}
	}
}

// SIGTERM is the end of the context: what runs is finished and stored, what is new is not taken.
func TestProxyShutdown(t *testing.T) {
	server := miniredis.RunT(t)
	begun, end := make(chan struct{}, 1), make(chan struct{})
	up := newCounter(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			begun <- struct{}{}
			<-end
		}
		fmt.Fprint(w, "done")
	})
	at := "--redis=redis://" + server.Addr()
	p := startProxy(t, up.URL, "--single-tenant", at, "--admin=127.0.0.1:0")
	finish := sync.OnceFunc(func() { close(end) })
	t.Cleanup(finish)
	ready := func() int {
		got, err := send(t.Context(), http.MethodGet, p.admin+"/readyz", "")
		if err != nil {
			t.Fatal(err)
		}
		return got.status
	}
	if got := ready(); got != http.StatusOK {
		t.Errorf("ready: %d", got)
	}
	replies := make(chan reply, 1)
	go func() {
		got, err := send(t.Context(), http.MethodPost, p.url, "", "Idempotency-Key", "k")
		if err != nil {
			t.Error(err)
		}
		replies <- got
	}()
	<-begun
	p.stop()
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, "it takes no new connections", func() bool {
		response, err := fresh.Get(p.url)
		if err == nil {
			response.Body.Close()
		}
		return err != nil
	})
	if got := ready(); got != http.StatusServiceUnavailable {
		t.Errorf("ready while it ends: %d", got)
	}
	select {
	case status := <-p.status:
		t.Fatalf("it ended with %d before its request did", status)
	default:
	}
	finish()
	if got := <-replies; got.status != http.StatusOK || got.body != "done" {
		t.Errorf("%+v", got)
	}
	status := <-p.status
	if p.status <- status; status != exitOK {
		t.Errorf("status %d: %s", status, p.said)
	}
	next := startProxy(t, up.URL, "--single-tenant", at)
	if got := post(t, next.url, "", "Idempotency-Key", "k"); got.body != "done" || !got.replayed() {
		t.Errorf("%+v", got)
	}
}

func TestProxyShutdownDoesNotWaitForEver(t *testing.T) {
	begun := make(chan struct{})
	up := newCounter(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})
	p := startProxy(t, up.URL, "--single-tenant", "--shutdown-timeout", "50ms")
	go send(context.Background(), http.MethodPost, p.url, "", "Idempotency-Key", "k")
	<-begun
	p.stop()
	status := <-p.status
	if p.status <- status; status != exitFailed || !strings.Contains(p.said.String(), "--shutdown-timeout") {
		t.Errorf("status %d: %s", status, p.said)
	}
}

// docs/proxy.md has every flag, and the defaults that are numbers, times and words.
func TestProxyPageHasEveryFlag(t *testing.T) {
	page, err := os.ReadFile("../../docs/proxy.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&commands{}, kong.Configuration(readConfig))
	if err != nil {
		t.Fatal(err)
	}
	flags := 0
	for _, command := range parser.Model.Children {
		for _, flag := range command.Flags {
			if command.Name != "proxy" || flag.Name == "help" {
				continue
			}
			flags++
			row := regexp.MustCompile("(?m)^\\| `--(\\[no-\\])?" + flag.Name + "\\b.*$").FindString(string(page))
			if row == "" || flag.HasDefault && flag.Default != "true" && !strings.Contains(strings.Split(row, "|")[2], flag.Default) {
				t.Errorf("docs/proxy.md has no row for --%s with the default %q: %q", flag.Name, flag.Default, row)
			}
		}
	}
	if flags < 40 {
		t.Errorf("this test found %d flags only", flags)
	}
}
