package caller

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/keyname"
)

// Plan says which fence domains there are and who fights for each. It is the same for everybody who has the same
// seed, so that callers meet without talking to each other.
type Plan struct {
	Seed    int64         `json:"seed"`
	Seats   int           `json:"seats"`   // callers at work at the same time
	Every   time.Duration `json:"every"`   // between the beginnings of two domains
	Life    time.Duration `json:"life"`    // how long callers turn to a domain
	Fewest  int           `json:"fewest"`  // callers of a domain
	Most    int           `json:"most"`    // callers of a domain
	Started int64         `json:"started"` // when the first domain began, by history.Now
	Slots   []int         `json:"slots"`   // where the domains are: few, so that a slot which is moved is in use

	mu    sync.Mutex
	known map[int]Domain
}

// SpreadSlots returns so many slots, as far from each other as can be.
func SpreadSlots(count int) []int {
	const all = 16384
	slots := make([]int, count)
	for i := range slots {
		slots[i] = (2*i + 1) * all / (2 * count)
	}
	return slots
}

// Domain is a key alone, or a resource with two or three keys.
type Domain struct {
	Number     int
	Name       string
	Resource   bool
	Keys       []coordinator.Key
	Quarantine bool  // its claims say QuarantineLapsed, most of them
	seats      []int // of those who turn to it
}

// streams of random numbers that are made of one seed.
const (
	streamDomains = 1 << 32
	streamCallers = 2 << 32
)

// Domain returns the domain of this number, from 0.
func (p *Plan) Domain(number int) Domain {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, known := p.known[number]
	if !known {
		if p.known == nil {
			p.known = map[int]Domain{}
		}
		d = p.make(number)
		p.known[number] = d
	}
	return d
}

func (p *Plan) make(number int) Domain {
	random := rand.New(rand.NewPCG(uint64(p.Seed), streamDomains+uint64(number)))
	d := Domain{Number: number, Resource: random.IntN(2) == 0, Quarantine: random.IntN(4) == 0}
	fewest, most := min(p.Fewest, p.Seats), min(p.Most, p.Seats)
	d.seats = random.Perm(p.Seats)[:fewest+random.IntN(most-fewest+1)]
	keys := 2 + random.IntN(2)
	for salt := 0; ; salt++ {
		name := fmt.Sprintf("d%d.%d", number, salt)
		if d.Resource {
			d.Name, d.Keys = name, make([]coordinator.Key, keys)
			for i := range d.Keys {
				d.Keys[i] = coordinator.Key{Scope: "chaos", ID: fmt.Sprintf("k%d", i+1), Resource: name}
			}
		} else {
			d.Name, d.Keys = "alone/"+name, []coordinator.Key{{Scope: "alone", ID: name}}
		}
		if slices.Contains(p.Slots, d.Slot()) {
			return d
		}
	}
}

// Slot is where the domain's records, its fence and its sink are.
func (d *Domain) Slot() int { return keyname.Slot(d.Sink()) }

// Sink is the Redis key of the list that is written behind the domain's fence.
func (d *Domain) Sink() string {
	k := d.Keys[0]
	return "sink:{" + keyname.Namer{}.Names(k.Scope, k.ID, k.Resource).Tag + "}"
}

// Begun is how many domains have begun at a moment of history.Now.
func (p *Plan) Begun(now int64) int {
	if now < p.Started {
		return 0
	}
	return int((now-p.Started)/int64(p.Every)) + 1
}

// live returns the domains that the caller of this seat turns to now.
func (p *Plan) live(now int64, seat int) []Domain {
	var live []Domain
	for number := p.Begun(now) - 1; number >= 0 && now < p.Started+int64(number)*int64(p.Every)+int64(p.Life); number-- {
		if d := p.Domain(number); slices.Contains(d.seats, seat) {
			live = append(live, d)
		}
	}
	return live
}
