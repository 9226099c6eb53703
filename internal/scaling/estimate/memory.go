package estimate

import "math/bits"

// Record is a kind of record whose memory is asked for.
type Record struct {
	Name        int // bytes of its name in Redis
	Fingerprint int // bytes of one, or 0
	Completed   bool
	Payload     int // of a completed one
}

const object = 16 // bytes of Redis' object for a value

// Data is what a record adds to used_memory_dataset: its name and its value as the allocator hands them out, and the object.
func (c *Costs) Data(r Record) int {
	size := c.Memory.InFlight + r.Fingerprint
	if r.Completed {
		size = c.Memory.Completed + r.Fingerprint + r.Payload
	}
	return text(r.Name) + object + text(size)
}

// All is what it adds to used_memory, which maxmemory counts: Redis' tables have an entry for it too.
func (c *Costs) All(r Record) int { return c.Data(r) + c.Memory.Tables }

// Completed is a completed record with the usual name and a fingerprint of 32 bytes.
func (c *Costs) Completed(payload int) Record {
	return Record{Name: c.Memory.Name, Fingerprint: 32, Completed: true, Payload: payload}
}

// Running is a record in progress with the usual name and a fingerprint of 32 bytes.
func (c *Costs) Running() Record { return Record{Name: c.Memory.Name, Fingerprint: 32} }

// text is what the allocator takes for a text of Redis: its bytes, its length and capacity, and a zero byte.
func text(n int) int {
	header := 3
	switch {
	case n >= 1<<16:
		header = 9
	case n >= 1<<8:
		header = 5
	}
	return class(header + n + 1)
}

// class is the size class of jemalloc that n bytes fall into: multiples of 16 up to 128, then four for every doubling.
func class(n int) int {
	step := 16
	if n > 128 {
		step = 1 << (bits.Len(uint(n-1)) - 3)
	}
	return (n + step - 1) / step * step
}
