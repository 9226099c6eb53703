package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// warning is about a server that takes the scripts and may yet lose records or end leases early. Check is the
// setting's name in docs/redis.md.
type warning struct {
	Check string `json:"check"`
	Text  string `json:"text"`
}

func unchecked(check string, why error) warning {
	return warning{check, "not checked: " + why.Error()}
}

// inform asks a server about itself. INFO tells all that is needed here, and is more often allowed than CONFIG GET.
func inform(ctx context.Context, rdb *redis.Client) (map[string]string, error) {
	text, err := rdb.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	return info, nil
}

// checkSettings judges what INFO said; err is why it said nothing.
func checkSettings(info map[string]string, err error) []warning {
	policy, aof, replicas := info["maxmemory_policy"], info["aof_enabled"], info["connected_slaves"]
	settings := []struct {
		check, field, value string
		bad                 bool
		text                string
	}{
		{"maxmemory-policy", "maxmemory_policy", policy, policy != "noeviction",
			policy + " may evict records, since all have a TTL: set it to noeviction"},
		{"appendonly", "aof_enabled", aof, aof == "0",
			"off, so a restart forgets what is not in a snapshot: set it to yes"},
		{"replicas", "connected_slaves", replicas, replicas == "0",
			"none is connected, so nothing takes over when this server fails: add a replica"},
	}
	if info["role"] == "slave" {
		settings[2].bad, settings[2].text = true, "this is one, and takes no writes: give its master's address"
	}
	warnings := []warning{} // which JSON shows as [], not null
	for _, s := range settings {
		switch {
		case err != nil:
			warnings = append(warnings, unchecked(s.check, err))
		case s.value == "":
			warnings = append(warnings, unchecked(s.check, fmt.Errorf("INFO has no %s", s.field)))
		case s.bad:
			warnings = append(warnings, warning{s.check, s.text})
		}
	}
	return warnings
}

// clock tells a server's time.
type clock func(ctx context.Context, rdb *redis.Client) (time.Time, error)

func serverTime(ctx context.Context, rdb *redis.Client) (time.Time, error) {
	return rdb.Time(ctx).Result()
}

// reading is how far a server's clock is ahead of this host's. It is wrong by half of the round trip at most.
type reading struct {
	ahead, rtt time.Duration
	err        error
}

// read takes the best of three readings: the first may have to connect.
func (c clock) read(ctx context.Context, rdb *redis.Client) reading {
	best := reading{rtt: math.MaxInt64}
	for range 3 {
		sent := time.Now()
		at, err := c(ctx, rdb)
		rtt := time.Since(sent)
		if err != nil {
			return reading{err: err}
		}
		if rtt < best.rtt {
			best = reading{ahead: at.Sub(sent.Add(rtt / 2)), rtt: rtt}
		}
	}
	return best
}

// checkClocks compares the masters' clocks with each other, or a lone one with this host's.
func checkClocks(nodes []node, maxSkew time.Duration) {
	var read []*node
	for i := range nodes {
		n := &nodes[i]
		switch {
		case !n.OK: // its line says why
		case n.clock.err != nil:
			n.Warnings = append(n.Warnings, unchecked("clocks", n.clock.err))
		default:
			read = append(read, n)
		}
	}
	for _, n := range read {
		others := read // itself among them, from which it is not apart
		if len(read) == 1 {
			others = []*node{{Address: "this host"}}
		}
		if text := apart(n, others, maxSkew); text != "" {
			if len(read) == 1 {
				text += ", whose own may be the wrong one"
			}
			n.Warnings = append(n.Warnings, warning{"clocks", text + ": run an NTP client on every Redis host"})
		}
	}
}

// apart names the node whose clock differs most from n's, if one differs by more than is allowed and can be measured.
func apart(n *node, others []*node, maxSkew time.Duration) (text string) {
	var most time.Duration
	for _, other := range others {
		skew := n.clock.ahead - other.clock.ahead
		over := skew.Abs() - maxSkew - n.clock.rtt - other.clock.rtt
		if over <= most {
			continue
		}
		most = over
		way := "ahead of"
		if skew < 0 {
			way = "behind"
		}
		text = fmt.Sprintf("%v %s the clock of %s", skew.Abs().Round(time.Millisecond), way, other.Address)
	}
	return text
}
