package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

// proxyCommand puts coordhttp in front of a service that knows nothing of it: a request with an idempotency key reaches the
// service once, and every other one with the key gets its answer.
type proxyCommand struct {
	Config   kong.ConfigFlag `placeholder:"FILE" help:"A JSON object with flags by their names, such as {\"upstream\": \"http://127.0.0.1:9000\"}; flags of the command line win."`
	Listen   string          `default:":8080" placeholder:"ADDRESS" help:"Where clients connect, by HTTP without TLS (default ${default})."`
	Upstream string          `required:"" placeholder:"URL" help:"The service that does the work, http:// or https://; a path is put in front of every request's."`
	Admin    string          `placeholder:"ADDRESS" help:"Where /metrics, /healthz and /readyz are, apart from clients; none by default."`

	Tenants tenantFlags   `embed:"" group:"Tenants, one of the first three is required:"`
	Keys    keyFlags      `embed:"" group:"Keys:"`
	Answers answerFlags   `embed:"" group:"Answers:"`
	Store   storeFlags    `embed:"" group:"Redis:"`
	Service upstreamFlags `embed:"" group:"Upstream:"`
	Limits  limitFlags    `embed:"" group:"Limits:"`
}

// limitFlags keep slow and greedy clients from holding connections and memory.
type limitFlags struct {
	ReadHeaderTimeout time.Duration `default:"10s" help:"How long a client may take to send a request's header (default ${default})."`
	ReadTimeout       time.Duration `default:"1m" help:"How long it may take to send the whole request (default ${default})."`
	IdleTimeout       time.Duration `default:"2m" help:"How long a connection stays open between requests (default ${default})."`
	MaxHeaderBytes    int           `default:"65536" placeholder:"BYTES" help:"How long a request's header, and an answer's, may be (default ${default})."`
	ShutdownTimeout   time.Duration `default:"30s" help:"How long requests that run may take to finish after SIGINT or SIGTERM (default ${default})."`
}

// Validate is called by kong.
func (p *proxyCommand) Validate() error {
	if _, err := p.target(); err != nil {
		return err
	}
	for name, d := range map[string]time.Duration{
		"read-header-timeout": p.Limits.ReadHeaderTimeout, "read-timeout": p.Limits.ReadTimeout, "idle-timeout": p.Limits.IdleTimeout,
		"shutdown-timeout": p.Limits.ShutdownTimeout, "upstream-timeout": p.Service.UpstreamTimeout,
	} {
		if d <= 0 {
			return fmt.Errorf("--%s must be more than 0, not %v", name, d)
		}
	}
	if p.Limits.MaxHeaderBytes < 1 {
		return fmt.Errorf("--max-header-bytes must be more than 0, not %d", p.Limits.MaxHeaderBytes)
	}
	return p.Tenants.check()
}

// target is the service's URL.
func (p *proxyCommand) target() (*url.URL, error) {
	u, err := url.Parse(p.Upstream)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("--upstream takes a URL such as http://127.0.0.1:9000, without user, query and fragment")
	}
	return u, nil
}

func (p *proxyCommand) Run(ctx context.Context, std streams) error {
	remarks := log.New(std.err, "coordctl: ", 0)
	rdb, stop, err := p.connect(remarks)
	if err != nil {
		return err
	}
	defer stop()
	metrics, err := newMetrics()
	if err != nil {
		return err
	}
	c, err := coordinator.New(rdb, p.coordinatorOptions(metrics)...)
	if err != nil {
		return err
	}
	defer c.Close()
	doors := &doors{remarks: remarks, limits: p.Limits}
	handler, err := p.handler(c, metrics, doors)
	if err != nil {
		return err
	}
	if err := c.Load(ctx); err != nil {
		remarks.Printf("warning: %v; until it is mended, requests with a key are not protected, and refused unless --pass-when-unavailable is given", err)
	}
	if err := doors.open("proxy for "+p.Upstream, p.Listen, handler); err != nil {
		return err
	}
	if p.Admin != "" {
		if err := doors.open("admin", p.Admin, adminHandler(ctx, metrics, rdb)); err != nil {
			doors.close()
			return err
		}
	}
	return doors.serve(ctx)
}

// handler is all that a request passes through.
func (p *proxyCommand) handler(c *coordinator.Coordinator, m *metrics, d *doors) (http.Handler, error) {
	target, err := p.target()
	if err != nil {
		return nil, err
	}
	opts, err := p.options()
	if err != nil {
		return nil, err
	}
	once, err := coordhttp.New(c, append(opts, coordhttp.Background(d.after), coordhttp.Observe(func(r *http.Request, outcome string, reason error) {
		m.answered(outcome)
		if worthALine[outcome] {
			d.remarks.Printf("%s: %s: %v", r.Method, outcome, reason)
		}
	}))...)
	if err != nil {
		return nil, err
	}
	return once(whole(p.upstream(target, d.remarks))), nil
}

// worthALine are outcomes that somebody has to look into.
var worthALine = map[string]bool{
	string(coordhttp.KindUnavailable): true, string(coordhttp.KindAnswerUnreadable): true, string(coordhttp.KindTenantUnknown): true,
	string(coordhttp.KindUncertain): true,
	coordhttp.OutcomeUnstored:       true, coordhttp.OutcomeUnprotected: true,
}

// connect returns a client, and what is to be called at the end. Without --redis there is a server within this program.
func (p *proxyCommand) connect(remarks *log.Logger) (redis.UniversalClient, func(), error) {
	if p.Store.Redis != "" {
		at, err := parseEndpoint(p.Store.Redis, p.Store.Cluster)
		if err != nil {
			return nil, nil, err
		}
		rdb := at.client(nil)
		return rdb, func() { rdb.Close() }, nil
	}
	server, password := miniredis.NewMiniRedis(), rand.Text()
	server.RequireAuth(password) // it listens where others on this machine can connect
	if err := server.Start(); err != nil {
		return nil, nil, fmt.Errorf("cannot start the server within this program: %w", err)
	}
	remarks.Print("warning: there is no --redis, so answers are kept in this process: they are forgotten when it ends, and other instances do not have them")
	aging, cancel := context.WithCancel(context.Background())
	go age(aging, server)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: password})
	return rdb, func() {
		cancel()
		rdb.Close()
		server.Close()
	}, nil
}

// age makes time pass for the server within this program, which would never forget anything by itself.
func age(ctx context.Context, server *miniredis.Miniredis) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			server.FastForward(time.Second)
		case <-ctx.Done():
			return
		}
	}
}

// doors are the listeners and their servers, the one for clients first.
type doors struct {
	remarks *log.Logger
	limits  limitFlags
	all     []door
	behind  atomic.Int64 // what goes on for requests that are answered
}

type door struct {
	listener net.Listener
	server   *http.Server
}

func (d *doors) open(what, address string, handler http.Handler) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w; choose another address", address, err)
	}
	d.all = append(d.all, door{listener, &http.Server{
		Handler: handler, ErrorLog: d.remarks,
		ReadHeaderTimeout: d.limits.ReadHeaderTimeout, ReadTimeout: d.limits.ReadTimeout,
		IdleTimeout: d.limits.IdleTimeout, MaxHeaderBytes: d.limits.MaxHeaderBytes,
	}})
	d.remarks.Printf("%s listens on %s", what, listener.Addr())
	return nil
}

func (d *doors) close() {
	for _, door := range d.all {
		_ = door.listener.Close()
		_ = door.server.Close()
	}
}

// after runs what goes on when a request is answered, such as to store its answer.
func (d *doors) after(work func()) {
	d.behind.Add(1)
	go func() {
		defer d.behind.Add(-1)
		work()
	}()
}

// settle waits for it. What is left when ctx ends has its own end with the coordinator.
func (d *doors) settle(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for d.behind.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d answers could still not be stored after %v; their keys are free when their leases lapse: see why Redis does not answer", d.behind.Load(), d.limits.ShutdownTimeout)
		}
	}
	return nil
}

// serve returns when ctx has ended and what ran then is finished. The admin's door stays open until the end.
func (d *doors) serve(ctx context.Context) error {
	defer d.close()
	ended := make(chan error, len(d.all))
	for _, door := range d.all {
		go func() { ended <- door.server.Serve(door.listener) }()
	}
	select {
	case err := <-ended:
		return fmt.Errorf("cannot go on listening: %w", err)
	case <-ctx.Done():
	}
	finishing, cancel := context.WithTimeout(context.Background(), d.limits.ShutdownTimeout)
	defer cancel()
	if err := d.all[0].server.Shutdown(finishing); err != nil {
		return fmt.Errorf("requests still ran after %v and were cut off; their keys are free when their leases lapse: raise --shutdown-timeout if they need longer", d.limits.ShutdownTimeout)
	}
	return d.settle(finishing)
}
