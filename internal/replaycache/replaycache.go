// Package replaycache keeps finished results in the memory of this process, for a short time and within a number of bytes.
//
// Keys are spread over shards by a hash, and a hit takes its shard's lock for reading only. What has to go is found by
// second chance: a hand goes round, lets pass what was asked for since it last came by, and takes the rest away. No goroutine runs.
package replaycache

import (
	"hash/maphash"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onceward/coordinator/internal/protocol"
)

const (
	// Least is how many bytes a cache has at least.
	Least = 64 << 10
	// Shards is how many parts a cache has at most. An entry is as large as a part at most.
	Shards = 64

	// overhead is what an entry takes beside its texts: itself (144 bytes), its place in the map, which is half empty after
	// it has grown, and in the ring. A test measures it.
	overhead = 256
)

// Key is what a result is kept under: the parts of the coordinator's key, so that a hit makes no name of them.
type Key struct{ Scope, ID, Resource string }

// Result is a finished record as it is kept. Its texts cannot be changed, so it can be handed to many.
type Result struct {
	Token       int64
	CompletedAt time.Duration // since 1970, by the server's clock
	Failed      bool
	Fingerprint string
	Payload     string
}

// Cache is safe for concurrent use. A nil one is empty, and stays so.
type Cache struct {
	maxAge time.Duration
	start  time.Time
	clock  func() time.Duration // since start
	seed   maphash.Seed
	shards []shard // as many as a power of two
}

// New makes a cache that keeps a result for maxAge, and all of them in this number of bytes, Least or more.
func New(bytes int, maxAge time.Duration) *Cache {
	start := time.Now()
	parts := min(bytes/Least, Shards)
	parts = 1 << (bits.Len(uint(parts)) - 1)
	c := &Cache{
		maxAge: maxAge, start: start, clock: func() time.Duration { return time.Since(start) },
		seed: maphash.MakeSeed(), shards: make([]shard, parts),
	}
	for i := range c.shards {
		c.shards[i] = shard{limit: bytes / parts, entries: map[uint64]*entry{}, dropped: math.MinInt64}
	}
	return c
}

type shard struct {
	mu      sync.RWMutex
	entries map[uint64]*entry // by the hash of the key; of two keys with one hash the later one stays
	ring    []*entry
	most    int // entries that map and ring have places for
	hand    int
	used    int // bytes
	limit   int
	dropped time.Duration // when an entry was last dropped; what was sent before is not kept
	live    [8]grant      // the latest that were seen
	oldest  int           // of live
	_       [64]byte      // keeps the lock of the next shard out of this one's cache line
}

// grant is a lease that was seen.
type grant struct {
	hash  uint64 // of the key
	token int64
	seen  time.Duration
}

// entry does not change, but for its place and whether it was asked for.
type entry struct {
	Result
	key   Key
	hash  uint64
	until time.Duration
	size  int // in bytes
	at    int // in the ring
	asked atomic.Bool
}

func (c *Cache) shard(hash uint64) *shard { return &c.shards[hash&uint64(len(c.shards)-1)] }

// Get returns what is kept under key and is not too old; otherwise nil.
func (c *Cache) Get(key Key) *Result {
	if c == nil {
		return nil
	}
	hash := maphash.Comparable(c.seed, key)
	s := c.shard(hash)
	s.mu.RLock()
	e := s.entries[hash]
	s.mu.RUnlock()
	if e == nil || e.key != key || c.clock() >= e.until {
		return nil
	}
	if !e.asked.Load() { // a hot entry is not written to
		e.asked.Store(true)
	}
	return &e.Result
}

// Put keeps a copy of a finished record under key. A reply showed it to a request that went out at sent, and Redis is known
// to keep it for life from then on. What is there by a later grant, or was dropped since sent, stays as it is.
func (c *Cache) Put(key Key, sent time.Time, life time.Duration, rec *protocol.Record) {
	if c == nil || !rec.Finished() || !rec.Bound {
		return
	}
	shown := sent.Sub(c.start)
	until := shown + min(c.maxAge, life)
	hash := maphash.Comparable(c.seed, key)
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if shown <= s.dropped || c.clock() >= until {
		return
	}
	for _, g := range s.live {
		if g.hash == hash && g.token > rec.Token {
			return
		}
	}
	if old := s.entries[hash]; old != nil {
		if old.key == key && (old.Token > rec.Token || old.Token == rec.Token && old.until >= until) {
			return
		}
		s.remove(old)
	}
	s.add(hash, key, until, rec)
}

// Drop forgets key. Replies to what was sent before do not bring it back, nor anything else of its shard: to remember
// each key would take memory for as long as a reply may take.
func (c *Cache) Drop(key Key) {
	if c == nil {
		return
	}
	hash := maphash.Comparable(c.seed, key)
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = max(s.dropped, c.clock())
	if e := s.entries[hash]; e != nil {
		s.remove(e)
	}
}

// Live says that a lease on key was seen, under this token: what an earlier grant has stored is forgotten and does not come
// back. Beyond a few leases in each shard, nothing comes back that was sent before the oldest of them was seen.
func (c *Cache) Live(key Key, token int64) {
	if c == nil {
		return
	}
	hash := maphash.Comparable(c.seed, key)
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[hash]; e != nil && e.Token < token {
		s.remove(e)
	}
	at := slices.IndexFunc(s.live[:], func(g grant) bool { return g.hash == hash })
	if at < 0 {
		at, s.oldest = s.oldest, (s.oldest+1)%len(s.live)
		if g := s.live[at]; g.token > 0 {
			s.dropped = max(s.dropped, g.seen)
		}
	} else if s.live[at].token >= token {
		return
	}
	s.live[at] = grant{hash, token, c.clock()}
}

// Close forgets everything, and keeps nothing from then on.
func (c *Cache) Close() {
	if c == nil {
		return
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.entries, s.ring, s.dropped = nil, nil, math.MaxInt64
		s.mu.Unlock()
	}
}

// add makes room for a record and adds it; one that would not fit into an empty shard is not kept.
func (s *shard) add(hash uint64, key Key, until time.Duration, rec *protocol.Record) {
	length := len(key.Scope) + len(key.ID) + len(key.Resource) + len(rec.Fingerprint) + len(rec.Data)
	if overhead+length > s.limit {
		return
	}
	var text strings.Builder // one piece of memory for all of an entry's
	text.Grow(length)
	size := overhead + text.Cap() // as the allocator rounds it up
	if size > s.limit {
		return
	}
	for s.used+size > s.limit {
		s.evict()
	}
	s.shrink()
	for _, part := range []string{key.Scope, key.ID, key.Resource} {
		text.WriteString(part)
	}
	text.Write(rec.Fingerprint)
	text.Write(rec.Data)
	texts := text.String()
	cut := func(n int) (part string) {
		part, texts = texts[:n], texts[n:]
		return part
	}
	e := &entry{hash: hash, until: until, size: size, at: len(s.ring)}
	e.key = Key{cut(len(key.Scope)), cut(len(key.ID)), cut(len(key.Resource))}
	e.Result = Result{
		Token: rec.Token, CompletedAt: rec.End, Failed: rec.State == protocol.StateFailed,
		Fingerprint: cut(len(rec.Fingerprint)), Payload: texts,
	}
	s.entries[hash], s.ring, s.used = e, append(s.ring, e), s.used+size
	s.most = max(s.most, len(s.ring))
}

// evict moves the hand on by one: it takes the entry away that was not asked for since it last came by.
func (s *shard) evict() {
	if s.hand >= len(s.ring) {
		s.hand = 0
	}
	if e := s.ring[s.hand]; e.asked.Swap(false) {
		s.hand++
	} else {
		s.remove(e)
	}
}

// remove puts the last of the ring in the place that becomes free.
func (s *shard) remove(e *entry) {
	end := len(s.ring) - 1
	s.ring[e.at], s.ring[end].at = s.ring[end], e.at
	s.ring[end] = nil
	s.ring = s.ring[:end]
	delete(s.entries, e.hash)
	s.used -= e.size
}

// shrink gives back the places that many small entries have had, where fewer large ones have come.
func (s *shard) shrink() {
	if len(s.ring) >= s.most/2 {
		return
	}
	s.entries, s.ring, s.most = maps.Collect(maps.All(s.entries)), slices.Clone(s.ring), len(s.ring)
}
