// Package estimate says what the module costs at sizes that nobody has at hand: arithmetic on measured costs of single
// operations, and simulations with a fixed seed where arithmetic would have to guess. It touches no network.
package estimate

import (
	_ "embed" // the costs
	"encoding/json"
	"fmt"
)

// Cost is the server's CPU time for one command, in µs.
type Cost struct {
	Pipelined float64 `json:"pipelined"` // in long pipelines
	Single    float64 `json:"single"`    // each sent alone, by several connections at once: with a read and a write of its own
}

// Observed is what a server was seen to do.
type Observed struct {
	PerSecond float64 `json:"per_second"`
	Busy      float64 `json:"busy"` // of a core, all threads of the server
}

// Costs are the inputs of everything here. costs.json holds them, and where they come from.
type Costs struct {
	Server   string `json:"server"`
	From     string `json:"from"`
	Pipeline int    `json:"pipeline"` // commands in one, where a cost is pipelined
	Callers  int    `json:"callers"`  // at once, where it is single
	Payload  int    `json:"payload"`  // bytes of a result

	Set      Cost `json:"set"`      // SET PX of a payload
	Get      Cost `json:"get"`      // GET of it
	Claim    Cost `json:"claim"`    // a fresh one
	Complete Cost `json:"complete"` // nobody waits
	Resource Cost `json:"resource"` // a fresh claim and its completion, of a key with a resource
	Waited   Cost `json:"waited"`   // a completion that publishes, to nobody
	Refused  Cost `json:"refused"`  // a claim that is answered IN_PROGRESS
	Replay   Cost `json:"replay"`   // a claim that is answered with the result
	Mark     Cost `json:"mark"`     // a waiter's
	Renew    Cost `json:"renew"`
	Publish  Cost `json:"publish"`  // to no subscriber, on a single server
	SPublish Cost `json:"spublish"` // the same, sharded

	Observed struct { // fresh claims, with the callers on the same machine
		Pipelined Observed `json:"pipelined"` // one connection, which waits for each pipeline
		Single    Observed `json:"single"`
	} `json:"observed"`

	Bus struct {
		Send    float64 `json:"send_micros"`    // of the node that was asked to publish, for each other node
		Receive float64 `json:"receive_micros"` // of each other node
		Bytes   float64 `json:"bytes"`          // of a message on the bus, without the channel and the text
	} `json:"bus"`

	Wire struct { // bytes between client and server, both ways
		Cycle  float64 `json:"cycle"` // a claim and its completion
		Replay float64 `json:"replay"`
		Renew  float64 `json:"renew"`
	} `json:"wire"`

	Memory struct {
		Name      int `json:"name"`      // bytes of a record's name: a UUID, a short scope, the default prefix
		InFlight  int `json:"in_flight"` // bytes of a record in progress, without a fingerprint
		Completed int `json:"completed"` // the same of a completed one, without its result
		Tables    int `json:"tables"`    // of Redis' tables for each key with a TTL
	} `json:"memory"`

	Client struct {
		Cycle float64 `json:"cycle_micros"` // a process' CPU for a claim and its completion through the library, each alone
		Renew float64 `json:"renew_micros"` // for a renewal in a pipeline
	} `json:"client"`
}

//go:embed costs.json
var measured []byte

// Measured are the costs of costs.json.
func Measured() (c Costs, err error) {
	if err := json.Unmarshal(measured, &c); err != nil {
		return c, fmt.Errorf("costs.json: %w", err)
	}
	return c, nil
}

// Cycle is a fresh claim and its completion.
func (c *Costs) Cycle() Cost {
	return Cost{Pipelined: c.Claim.Pipelined + c.Complete.Pipelined, Single: c.Claim.Single + c.Complete.Single}
}

// In is the cost of one command in pipelines of n: what a command costs alone beyond a pipelined one is the price of a
// read and a write, which the n share.
func (c Cost) In(n float64) float64 {
	if n < 1 {
		n = 1
	}
	return c.Pipelined + max(0, c.Single-c.Pipelined)/n
}
