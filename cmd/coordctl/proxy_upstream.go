package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
)

// upstreamFlags say how requests are passed on.
type upstreamFlags struct {
	UpstreamTimeout time.Duration `default:"1m" help:"How long the upstream may take until its answer begins (default ${default})."`
	SendGrant       bool          `help:"Send the fencing token along, in a Fencing-Token header; a client's own is removed in any case."`
	PreserveHost    bool          `help:"Send the Host that the client has sent, instead of the upstream's."`
	TrustForwarded  bool          `help:"Keep Forwarded and X-Forwarded-* headers that come with requests; for where something in front sets them."`
}

const dialTimeout = 5 * time.Second

// upstream passes requests on.
func (p *proxyCommand) upstream(target *url.URL, remarks *log.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { p.rewrite(r, target) },
		Transport:      p.Service.transport(p.Limits.MaxHeaderBytes),
		ModifyResponse: refuseInvalid,
		ErrorHandler:   func(w http.ResponseWriter, r *http.Request, err error) { failed(w, r, err, remarks) },
		ErrorLog:       remarks,
	}
}

func (f *upstreamFlags) transport(maxHeader int) http.RoundTripper {
	// HTTP/2 would send some requests again by itself.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	t := &http.Transport{
		Protocols:              &protocols,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  f.UpstreamTimeout,
		MaxResponseHeaderBytes: int64(maxHeader),
		MaxIdleConnsPerHost:    100,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true, // what is stored is what the upstream has sent
	}
	if f.SendGrant {
		return &coordhttp.GrantTransport{Base: t}
	}
	return t
}

func (p *proxyCommand) rewrite(r *httputil.ProxyRequest, target *url.URL) {
	if p.Service.TrustForwarded {
		keep(r, "X-Forwarded-For") // to which SetXForwarded adds
	}
	r.SetXForwarded()
	if p.Service.TrustForwarded {
		keep(r, "Forwarded")
		keep(r, "X-Forwarded-Host")
		keep(r, "X-Forwarded-Proto")
	}
	// A client can name any header in its Connection header, and so have it removed.
	keep(r, p.Tenants.carrier())
	keep(r, p.Keys.Header)
	keep(r, idempotencyKey)
	r.Out.Header.Del(coordhttp.GrantHeader) // a client has none to give
	r.Out.URL.RawQuery = r.In.URL.RawQuery  // ReverseProxy takes away what it cannot parse, which another service may
	r.SetURL(target)
	if p.Service.PreserveHost {
		r.Out.Host = r.In.Host
	}
	sendOnce(r.Out)
}

const idempotencyKey = "Idempotency-Key"

func keep(r *httputil.ProxyRequest, name string) {
	if values := r.In.Header.Values(name); len(values) > 0 {
		r.Out.Header[http.CanonicalHeaderKey(name)] = values
	}
}

// sendOnce keeps [http.Transport] from sending a request again when a connection breaks. It does so with what it takes for
// idempotent: safe methods, and requests with an Idempotency-Key. The upstream may have run by then, and to run it again is not
// for the transport to decide. What was not written at all is still sent again.
func sendOnce(out *http.Request) {
	// The transport looks for the canonical names; on the wire the case makes no difference.
	for _, name := range []string{idempotencyKey, "X-Idempotency-Key"} {
		if values, there := out.Header[name]; there {
			delete(out.Header, name)
			out.Header[strings.ToLower(name)] = values
		}
	}
	switch _, covered := coordinator.GrantFrom(out.Context()); out.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		if !covered {
			return
		}
		// By --methods. A body that cannot be read twice is not sent twice; the transport finds that it is empty and sends none.
		if out.GetBody = nil; out.Body == nil {
			out.Body = io.NopCloser(strings.NewReader(""))
		}
	}
}

var errStatus = errors.New("its answer has a status that is none")

func refuseInvalid(r *http.Response) error {
	if r.StatusCode < 200 && r.StatusCode != http.StatusSwitchingProtocols || r.StatusCode > 599 {
		return fmt.Errorf("%w: %d", errStatus, r.StatusCode)
	}
	return nil
}

// failed answers where the upstream has not. That is no outcome, by whatever profile: a retry asks the upstream again.
func failed(w http.ResponseWriter, r *http.Request, err error, remarks *log.Logger) {
	status := http.StatusBadGateway
	if late, is := errors.AsType[net.Error](err); is && late.Timeout() {
		status = http.StatusGatewayTimeout
	}
	if !errors.Is(err, context.Canceled) { // the client has gone, or the lease
		remarks.Printf("upstream: %s answered with %d: %v", r.Method, status, err)
	}
	coordhttp.ReleaseKey(r.Context())
	w.Header().Set("Retry-After", "1")
	coordhttp.WriteProblem(w, r, coordhttp.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: "The service gave no answer, and may have run or not. Its outcome is not stored: the same request runs it again.",
	})
}

// whole keeps ReverseProxy from flushing answers that come in chunks: flushed ones are not kept. Event streams are passed on as
// they come, unless --hold-streams keeps them too; so is all that is not under a key.
func whole(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, covered := coordinator.GrantFrom(r.Context()); covered {
			w = wholeWriter{w}
		}
		next.ServeHTTP(w, r)
	})
}

type wholeWriter struct{ http.ResponseWriter }

func (w wholeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w wholeWriter) FlushError() error {
	if media, _, err := mime.ParseMediaType(w.Header().Get("Content-Type")); err != nil || media != "text/event-stream" {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}
