package redistest

import (
	"errors"
	"fmt"
	"strings"
)

// config is the text of a redis.conf. A file is used rather than arguments
// because sentinels insist on one, and because Restart can read it again.
type config struct {
	b   strings.Builder
	env []string // of the process, in addition to this one's
}

func (c *config) set(name, value string) {
	if value == "" {
		value = `""`
	}
	fmt.Fprintf(&c.b, "%s %s\n", name, value)
}

// addAll adds pairs of names and values as callers pass them.
func (c *config) addAll(pairs []string) error {
	if len(pairs)%2 != 0 {
		return errors.New("redistest: extra configuration must come in pairs of name and value")
	}
	for i := 0; i < len(pairs); i += 2 {
		c.set(pairs[i], pairs[i+1])
	}
	return nil
}

// dataConfig is what every server other than a sentinel starts from. What is
// set later wins, so callers can override any of it.
func dataConfig(c *config) {
	// Tests want no files, least of all the fork which writes them.
	c.set("save", "")
	c.set("appendonly", "no")
	// Replicas are fed over the socket at once, rather than through a file
	// and after a wait of five seconds for more replicas to join in.
	c.set("repl-diskless-sync", "yes")
	c.set("repl-diskless-sync-delay", "0")
	// A cluster node keeps a replica out of CLUSTER SLOTS while its
	// replication offset is 0. On an idle primary only these pings move the
	// offset, and the default is one in ten seconds.
	c.set("repl-ping-replica-period", "1")
}
