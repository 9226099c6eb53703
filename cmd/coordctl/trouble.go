package main

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

// trouble is what goes wrong with a payment.
type trouble int

const (
	none trouble = iota
	crashBefore
	crashAfter
	pause
	loseClaim
	loseBooking
	loseResult
	delayBooking

	troubles
)

// moment is when trouble strikes a payment: in the worker, or in the network on the way to Redis.
type moment int

const (
	beforeBooking moment = iota
	afterBooking
	claiming
	booking
	finishing
)

func (t trouble) moment() moment {
	return map[trouble]moment{
		crashBefore: beforeBooking, pause: beforeBooking, crashAfter: afterBooking,
		loseClaim: claiming, loseBooking: booking, delayBooking: booking, loseResult: finishing,
	}[t]
}

// schedule says which trouble each payment meets, once. The same seed makes the same schedule.
type schedule struct {
	payments []string // their idempotency keys, in the order in which they are sent
	mu       sync.Mutex
	ahead    map[string]trouble
}

const (
	calmStart = 2 // payments without trouble, to begin with
	mostOfOne = 4 // payments that meet the same trouble
)

// fewestPayments have one payment for every trouble.
const fewestPayments = calmStart + int(troubles) - 1

func newSchedule(seed uint64, payments int) *schedule {
	s := &schedule{ahead: map[string]trouble{}}
	for i := range payments {
		s.payments = append(s.payments, fmt.Sprintf("pay-%02d", i+1))
	}
	each := min(max(payments/16, 1), mostOfOne)
	for i, at := range random(seed, 0).Perm(payments - calmStart) {
		if t := none + 1 + trouble(i/each); t < troubles {
			s.ahead[s.payments[calmStart+at]] = t
		}
	}
	return s
}

// random makes one of a seed's independent sources of numbers.
func random(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// take returns the trouble that a payment meets at this moment, and never again.
func (s *schedule) take(payment string, at moment) trouble {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.ahead[payment]
	if t == none || t.moment() != at {
		return none
	}
	delete(s.ahead, payment)
	return t
}

// put makes a payment meet trouble once more, where what was taken could not strike.
func (s *schedule) put(payment string, t trouble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead[payment] = t
}
