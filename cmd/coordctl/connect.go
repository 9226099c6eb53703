package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// endpoint is a place where Redis is found: one server, a cluster, or what sentinels point to. One of its
// fields is set.
type endpoint struct {
	server   *redis.Options
	cluster  *redis.ClusterOptions
	failover *redis.FailoverOptions
}

// dialer replaces go-redis' own way to connect.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

var errNoAddress = errors.New(`say where Redis is: --redis redis://host:6379, "host:port,host:port" for a cluster, or COORDCTL_REDIS`)

// parseEndpoint reads what --redis takes: a URL as go-redis has them (redis, rediss or unix; several addr=
// parameters mean a cluster, master_name= means sentinels), or addresses separated by commas. cluster
// makes a cluster of a single address.
func parseEndpoint(spec string, cluster bool) (*endpoint, error) {
	if spec == "" {
		return nil, errNoAddress
	}
	if !strings.Contains(spec, "://") {
		return parseAddresses(spec, cluster)
	}
	u, err := url.Parse(spec)
	if err != nil {
		return nil, badURL(err)
	}
	var e endpoint
	query := u.Query()
	switch {
	case query.Has("master_name"):
		e.failover, err = redis.ParseFailoverURL(spec)
	case cluster || query.Has("addr"):
		e.cluster, err = redis.ParseClusterURL(spec)
	default:
		e.server, err = redis.ParseURL(spec)
	}
	if err != nil {
		return nil, badURL(err)
	}
	return &e, nil
}

func parseAddresses(spec string, cluster bool) (*endpoint, error) {
	addrs := strings.Split(spec, ",")
	for i, addr := range addrs {
		addrs[i] = strings.TrimSpace(addr)
		if host, port, err := net.SplitHostPort(addrs[i]); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("%q is not an address: write host:port, or a URL such as redis://host:port", addrs[i])
		}
	}
	if cluster || len(addrs) > 1 {
		return &endpoint{cluster: &redis.ClusterOptions{Addrs: addrs}}, nil
	}
	return &endpoint{server: &redis.Options{Addr: addrs[0]}}, nil
}

// badURL explains a URL that is none, without repeating it: it may hold a password.
func badURL(err error) error {
	var parse *url.Error
	if errors.As(err, &parse) {
		err = parse.Err
	}
	return fmt.Errorf("--redis: %w; write redis://user:password@host:port/db, rediss:// for TLS, unix:///path/to.sock, "+
		"or redis://host:port?addr=host:port for a cluster", err)
}

// client makes a client, which the caller closes; dial may be nil.
func (e *endpoint) client(dial dialer) redis.UniversalClient {
	switch {
	case e.cluster != nil:
		o := *e.cluster
		o.Dialer = dial
		return redis.NewClusterClient(&o)
	case e.failover != nil:
		o := *e.failover
		o.Dialer = dial
		return redis.NewFailoverClient(&o)
	}
	o := *e.server
	o.Dialer = dial
	return redis.NewClient(&o)
}

// plain says whether connections are TCP without TLS, so that something in between can read them.
func (e *endpoint) plain() bool {
	switch {
	case e.cluster != nil:
		return e.cluster.TLSConfig == nil
	case e.failover != nil:
		return e.failover.TLSConfig == nil
	}
	return e.server.TLSConfig == nil && e.server.Network != "unix"
}
