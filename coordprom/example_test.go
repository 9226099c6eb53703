package coordprom_test

import (
	"context"
	"fmt"
	"log"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/coordprom"
)

func ExampleNew() {
	server, err := miniredis.Run() // a Redis within this program; a service has its own
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()

	reg := prometheus.NewRegistry() // or prometheus.DefaultRegisterer
	observer, err := coordprom.New(reg, coordprom.WithConstLabels(prometheus.Labels{"service": "payments"}))
	if err != nil {
		log.Fatal(err)
	}
	c, err := coordinator.New(rdb, coordinator.WithObserver(observer))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Claim(context.Background(), coordinator.Key{ID: "payment-1"}); err != nil {
		log.Fatal(err)
	}

	families, err := reg.Gather() // as promhttp.HandlerFor(reg, …) does when it is scraped
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "coordinator_leases" {
			fmt.Println(family.GetName(), family.GetMetric()[0].GetGauge().GetValue())
		}
	}
	// Output:
	// coordinator_leases 1
}
