package coordhttp

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/onceward/coordinator"
)

type operationKey struct{}

// KeyFrom returns the key of the operation that a handler runs for, to fence its writes with for instance; see [coordinator.Coordinator.Fence].
// False where a request passed through without a key.
func KeyFrom(ctx context.Context) (coordinator.Key, bool) {
	o, there := ctx.Value(operationKey{}).(*operation)
	if !there {
		return coordinator.Key{}, false
	}
	return o.key, true
}

// ReleaseKey is for a handler that knows that the operation has not taken place: its answer is not kept, whatever its status, and a
// retry runs the handler again. It does nothing for a request that passed through.
func ReleaseKey(ctx context.Context) {
	if o, there := ctx.Value(operationKey{}).(*operation); there {
		o.released.Store(true)
	}
}

// handlerRequest is the request as the handler gets it.
func (o *operation) handlerRequest(ctx context.Context) *http.Request {
	r := o.r.WithContext(ctx)
	body := &requestBody{}
	body.Reset(o.body)
	r.Body, r.ContentLength = body, int64(len(o.body))
	return r
}

// requestBody is a body that was read, to be read again.
type requestBody struct{ bytes.Reader }

// Close does nothing: the connection's own body was read to its end.
func (*requestBody) Close() error { return nil }

// detached is the context of a handler that goes on without its client, or without a lease.
func (o *operation) detached(ctx context.Context) context.Context {
	return context.WithValue(ctx, operationKey{}, o)
}

// handlerContext is a handler's that ends with its client's request, with the lease, and with the handler. Most handlers never
// wait for that, and to listen to both costs more than all else that a handler is given: it begins when somebody asks.
type handlerContext struct {
	context.Context // the request's, with the grant
	o               *operation
	lease           context.Context

	mu     sync.Mutex
	joined context.Context // nil until somebody has asked
	stop   func()
	over   bool
}

func (o *operation) handlerContext(lease *coordinator.Lease) (_ context.Context, end func()) {
	if o.detach {
		return o.detached(lease.Context()), func() {}
	}
	c := &handlerContext{Context: coordinator.ContextWithGrant(o.r.Context(), lease.Grant()), o: o, lease: lease.Context()}
	return c, c.end
}

// String names it for who prints it, as contexts do: what is in it is no one's to see, and changes under his hands.
func (c *handlerContext) String() string { return fmt.Sprint(c.Context, ".WithLease") }

func (c *handlerContext) Done() <-chan struct{} { return c.join().Done() }

func (c *handlerContext) Err() error {
	if c.begun() || c.lease.Err() != nil || c.Context.Err() != nil {
		return c.join().Err()
	}
	return nil
}

// Value has the cause too, by which context.Cause asks.
func (c *handlerContext) Value(key any) any {
	switch {
	case key == operationKey{}:
		return c.o
	case c.begun() || c.lease.Err() != nil:
		return c.join().Value(key)
	}
	return c.Context.Value(key)
}

// begun says whether somebody has asked, or has to be told that it is over.
func (c *handlerContext) begun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joined != nil || c.over
}

func (c *handlerContext) join() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.joined != nil {
		return c.joined
	}
	ctx, cancel := context.WithCancelCause(c.Context)
	c.joined, c.stop = ctx, func() { cancel(context.Canceled) }
	switch {
	case c.over:
		c.stop()
	case c.lease.Err() != nil:
		cancel(context.Cause(c.lease))
	default:
		unlisten := context.AfterFunc(c.lease, func() { cancel(context.Cause(c.lease)) })
		c.stop = func() {
			unlisten()
			cancel(context.Canceled)
		}
	}
	return ctx
}

// end is for when the handler has returned.
func (c *handlerContext) end() {
	c.mu.Lock()
	c.over = true
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
}
