package coordgrpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// The names in the metadata of calls.
const (
	KeyMetadata   = "idempotency-key" // a call's key: 1 to 255 visible ASCII characters without commas and double quotes
	GrantMetadata = "fencing-token"   // a grant, "<token>.<owner>": a credential
)

// The names in the header metadata, and in the trailer, of answers that did not go the usual way; each is "true".
const (
	ReplayedMetadata    = "idempotency-replayed"    // a stored answer
	UnprotectedMetadata = "idempotency-unprotected" // Redis was away, or it is a stream: it may take effect again
	UnstoredMetadata    = "idempotency-unstored"    // the answer could not be stored; a retry may run again
)

// maxKey is the most bytes that a key has, as coordinator.Key.ID takes them.
const maxKey = 255

var errNoKey = errors.New("no idempotency key")

// readKey returns the key of a call, errNoKey where there is none; other errors say what is wrong with it.
func readKey(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, KeyMetadata)
	switch len(values) {
	case 0:
		return "", errNoKey
	case 1:
		return values[0], checkKey(values[0])
	}
	return "", fmt.Errorf("it was sent %d times; send it once", len(values))
}

// checkKey takes what an HTTP header would take without quotes: a comma is where a proxy may have made two keys one.
func checkKey(key string) error {
	if key == "" {
		return errors.New("it is empty; leave it out, or send a key that is unique to the operation")
	}
	if len(key) > maxKey {
		return fmt.Errorf("it has %d bytes; at most %d are allowed", len(key), maxKey)
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c > '~' || c == ',' || c == '"' {
			return fmt.Errorf("byte %d of it is not allowed; send visible ASCII without commas and double quotes", i+1)
		}
	}
	return nil
}

// neverStored says whether metadata belongs to one connection or one caller, or to the transport.
func neverStored(name string) bool {
	switch name {
	case "set-cookie", "authorization", "www-authenticate", "date", "content-type", "user-agent", "te", "connection",
		ReplayedMetadata, UnprotectedMetadata, UnstoredMetadata, KeyMetadata, GrantMetadata:
		return true
	}
	return strings.HasPrefix(name, ":") || strings.HasPrefix(name, "grpc-")
}

// kept is what may be stored of the metadata that a handler has set.
func kept(set metadata.MD) metadata.MD {
	md := metadata.MD{}
	for name, values := range set {
		if name = strings.ToLower(name); !neverStored(name) {
			md[name] = append(md[name], values...)
		}
	}
	return md
}

// recorder holds back the metadata that a handler sets, until it is known whose answer the caller gets.
type recorder struct {
	method string
	stream grpc.ServerTransportStream // nil where the interceptor is called without a server

	mu              sync.Mutex
	header, trailer metadata.MD
	sent, over      bool // the header is out; the handler has returned
}

var errHeaderSent = errors.New("coordgrpc: the header was sent already, or the handler has returned")

// Method is the call's.
func (r *recorder) Method() string { return r.method }

// SetHeader holds md.
func (r *recorder) SetHeader(md metadata.MD) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent || r.over {
		return errHeaderSent
	}
	r.header = metadata.Join(r.header, md)
	return nil
}

// SendHeader sends the header at once, as the handler says. It is stored nevertheless.
func (r *recorder) SendHeader(md metadata.MD) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent || r.over {
		return errHeaderSent
	}
	r.header, r.sent = metadata.Join(r.header, md), true
	if r.stream == nil {
		return nil
	}
	return r.stream.SendHeader(r.header)
}

// SetTrailer holds md.
func (r *recorder) SetTrailer(md metadata.MD) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return errHeaderSent
	}
	r.trailer = metadata.Join(r.trailer, md)
	return nil
}

// close returns what the handler has set. What it sets later is an error.
func (r *recorder) close() (header, trailer metadata.MD) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.header, r.trailer
}

// pass gives the caller what was held back.
func (r *recorder) pass() {
	header, trailer := r.close()
	if r.sent {
		header = nil
	}
	r.set(header, trailer)
}

// set adds to the answer. Where the header is out it cannot be done, and the answer is right without it.
func (r *recorder) set(header, trailer metadata.MD) {
	if r.stream == nil {
		return
	}
	_ = r.stream.SetHeader(header)
	_ = r.stream.SetTrailer(trailer)
}

// mark marks the answer in its header, and in its trailer for where the handler has sent the header.
func (r *recorder) mark(name string) {
	md := metadata.Pairs(name, "true")
	r.set(md, md)
}
