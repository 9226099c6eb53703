// Echo is the payment service on echo.
//
//	go run ./examples/http/echo
package main

import (
	"log"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/examples/http/internal/bank"
)

// wrap makes the middleware echo's. echo.WrapMiddleware alone would keep 200 and nothing as the answer of a handler that returns an
// error: echo writes errors when the chain has ended, and the middleware has its answer by then.
func wrap(once func(http.Handler) http.Handler) echo.MiddlewareFunc {
	around := echo.WrapMiddleware(once)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		run := around(func(c echo.Context) error {
			if err := next(c); err != nil {
				c.Error(err)
			}
			return nil
		})
		return func(c echo.Context) error {
			c.Request().Pattern = c.Path() // as net/http's ServeMux does; the scope is then the route
			return run(c)
		}
	}
}

func service(c *coordinator.Coordinator) (http.Handler, error) {
	once, err := coordhttp.New(c, coordhttp.Tenant(bank.Tenant), coordhttp.Resource(bank.Account), coordhttp.RequireKey(), coordhttp.Wait(5*time.Second))
	if err != nil {
		return nil, err
	}
	e := echo.New()
	e.Use(echo.WrapMiddleware(bank.Authenticate))
	e.POST("/charges", charge(c), wrap(once))
	return e, nil
}

func charge(c *coordinator.Coordinator) echo.HandlerFunc {
	return func(ctx echo.Context) error {
		var order struct{ Cents int }
		if err := ctx.Bind(&order); err != nil {
			return err
		}
		if order.Cents < 1 {
			return echo.NewHTTPError(http.StatusBadRequest, "send cents")
		}
		booked, err := bank.Book(c, ctx.Request(), order.Cents)
		if err != nil {
			return echo.NewHTTPError(http.StatusServiceUnavailable, "try again").SetInternal(err)
		}
		ctx.Response().Header().Set("Location", "/charges/"+booked.ID)
		return ctx.JSON(http.StatusCreated, booked)
	}
}

func main() { log.Fatal(bank.Serve(service)) }
