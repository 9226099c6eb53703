package main

import (
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/examples/http/internal/check"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	gin.DefaultErrorWriter = io.Discard // of Recovery
	os.Exit(m.Run())
}

func TestChargesTakeEffectOnce(t *testing.T) {
	scope := coordinator.JoinScope("acme", http.MethodPost, "/charges")
	t.Run("the whole engine", func(t *testing.T) { check.Once(t, service, scope) })
	t.Run("a group", func(t *testing.T) { check.Once(t, grouped, scope) })
}

// What gin's handlers can do with a writer ends in the same answers, within the adapter and around the engine.
func TestAdapter(t *testing.T) {
	runs := 0
	routes := func(r gin.IRoutes) {
		r.POST("/status/:only", func(ctx *gin.Context) { ctx.Status(http.StatusAccepted) })
		r.POST("/nothing/:sent", func(ctx *gin.Context) { ctx.Status(http.StatusNoContent) })
		r.POST("/abort/:it", func(ctx *gin.Context) {
			ctx.AbortWithStatusJSON(http.StatusPaymentRequired, gin.H{"error": "no funds"})
		})
		r.POST("/text/:it", func(ctx *gin.Context) { ctx.Header("X-One", "1"); ctx.String(http.StatusCreated, "text") })
		r.POST("/panic/:once", func(ctx *gin.Context) {
			if runs++; runs == 1 {
				panic("the first time")
			}
			ctx.String(http.StatusOK, "the second time")
		})
	}
	for name, cover := range map[string]func(func(http.Handler) http.Handler) http.Handler{
		"the whole engine": func(once func(http.Handler) http.Handler) http.Handler {
			engine := gin.New()
			engine.Use(gin.Recovery())
			routes(engine)
			return once(engine)
		},
		"a group": func(once func(http.Handler) http.Handler) http.Handler {
			engine := gin.New()
			engine.Use(gin.Recovery())
			routes(engine.Group("/", wrap(once)))
			return engine
		},
	} {
		t.Run(name, func(t *testing.T) {
			runs = 0
			b := check.Start(t, func(c *coordinator.Coordinator) (http.Handler, error) {
				once, err := coordhttp.New(c, coordhttp.SingleTenant())
				if err != nil {
					return nil, err
				}
				return cover(once), nil
			})
			for path, want := range map[string]check.Answer{
				"/status/x": {Status: 202}, "/nothing/x": {Status: 204}, "/text/x": {Status: 201, Body: "text"},
				"/abort/x": {Status: 402, Body: `{"error":"no funds"}`},
			} {
				first := b.Post(t, path, "acme", "key"+path, "")
				replay := b.Post(t, path, "acme", "key"+path, "")
				if check.Same(t, first, replay); first.Status != want.Status || first.Body != want.Body || first.Replayed || !replay.Replayed {
					t.Errorf("%s: %+v, then %+v; want %d %q", path, first, replay, want.Status, want.Body)
				}
			}
			for run, want := range []int{500, 200, 200} {
				if a := b.Post(t, "/panic/x", "acme", "key", ""); a.Status != want || a.Replayed != (run == 2) {
					t.Errorf("run %d of a handler that panics at first: %+v, want %d", run, a, want)
				}
			}
		})
	}
}
