package main

import (
	"bufio"
	"net"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/examples/http/internal/bank"
)

// grouped covers the routes of a group. The scope is gin's pattern.
func grouped(c *coordinator.Coordinator) (http.Handler, error) {
	once, err := coordhttp.New(c, coordhttp.Tenant(bank.Tenant), coordhttp.Resource(bank.Account), coordhttp.RequireKey(), coordhttp.Wait(5*time.Second))
	if err != nil {
		return nil, err
	}
	engine := gin.New()
	engine.Use(gin.Recovery())
	engine.Group("/", wrap(once)).POST("/charges", charge(c))
	return bank.Authenticate(engine), nil
}

// wrap makes a middleware of net/http one of gin's: gin's handlers must get the writer and the request that it passes on. With the
// request alone they answer past the middleware, and replays have no body.
func wrap(mw func(http.Handler) http.Handler) gin.HandlerFunc {
	return func(ctx *gin.Context) {
		outside, before := ctx.Writer, ctx.Request
		defer func() { ctx.Writer, ctx.Request = outside, before }() // for what comes after: Recovery, logs
		before.Pattern = ctx.FullPath()
		ran := false
		mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ran = true
			inside := &writer{ResponseWriter: outside, to: w, status: http.StatusOK}
			ctx.Writer, ctx.Request = inside, r
			ctx.Next()
			inside.WriteHeaderNow() // as the engine does for its own writer
		})).ServeHTTP(outside, before)
		if !ran {
			ctx.Abort() // the middleware has answered
		}
	}
}

// writer is a gin.ResponseWriter on what a middleware passes on. Like gin's it remembers a status until something is written.
type writer struct {
	gin.ResponseWriter // for CloseNotify and Pusher
	to                 http.ResponseWriter
	status, size       int
	written            bool
}

func (w *writer) Unwrap() http.ResponseWriter { return w.to }
func (w *writer) Header() http.Header         { return w.to.Header() }
func (w *writer) Status() int                 { return w.status }
func (w *writer) Written() bool               { return w.written }

// Size is -1 until something is written, as gin's loggers know it.
func (w *writer) Size() int {
	if !w.written {
		return -1
	}
	return w.size
}

func (w *writer) WriteHeader(status int) {
	if status > 0 && !w.written {
		w.status = status
	}
}

func (w *writer) WriteHeaderNow() {
	if !w.written {
		w.written = true
		w.to.WriteHeader(w.status)
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.WriteHeaderNow()
	n, err := w.to.Write(p)
	w.size += n
	return n, err
}

func (w *writer) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

func (w *writer) Flush() {
	w.WriteHeaderNow()
	_ = http.NewResponseController(w.to).Flush() // gin's has no error either
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.written = true
	return http.NewResponseController(w.to).Hijack()
}
