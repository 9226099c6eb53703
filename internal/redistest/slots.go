package redistest

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

const slotCount = 16384

// slotSet is a set of hash slots. It is comparable, so that two nodes' ideas
// of who owns what can be compared with ==.
type slotSet [slotCount / 64]uint64

func (s *slotSet) add(slot int)      { s[slot/64] |= 1 << (slot % 64) }
func (s *slotSet) has(slot int) bool { return s[slot/64]&(1<<(slot%64)) != 0 }
func (s *slotSet) empty() bool       { return *s == slotSet{} }

func (s *slotSet) size() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// holds tells whether every slot of o is in s.
func (s *slotSet) holds(o *slotSet) bool {
	for i := range s {
		if o[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}

func (s *slotSet) union(o *slotSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

func (s *slotSet) full() bool {
	for _, w := range s {
		if w != ^uint64(0) {
			return false
		}
	}
	return true
}

// addRange adds "7" or "0-5460", as CLUSTER NODES puts them.
func (s *slotSet) addRange(text string) error {
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		to = from
	}
	lo, err := strconv.Atoi(from)
	if err != nil {
		return fmt.Errorf("redistest: slots %q: %w", text, err)
	}
	hi, err := strconv.Atoi(to)
	if err != nil {
		return fmt.Errorf("redistest: slots %q: %w", text, err)
	}
	if lo < 0 || hi >= slotCount {
		return fmt.Errorf("redistest: slots %q: out of range", text)
	}
	for slot := lo; slot <= hi; slot++ {
		s.add(slot)
	}
	return nil
}
