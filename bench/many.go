package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/redis/go-redis/v9"
)

const sameMany = `Both sides claim as many fresh keys on a cluster of three masters with a replica each, with the same coordinator: once with ClaimMany, once with Claim for
one key after the other. Pipelines are counted at each node's own client. No peer has a call for many keys: a lock each, one after the other, is what there is.`

// many is row 9.
func (l *lab) many(ctx context.Context) ([]figure, error) {
	l.progress.step("starts a cluster")
	cluster, err := redistest.StartCluster(ctx, 3, 1)
	if err != nil {
		return nil, err
	}
	defer cluster.Stop()
	rdb := cluster.Client(nil)
	defer rdb.Close()
	count := &nodeCounter{nodes: map[string]*pipelineCounter{}}
	rdb.OnNewNode(count.add)
	var pipelines, nodes, faster, took []float64
	for round := -1; round < l.rounds; round++ {
		l.progress.step("round %d of %d", round+1, l.rounds)
		together, most, asked, err := l.claimTogether(ctx, rdb, count)
		if err != nil {
			return nil, err
		}
		apart, err := l.claimApart(ctx, rdb)
		if err != nil {
			return nil, err
		}
		if round < 0 {
			continue // it dials and loads the scripts
		}
		pipelines, nodes = append(pipelines, most), append(nodes, asked)
		faster, took = append(faster, apart.Seconds()/together.Seconds()), append(took, millis(together))
	}
	return []figure{
		figureOf("many_pipelines", "pipelines that a node got, at most", "", pipelines).atMost(1),
		figureOf("many_faster", fmt.Sprintf("rate against %d single claims", l.batch), "times", faster).atLeast(8),
		figureOf("many_nodes", "nodes that got one", "", nodes),
		figureOf("many_took", fmt.Sprintf("ClaimMany of %d keys", l.batch), "ms", took),
	}, nil
}

// claimTogether claims a batch with ClaimMany. It returns how many pipelines the most asked node got, and how many nodes got any.
func (l *lab) claimTogether(ctx context.Context, rdb *redis.ClusterClient, count *nodeCounter) (took time.Duration, most, nodes float64, err error) {
	c, err := coordinator.New(rdb) // whose leases end with it
	if err != nil {
		return 0, 0, 0, err
	}
	defer c.Close()
	requests := make([]coordinator.ClaimRequest, l.batch)
	for i := range requests {
		requests[i].Key = newKey()
	}
	count.reset()
	begin := time.Now()
	results := c.ClaimMany(ctx, requests)
	took = time.Since(begin)
	most, nodes = count.most()
	for _, result := range results {
		if result.Err != nil {
			return 0, 0, 0, result.Err
		}
	}
	return took, most, nodes, nil
}

func (l *lab) claimApart(ctx context.Context, rdb *redis.ClusterClient) (time.Duration, error) {
	c, err := coordinator.New(rdb)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	keys := newKeys(l.batch)
	begin := time.Now()
	for _, key := range keys {
		if _, err := c.Claim(ctx, key); err != nil {
			return 0, err
		}
	}
	return time.Since(begin), nil
}

// nodeCounter counts the pipelines of each node of a cluster.
type nodeCounter struct {
	mu    sync.Mutex
	nodes map[string]*pipelineCounter
}

// add is called for each new client of a node.
func (n *nodeCounter) add(rdb *redis.Client) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr := rdb.Options().Addr
	if n.nodes[addr] == nil {
		n.nodes[addr] = &pipelineCounter{}
	}
	rdb.AddHook(n.nodes[addr])
}

func (n *nodeCounter) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, node := range n.nodes {
		node.pipelines.Store(0)
	}
}

func (n *nodeCounter) most() (most, nodes float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, node := range n.nodes {
		got := float64(node.pipelines.Load())
		most = max(most, got)
		if got > 0 {
			nodes++
		}
	}
	return most, nodes
}
