package coordinator

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
)

// A process may hold a hundred thousand leases; what one keeps on the heap is its key, its name and little else.
func TestHeapOfALease(t *testing.T) {
	const leases, most = 10_000, 900
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // nothing is sent
	defer rdb.Close()
	c := open(t, rdb)
	held := make([]*Lease, leases)
	before := heapNow()
	for i := range held {
		held[i] = replied(t, c, Key{Scope: "pay", ID: fmt.Sprintf("018cc251-f400-7000-8000-%012x", i)}, i+1)
		c.tend(held[i])
	}
	each := (heapNow() - before) / leases
	t.Logf("%d bytes", each)
	if each > most {
		t.Errorf("a lease takes %d bytes of heap, at most %d are wanted", each, most)
	}
	runtime.KeepAlive(held)
}

// replied is a lease as a claim's reply makes it.
func replied(t *testing.T, c *Coordinator, key Key, token int) *Lease {
	t.Helper()
	now := time.Duration(time.Now().UnixMilli()) * time.Millisecond
	record := protocol.Record{
		State: protocol.StateInProgress, Owner: fmt.Sprintf("%032x", token), Token: int64(token), Attempt: 1, Bound: true,
		End: now + c.lease + c.graceOf(c.lease), Length: c.lease + c.graceOf(c.lease), Maximum: now + c.maxLifetime,
	}
	q, err := c.newClaim(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	request := c.claimCall(q).Request
	r, err := protocol.DecodeReply(record.Encode(), &request)
	if err != nil {
		t.Fatal(err)
	}
	r.Sent = time.Now()
	return c.newLease(t.Context(), key, q.names, &q.request, &r)
}

func heapNow() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers have let go of
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
