// Gin is the payment service on gin.
//
//	go run ./examples/http/gin
package main

import (
	"log"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordhttp"
	"github.com/onceward/coordinator/examples/http/internal/bank"
)

// service puts the middleware around the whole engine, so that all that gin writes passes through it. No route is known there: the scope
// is the path, and what has no route needs a key too. Where only some routes are to be covered, see grouped.
func service(c *coordinator.Coordinator) (http.Handler, error) {
	once, err := coordhttp.New(c, coordhttp.Tenant(bank.Tenant), coordhttp.Resource(bank.Account), coordhttp.RequireKey(), coordhttp.Wait(5*time.Second))
	if err != nil {
		return nil, err
	}
	engine := gin.New()
	engine.Use(gin.Recovery())
	engine.POST("/charges", charge(c))
	return bank.Authenticate(once(engine)), nil
}

func charge(c *coordinator.Coordinator) gin.HandlerFunc {
	return func(ctx *gin.Context) {
		var order struct{ Cents int }
		if err := ctx.ShouldBindJSON(&order); err != nil || order.Cents < 1 {
			ctx.JSON(http.StatusBadRequest, gin.H{"error": "send cents"})
			return
		}
		booked, err := bank.Book(c, ctx.Request, order.Cents) // ctx.Request has the grant; ctx itself has not
		if err != nil {
			log.Print(err)
			ctx.JSON(http.StatusServiceUnavailable, gin.H{"error": "try again"})
			return
		}
		ctx.Header("Location", "/charges/"+booked.ID)
		ctx.JSON(http.StatusCreated, booked)
	}
}

func main() { log.Fatal(bank.Serve(service)) }
