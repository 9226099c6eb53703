package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/onceward/coordinator"
	"github.com/redis/go-redis/v9"
)

// loadCommand puts the scripts on every master. Programs do not depend on it: they send a script along
// when a server does not know it. It saves them that first round trip, and finds a server that is too
// old, out of reach or closed to us before they do. It warns of one that may lose records.
type loadCommand struct {
	Redis   string        `env:"COORDCTL_REDIS" placeholder:"URL" help:"Where Redis is: redis://, rediss:// or unix:// with user and password, several addr= for a cluster, master_name= for sentinels; or host:port,host:port for a cluster."`
	Cluster bool          `help:"The one address given is a node of a cluster."`
	Timeout time.Duration `default:"10s" help:"How long all of it may take."`
	JSON    bool          `name:"json" help:"Print one JSON object instead of a table."`
	MaxSkew time.Duration `default:"100ms" help:"Warn when clocks are apart by more than this and the round trip."`
	Strict  bool          `help:"Fail when there are warnings, also of what could not be checked."`
}

// node is what became of one master.
type node struct {
	Address string `json:"address"`
	Server  string `json:"server"` // "Redis 7.4.1"; empty when it does not say
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`

	Warnings []warning `json:"warnings"`
	clock    reading
}

func (l *loadCommand) Run(ctx context.Context, std streams) error {
	at, err := parseEndpoint(l.Redis, l.Cluster)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	rdb := at.client(nil)
	defer rdb.Close()

	nodes, err := loadAll(ctx, rdb, serverTime)
	if err != nil {
		return fmt.Errorf("cannot ask the cluster for its masters: %w; are the addresses right, and is it a cluster?", err)
	}
	checkClocks(nodes, l.MaxSkew)
	if err := printNodes(std.out, nodes, l.JSON); err != nil {
		return err
	}
	failed, warnings := 0, 0
	for _, n := range nodes {
		if !n.OK {
			failed++
		}
		warnings += len(n.Warnings)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d nodes did not take the scripts; mend what their lines say and run load again", failed, len(nodes))
	}
	if l.Strict && warnings > 0 {
		return fmt.Errorf("the nodes took the scripts, with %d warnings; mend what these say, or leave --strict out", warnings)
	}
	return nil
}

// loadAll visits every master, whatever became of the others.
func loadAll(ctx context.Context, rdb redis.UniversalClient, c clock) ([]node, error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return []node{loadNode(ctx, rdb.(*redis.Client), c)}, nil
	}
	var mu sync.Mutex
	var nodes []node
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		n := loadNode(ctx, master, c)
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, n)
		return nil // what failed stands in the node's line
	})
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.Address, b.Address) })
	return nodes, err
}

func loadNode(ctx context.Context, rdb *redis.Client, c clock) node {
	n := node{Address: rdb.Options().Addr, Warnings: []warning{}}
	if err := loadScripts(ctx, rdb); err != nil {
		n.Error = err.Error()
		return n
	}
	info, err := inform(ctx, rdb)
	n.OK, n.Server, n.Warnings, n.clock = true, serverName(info), checkSettings(info, err), c.read(ctx, rdb)
	return n
}

func loadScripts(ctx context.Context, rdb *redis.Client) error {
	c, err := coordinator.New(rdb)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Load(ctx)
}

// serverName returns the server's kind and version; a server may keep them to itself.
func serverName(info map[string]string) string {
	for _, kind := range []struct{ name, field string }{{"Valkey", "valkey_version"}, {"Redis", "redis_version"}} {
		if version := info[kind.field]; version != "" {
			return kind.name + " " + version
		}
	}
	return ""
}

func printNodes(out io.Writer, nodes []node, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(map[string][]node{"nodes": nodes})
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tSERVER\tSCRIPTS")
	warned := false
	for _, n := range nodes {
		state := "ok"
		if !n.OK {
			state = "error: " + n.Error
		}
		server := n.Server
		if server == "" {
			server = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", n.Address, server, state)
		for _, about := range n.Warnings {
			warned = true
			fmt.Fprintf(w, "\twarning\t%s\t%s\n", about.Check, about.Text)
		}
	}
	if warned {
		fmt.Fprintln(w, "Warnings have the names under which docs/redis.md explains them, see its server settings.")
	}
	return w.Flush()
}
