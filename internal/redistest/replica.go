package redistest

import (
	"context"
	"fmt"
	"strings"
)

// StartReplica starts a replica of a standalone server, and waits until the
// link is up and the primary counts it as online, so that WAIT and a failover
// have something to work with.
func StartReplica(ctx context.Context, of *Server, extra ...string) (*Server, error) {
	c := &config{}
	dataConfig(c)
	c.set("replicaof", fmt.Sprintf("%s %d", host, of.port))
	s, err := start(ctx, c, false, extra)
	if err != nil {
		return nil, err
	}
	err = until(ctx, "replica "+s.Addr()+" of "+of.Addr(), func(ctx context.Context) error {
		if err := s.linkUp(ctx); err != nil {
			return err
		}
		info, err := of.info(ctx, "replication")
		if err != nil {
			return err
		}
		for name, value := range info {
			if strings.HasPrefix(name, "slave") && strings.Contains(value, fmt.Sprintf("port=%d,state=online", s.port)) {
				return nil
			}
		}
		return fmt.Errorf("not online according to %s", of.Addr())
	})
	if err != nil {
		err = fmt.Errorf("%w\nlog of the replica:\n%s", err, s.Log())
		s.Stop()
		return nil, err
	}
	return s, nil
}

// linkUp returns nil if the server is a replica in touch with its primary.
func (s *Server) linkUp(ctx context.Context) error {
	info, err := s.info(ctx, "replication")
	if err != nil {
		return err
	}
	if info["role"] != "slave" || info["master_link_status"] != "up" {
		return fmt.Errorf("%s: role %s, link %q", s.Addr(), info["role"], info["master_link_status"])
	}
	return nil
}

// info returns one section of INFO as a map.
func (s *Server) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := s.admin.Info(ctx, section).Result()
	if err != nil {
		return nil, fmt.Errorf("redistest: INFO %s of %s: %w", section, s.Addr(), err)
	}
	return fields(text), nil
}

// fields parses the name:value lines of INFO and CLUSTER INFO.
func fields(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[name] = value
		}
	}
	return m
}
