package coordhttp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator"
)

// What a handler is told does not depend on when it asks first.
func TestHandlerContext(t *testing.T) {
	type world struct {
		gone, end func()
		lost      context.CancelCauseFunc
	}
	left := errors.New("left")
	ends := map[string]struct {
		by    func(world)
		err   error
		cause error
	}{
		"by nobody":   {by: func(world) {}},
		"by a client": {func(w world) { w.gone() }, context.Canceled, left},
		"by a lease":  {func(w world) { w.lost(coordinator.ErrLeaseLost) }, context.Canceled, coordinator.ErrLeaseLost},
		"by its end":  {func(w world) { w.end() }, context.Canceled, context.Canceled},
	}
	asks := map[string]func(context.Context) context.Context{
		"nothing":    func(ctx context.Context) context.Context { return ctx },
		"a channel":  func(ctx context.Context) context.Context { ctx.Done(); return ctx },
		"an error":   func(ctx context.Context) context.Context { _ = ctx.Err(); return ctx },
		"a cause":    func(ctx context.Context) context.Context { _ = context.Cause(ctx); return ctx },
		"for itself": func(ctx context.Context) context.Context { return context.WithValue(ctx, left, "a child") },
		"a child": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			t.Cleanup(cancel)
			return ctx
		},
	}
	deadline := time.Now().Add(time.Hour)
	for how, end := range ends {
		for what, ask := range asks {
			t.Run(how+", asked for "+what, func(t *testing.T) {
				whole, cancel := context.WithDeadline(context.Background(), deadline)
				defer cancel()
				client, leave := context.WithCancelCause(whole)
				lease, lost := context.WithCancelCause(context.Background())
				defer lost(nil)
				o := &operation{}
				c := &handlerContext{Context: client, o: o, lease: lease}
				defer c.end()
				ctx := ask(c)
				if at, is := ctx.Deadline(); ctx.Err() != nil || context.Cause(ctx) != nil || !is || !at.Equal(deadline) {
					t.Fatalf("before: %v, %v, until %v", ctx.Err(), context.Cause(ctx), at)
				}
				end.by(world{func() { leave(left) }, c.end, lost})
				if end.err == nil {
					select {
					case <-ctx.Done():
						t.Errorf("it has ended: %v", ctx.Err())
					default:
					}
				} else {
					soon := time.NewTimer(10 * time.Second)
					defer soon.Stop()
					select {
					case <-ctx.Done():
					case <-soon.C:
						t.Error("it goes on")
					}
				}
				if !errors.Is(ctx.Err(), end.err) || !errors.Is(context.Cause(ctx), end.cause) || ctx.Value(operationKey{}) != o {
					t.Errorf("%v, because of %v, for %v", ctx.Err(), context.Cause(ctx), ctx.Value(operationKey{}))
				}
			})
		}
	}
}

func TestHandlerContextShowsNothing(t *testing.T) {
	c := &handlerContext{Context: context.Background(), o: &operation{body: []byte("secret")}, lease: context.Background()}
	if text := fmt.Sprintf("%v %+v %s", c, context.WithValue(c, operationKey{}, 1), c); strings.Contains(text, "secret") || strings.Contains(text, "0x") || !strings.Contains(text, "WithLease") {
		t.Error(text)
	}
}

// The first question may be that for the cause, when all is over.
func TestHandlerContextIsAskedLate(t *testing.T) {
	for name, ask := range map[string]func(context.Context) error{
		"the cause": context.Cause,
		"the error": func(ctx context.Context) error {
			if ctx.Err() == nil {
				return nil
			}
			return context.Cause(ctx)
		},
	} {
		lease, lost := context.WithCancelCause(context.Background())
		c := &handlerContext{Context: context.Background(), lease: lease}
		if err := ask(c); err != nil {
			t.Errorf("%s before: %v", name, err)
		}
		c = &handlerContext{Context: context.Background(), lease: lease}
		lost(coordinator.ErrLeaseLost)
		if err := ask(c); !errors.Is(err, coordinator.ErrLeaseLost) {
			t.Errorf("%s after the loss: %v", name, err)
		}
		c = &handlerContext{Context: context.Background(), lease: context.Background()}
		c.end()
		if err := ask(c); !errors.Is(err, context.Canceled) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
}

// Those that ask, the end of the lease and that of the handler may come at once.
func TestHandlerContextOfMany(t *testing.T) {
	for range 200 {
		lease, lost := context.WithCancelCause(context.Background())
		client, leave := context.WithCancel(context.Background())
		c := &handlerContext{Context: client, o: &operation{}, lease: lease}
		over := make(chan struct{})
		for range 4 {
			go func() {
				child, cancel := context.WithTimeout(c, time.Minute)
				defer cancel()
				<-child.Done()
				over <- struct{}{}
			}()
		}
		go lost(coordinator.ErrLeaseLost)
		go leave()
		go c.end()
		for range 4 {
			<-over
		}
	}
}
