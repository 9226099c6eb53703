package caller

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func plan(seed int64) *Plan {
	return &Plan{
		Seed: seed, Seats: 16, Every: 100 * time.Millisecond, Life: time.Second, Fewest: 3, Most: 7,
		Started: 1000, Slots: SpreadSlots(24),
	}
}

// TestPlanIsShared checks that processes which have nothing but the seed in common meet at the same domains.
func TestPlanIsShared(t *testing.T) {
	a, b, c := plan(7), plan(7), plan(8)
	same := true
	for number := range 50 {
		one := fmt.Sprintf("%+v", a.Domain(number))
		if other := fmt.Sprintf("%+v", b.Domain(number)); one != other {
			t.Fatalf("%s and %s", one, other)
		}
		same = same && one == fmt.Sprintf("%+v", c.Domain(number))
	}
	if same {
		t.Error("another seed makes the same domains")
	}
}

func TestDomains(t *testing.T) {
	p := plan(7)
	kinds, masters := map[string]int{}, map[int]int{}
	for number := range 200 {
		d := p.Domain(number)
		if !slices.Contains(p.Slots, d.Slot()) {
			t.Errorf("%s is in slot %d", d.Name, d.Slot())
		}
		if len(d.seats) < p.Fewest || len(d.seats) > p.Most {
			t.Errorf("%s has %d callers", d.Name, len(d.seats))
		}
		masters[d.Slot()*3/16384]++
		kinds[fmt.Sprint(d.Resource, d.Quarantine, len(d.Keys))]++
	}
	if len(masters) != 3 {
		t.Errorf("domains by third of the slots: %v", masters)
	}
	if len(kinds) != 6 { // a key alone, two or three of a resource; each with quarantine and without
		t.Errorf("kinds of domains: %v", kinds)
	}
}

func TestLive(t *testing.T) {
	p := plan(7)
	at := func(d time.Duration) int64 { return p.Started + int64(d) }
	if n := p.Begun(p.Started - 1); n != 0 {
		t.Errorf("%d domains have begun before the first", n)
	}
	turned := map[int]bool{}
	for seat := range p.Seats {
		for _, d := range p.live(at(5*time.Second), seat) {
			turned[d.Number] = true
			if d.Number <= 40 || d.Number > 50 { // the first of these ended just then
				t.Errorf("domain %d lives", d.Number)
			}
			if !slices.Contains(d.seats, seat) {
				t.Errorf("seat %d turns to domain %d of %v", seat, d.Number, d.seats)
			}
		}
	}
	if len(turned) != 10 {
		t.Errorf("%d domains live", len(turned))
	}
}
