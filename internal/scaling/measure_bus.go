package main

import (
	"context"
	"fmt"
	"time"

	"github.com/onceward/coordinator/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// bus measures what a PUBLISH costs a cluster of three beyond what it costs a single server: the node that is asked, for
// each other node, and each of the others.
func bus(ctx context.Context, messages int, alone float64) (send, receive float64, err error) {
	const nodes = 3
	cluster, err := redistest.StartCluster(ctx, nodes, 0)
	if err != nil {
		return 0, 0, err
	}
	defer cluster.Stop()
	var rigs []*rig
	for _, server := range cluster.Nodes() {
		r := &rig{rdb: server.Client(&redis.Options{MaxRetries: -1}), pipeline: 100}
		defer r.rdb.Close()
		rigs = append(rigs, r)
	}
	var before, after [nodes]spent
	for i, r := range rigs {
		if before[i], err = r.spent(ctx); err != nil {
			return 0, 0, err
		}
	}
	commands := make([][]any, messages)
	for i := range commands {
		commands[i] = []any{"publish", fmt.Sprintf("coord:{payments:%036d}:r", i), ""}
	}
	if _, err := rigs[0].pipelines(ctx, commands); err != nil {
		return 0, 0, err
	}
	for i, r := range rigs {
		if i > 0 {
			err = r.received(ctx, messages)
		}
		if err == nil {
			after[i], err = r.spent(ctx)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	n := float64(messages)
	send = (after[0].micros - before[0].micros - alone*n) / n / (nodes - 1)
	for i := 1; i < nodes; i++ {
		receive += (after[i].micros - before[i].micros) / n / (nodes - 1)
	}
	return rounded(send), rounded(receive), nil
}

// received waits until so many messages have come over the bus.
func (r *rig) received(ctx context.Context, messages int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		text, err := r.rdb.Do(ctx, "cluster", "info").Text()
		if err != nil || number(text, "cluster_stats_messages_publish_received") >= float64(messages) {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
