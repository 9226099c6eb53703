package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v82"

	"github.com/onceward/coordinator/internal/redistest"
)

// startProcess runs the program as operators do, and ends it as they do.
func startProcess(t *testing.T, program, upstream string, args ...string) *running {
	t.Helper()
	p := &running{said: &lockedText{}}
	cmd := exec.Command(program, append([]string{"proxy", "--listen=127.0.0.1:0", "--upstream=" + upstream}, args...)...)
	cmd.Stderr = p.said
	cmd.Stdout = p.said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("after SIGTERM: %v\n%s", err, p.said)
			}
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("it did not end after SIGTERM: %v\n%s", <-ended, p.said)
		}
	})
	eventually(t, "the process listens", func() bool { return p.read(p.said.String()) == 1 })
	return p
}

// charges is a service that books what it is told to, as often as it is told to.
type charges struct {
	*httptest.Server
	mu     sync.Mutex
	booked map[string]int // by description
	total  int
}

func newCharges(t *testing.T) *charges {
	c := &charges{booked: map[string]int{}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.take))
	t.Cleanup(c.Close)
	return c
}

func (c *charges) take(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1/charges" || r.ParseForm() != nil {
		http.NotFound(w, r)
		return
	}
	c.mu.Lock()
	c.total++
	id := fmt.Sprintf("ch_%d", c.total)
	c.booked[r.Form.Get("description")]++
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"id": id, "object": "charge", "status": "succeeded", "description": r.Form.Get("description")})
}

func (c *charges) times(description string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.booked[description]
}

// breaking stands between clients and the proxy. It forwards a request, and ends the first connections without an answer: in
// turn when the request is forwarded, and when the answer is there.
type breaking struct {
	net.Listener
	target string
	left   atomic.Int64
	broken atomic.Int64
}

func newBreaking(t *testing.T, target string, first int64) *breaking {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &breaking{Listener: listener, target: strings.TrimPrefix(target, "http://")}
	b.left.Store(first)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go b.serve(conn)
		}
	}()
	return b
}

func (b *breaking) url() string { return "http://" + b.Addr().String() }

func (b *breaking) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", b.target)
	if err != nil {
		return
	}
	defer server.Close()
	left := b.left.Add(-1)
	if left < 0 {
		go io.Copy(server, client)
		_, _ = io.Copy(client, server)
		return
	}
	b.broken.Add(1)
	request := make([]byte, 64<<10)
	n, err := client.Read(request)
	if err != nil {
		return
	}
	if _, err := server.Write(request[:n]); err != nil {
		return
	}
	if left%2 == 0 { // let it answer; curl sends its body with the header, and the others as well
		go io.Copy(server, client)
		_, _ = server.Read(make([]byte, 1))
	}
}

// Clients as they are, over a network that takes away the first answers: each charge is booked once.
func TestProxyClients(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "coordctl")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, client := range []struct {
		name string
		pay  func(t *testing.T, base, description string) string // returns the charge
	}{
		{"curl", payByCurl}, {"net/http", payByHTTP}, {"stripe-go", payByStripe},
	} {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			up := newCharges(t)
			p := startProcess(t, program, up.URL, "--single-tenant", "--require-key", "--wait=5s", "--profile=stripe")
			network := newBreaking(t, p.url, 2)
			var booked string
			for i := range 2 { // over a broken network, then a whole one
				description := fmt.Sprintf("%s %d", client.name, i)
				id := client.pay(t, network.url(), description)
				if n := up.times(description); n != 1 || id == "" || id == booked {
					t.Errorf("%s is booked %d times, the client has %q after %q", description, n, id, booked)
				}
				booked = id
			}
			if n := network.broken.Load(); n != 2 {
				t.Errorf("%d connections were broken", n)
			}
		})
	}
}

func idOf(t *testing.T, body []byte) string {
	t.Helper()
	var c struct{ ID string }
	if err := json.Unmarshal(body, &c); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return c.ID
}

func payByCurl(t *testing.T, base, description string) string {
	t.Helper()
	curl, err := exec.LookPath("curl")
	if err != nil && os.Getenv(redistest.EnvRequire) == "1" {
		t.Fatal("curl is missing: apt-get install curl")
	}
	if err != nil {
		t.Skip("curl is missing: apt-get install curl")
	}
	var failures strings.Builder
	cmd := exec.CommandContext(t.Context(), curl, "--noproxy", "*", "-sS", "--retry", "5", "--retry-all-errors",
		"-H", "Idempotency-Key: "+strings.ReplaceAll(description, " ", "-"), "-d", "amount=100", "--data-urlencode", "description="+description, base+"/v1/charges")
	cmd.Stderr = &failures
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, failures.String())
	}
	return idOf(t, out)
}

func payByHTTP(t *testing.T, base, description string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var last error
	for range 5 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/v1/charges", strings.NewReader(url.Values{"description": {description}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Idempotency-Key", strings.ReplaceAll(description, " ", "-"))
		response, err := client.Do(r)
		if last = err; err != nil {
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if last = err; err == nil && response.StatusCode == http.StatusOK {
			return idOf(t, body)
		}
	}
	t.Fatal(last)
	return ""
}

func payByStripe(t *testing.T, base, description string) string {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(base), HTTPClient: &http.Client{Transport: transport}, MaxNetworkRetries: stripe.Int64(5),
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull}, EnableTelemetry: stripe.Bool(false),
	})
	client := stripe.NewClient("sk_test_123", stripe.WithBackends(&stripe.Backends{API: backend}))
	// It makes the key itself.
	made, err := client.V1Charges.Create(t.Context(), &stripe.ChargeCreateParams{Amount: stripe.Int64(100), Currency: stripe.String("eur"), Description: stripe.String(description)})
	if err != nil {
		t.Fatal(err)
	}
	return made.ID
}
