package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// lab is one server under measurement.
type lab struct {
	server *redistest.Server
	plain  *redis.Client            // sends the bare commands, and what was recorded
	hooked *redis.Client            // the coordinator's; recorder can hold back what it sends
	tape   *recorder                // on hooked
	coord  *coordinator.Coordinator // with the default options
	result []byte

	effort
	progress *progress
}

func newLab(ctx context.Context, e effort) (*lab, error) {
	server, err := redistest.Start(ctx)
	if err != nil {
		return nil, err
	}
	l := &lab{server: server, tape: &recorder{}, result: make([]byte, payloadBytes), effort: e}
	_, _ = rand.Read(l.result) // never fails
	l.plain = server.Client(nil)
	l.hooked = server.Client(nil)
	l.hooked.AddHook(l.tape)
	if l.coord, err = coordinator.New(l.hooked); err == nil {
		err = l.coord.Load(ctx)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) close() {
	if l.coord != nil {
		_ = l.coord.Close()
	}
	_ = l.hooked.Close()
	_ = l.plain.Close()
	l.server.Stop()
}

// newKey is a key as a client would draw it.
func newKey() coordinator.Key {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // a UUIDv4, which says no age
	id := make([]byte, 0, 36)
	for i, part := range [][]byte{b[:4], b[4:6], b[6:8], b[8:10], b[10:]} {
		if i > 0 {
			id = append(id, '-')
		}
		id = hex.AppendEncode(id, part)
	}
	return coordinator.Key{Scope: "pay", ID: string(id)}
}

func newKeys(n int) []coordinator.Key {
	keys := make([]coordinator.Key, n)
	for i := range keys {
		keys[i] = newKey()
	}
	return keys
}

// bareName is a Redis key as long as the record's of such a key.
func bareName(k coordinator.Key) string { return "plain:{" + k.Scope + ":" + k.ID + "}:r" }

// bareTTL is the coordinator's default retention.
const bareTTL = 24 * time.Hour

// clear empties the server and waits until the memory has been freed.
func (l *lab) clear(ctx context.Context) error {
	if err := l.plain.Do(ctx, "flushall", "sync").Err(); err != nil {
		return err
	}
	for {
		n, err := l.info(ctx, "memory", "lazyfree_pending_objects")
		if err != nil || n == 0 {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// info adds up numeric fields of one section of INFO.
func (l *lab) info(ctx context.Context, section string, fields ...string) (sum float64, err error) {
	text, err := l.plain.Info(ctx, section).Result()
	if err != nil {
		return 0, err
	}
	for _, field := range fields {
		value, ok := infoField(text, field)
		if !ok {
			return 0, fmt.Errorf("INFO %s has no %s", section, field)
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("INFO %s: %s: %w", section, field, err)
		}
		sum += n
	}
	return sum, nil
}

// serverCPU is the CPU time of the server's process so far, in user and kernel mode, µs.
func (l *lab) serverCPU(ctx context.Context) (float64, error) {
	seconds, err := l.info(ctx, "cpu", "used_cpu_user", "used_cpu_sys")
	return seconds * 1e6, err
}

// closers are clients that a row closes at its end.
type closers []*redis.Client

func (c *closers) add(rdb *redis.Client) *redis.Client {
	*c = append(*c, rdb)
	return rdb
}

func (c *closers) close() {
	for _, rdb := range *c {
		_ = rdb.Close()
	}
}

func infoField(text, field string) (value string, ok bool) {
	for line := range strings.Lines(text) {
		if value, ok = strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value), true
		}
	}
	return "", false
}

func (l *lab) version(ctx context.Context) (string, error) {
	text, err := l.plain.Info(ctx, "server").Result()
	if err != nil {
		return "", err
	}
	for _, product := range []string{"valkey", "redis"} {
		if version, ok := infoField(text, product+"_version"); ok {
			return product + " " + version, nil
		}
	}
	return "unknown server", nil
}
