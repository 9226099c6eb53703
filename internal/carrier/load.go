package carrier

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/scripts"
)

// Load puts the scripts on every master, and checks that each server is one that they run on. It returns when ctx
// ends, at the latest.
func (c *Carrier) Load(ctx context.Context) error {
	ctx, cancel := c.Bound(ctx)
	defer cancel()
	finished := make(chan error, 1)
	go func() { finished <- c.eachMaster(ctx, loadNode) }()
	select {
	case err := <-finished:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// eachMaster calls fn for every master that serves keys, at the same time, and joins the errors. For
// anything but a cluster that is the one server.
func (c *Carrier) eachMaster(ctx context.Context, fn func(context.Context, redis.UniversalClient) error) error {
	if c.Cluster == nil {
		return fn(ctx, c.Client)
	}
	var mu sync.Mutex
	var all []error
	err := c.Cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		if err := fn(ctx, node); err != nil {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, fmt.Errorf("%s: %w", node.Options().Addr, err))
		}
		return nil // or the other nodes would be left out
	})
	return errors.Join(append(all, err)...)
}

func loadNode(ctx context.Context, node redis.UniversalClient) error {
	if err := checkVersion(ctx, node); err != nil {
		return explain(err)
	}
	pipe := node.Pipeline()
	for _, s := range scripts.All() {
		pipe.ScriptLoad(ctx, s.Text)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return explain(err)
	}
	return nil
}

// Refusal says why a request was not sent and will not be: a server that will not do, or a fault that a test made.
type Refusal string

func (r Refusal) Error() string { return string(r) }

const oldestServer = 7 // Redis 7.0; Valkey starts at 7.2

// checkVersion refuses a server that is too old. One that does not say its version, or not to us, passes:
// what it cannot do, it will say itself.
func checkVersion(ctx context.Context, node redis.UniversalClient) error {
	info, err := node.Info(ctx, "server").Result()
	if err != nil {
		var refused redis.Error
		if errors.As(err, &refused) {
			return nil
		}
		return err
	}
	version := infoField(info, "redis_version")
	major, _, _ := strings.Cut(version, ".")
	if infoField(info, "arch_bits") == "32" {
		return Refusal("the server is a 32-bit one, whose Lua cuts tokens off; a 64-bit Redis 7.0 or Valkey 7.2 or later is needed")
	}
	if n, err := strconv.Atoi(major); err == nil && n < oldestServer {
		return Refusal("the server is Redis " + version + "; Redis 7.0 or Valkey 7.2 or later is needed")
	}
	return nil
}

func infoField(info, name string) string {
	_, rest, _ := strings.Cut(info, name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}
