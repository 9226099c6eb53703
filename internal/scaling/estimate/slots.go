package estimate

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/onceward/coordinator/internal/keyname"
)

// Slots of a Redis Cluster.
const Slots = 16384

// Masters are the sizes of clusters that the tables are for.
var Masters = []int{1, 3, 30, 300}

// Shape is a way in which users name operations.
type Shape struct {
	Name  string
	About string
	draw  func(*rand.Rand) nextSlot // begins one simulation
}

// nextSlot draws the key of the next operation and says where it lies.
type nextSlot func() int

// Shapes are the key shapes of the tables. A shape without a resource has a tag of its own for each key; one with a
// resource has one for each resource.
func Shapes() []Shape {
	plain := func(scope string, id func(*rand.Rand) func() string) func(*rand.Rand) nextSlot {
		return func(rng *rand.Rand) nextSlot {
			next := id(rng)
			return func() int { return slot(scope, next(), "") }
		}
	}
	return []Shape{
		{"UUIDv4", "one scope, random ids", plain("payments", uuid4)},
		{"UUIDv7", "one scope, ids in the order of time", plain("payments", uuid7)},
		{"sequence", "one scope, `order-1000001` and so on", plain("orders", sequence)},
		{"tenants", "10,000 tenants, Zipf 1.1, each counts its own ids", tenants},
		{"webhooks", "ids of a provider, `evt_` and 24 letters and digits", plain("webhooks", webhook)},
		{"1,000,000 resources", "an account drawn evenly for each key", resources(1_000_000, 0)},
		{"1,000 resources", "the same with 1,000 accounts", resources(1000, 0)},
		{"Zipf resources", "1,000,000 accounts, Zipf 1.1", resources(1_000_000, 1.1)},
		{"50 resources", "a resource for each of 50 tenants", resources(50, 0)},
	}
}

// slot is where the library puts a key.
func slot(scope, id, resource string) int {
	return keyname.Slot(keyname.Namer{Prefix: "coord"}.Names(scope, id, resource).Record)
}

func uuid4(rng *rand.Rand) func() string {
	return func() string { return uuid(rng.Uint64()&^0xf000|0x4000, rng.Uint64()) }
}

// uuid7 draws ids of a service with a thousand requests a second.
func uuid7(rng *rand.Rand) func() string {
	ms := uint64(1_764_000_000_000)
	return func() string {
		if rng.IntN(1000) < 632 { // a millisecond has one or more of them
			ms++
		}
		return uuid(ms<<16|0x7000|rng.Uint64()&0xfff, rng.Uint64())
	}
}

func uuid(high, low uint64) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], high)
	binary.BigEndian.PutUint64(id[8:], low&^(3<<62)|2<<62)
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func sequence(*rand.Rand) func() string {
	n := 1_000_000
	return func() string { n++; return fmt.Sprintf("order-%d", n) }
}

func webhook(rng *rand.Rand) func() string {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	return func() string {
		id := []byte("evt_000000000000000000000000")
		for i := 4; i < len(id); i++ {
			id[i] = letters[rng.IntN(len(letters))]
		}
		return string(id)
	}
}

func tenants(rng *rand.Rand) nextSlot {
	zipf := rand.NewZipf(rng, 1.1, 1, 9999)
	counts := map[uint64]int{}
	return func() int {
		tenant := zipf.Uint64()
		counts[tenant]++
		return slot(fmt.Sprintf("tenant-%d/POST/orders", tenant), fmt.Sprint(counts[tenant]), "")
	}
}

// resources draws one for each key; the keys of a resource share a slot, whatever their ids.
func resources(n uint64, zipf float64) func(*rand.Rand) nextSlot {
	return func(rng *rand.Rand) nextSlot {
		draw := func() uint64 { return rng.Uint64N(n) }
		if zipf > 0 {
			draw = rand.NewZipf(rng, zipf, 1, n-1).Uint64
		}
		slots := map[uint64]int{}
		return func() int {
			resource := draw()
			at, known := slots[resource]
			if !known {
				at = slot("", "id", fmt.Sprintf("account/%d", resource))
				slots[resource] = at
			}
			return at
		}
	}
}

// Load is how many keys fell into each slot.
type Load []int

// Throw gives keys of a shape to their slots; the same seed draws the same keys.
func (s Shape) Throw(keys int, seed uint64) Load {
	load := make(Load, Slots)
	next := s.draw(rand.New(rand.NewPCG(seed, 1)))
	for range keys {
		load[next()]++
	}
	return load
}

// Masters adds slots up as redis-cli deals them out: in ranges, as long as each other within one.
func (l Load) Masters(n int) []int {
	sums := make([]int, n)
	for slot, keys := range l {
		sums[slot*n/len(l)] += keys
	}
	return sums
}

// Uneven is how many times the mean the fullest one has.
func Uneven(loads []int) float64 {
	sum := 0
	for _, n := range loads {
		sum += n
	}
	return float64(slices.Max(loads)) * float64(len(loads)) / float64(sum)
}

// Spread is how unevenly a shape's keys lie.
type Spread struct {
	Shape
	Slot   float64         // the fullest slot against the mean
	Master map[int]float64 // the fullest master against the mean, by the number of masters
}

// What the tables and the drawing are made from.
const (
	Seed   = 16384     // of every simulation
	Thrown = 4 * Slots // keys of each shape
)

// Spreads throws so many keys of every shape.
func Spreads(keys int, seed uint64) []Spread {
	shapes := Shapes()
	all := make([]Spread, len(shapes))
	var throwing sync.WaitGroup
	for i, shape := range shapes {
		throwing.Go(func() {
			load := shape.Throw(keys, seed)
			all[i] = Spread{shape, Uneven(load), map[int]float64{}}
			for _, n := range Masters {
				all[i].Master[n] = Uneven(load.Masters(n))
			}
		})
	}
	throwing.Wait()
	return all
}
