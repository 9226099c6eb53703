package main

import (
	"context"
	"sync"
	"time"
)

// Broker is a queue in memory that delivers at least once: a message that was received is out of sight for a time, and comes
// again unless it was deleted meanwhile.
type Broker struct {
	visibility time.Duration

	mu      sync.Mutex
	queued  []*entry
	dead    []Dead
	changed chan struct{}
	receipt int
}

type entry struct {
	Message
	visible time.Time
	receipt int // of the last delivery
}

// Message is what producers send; ID is the producer's own, and the same each time it sends the message.
type Message struct{ ID, Body string }

// Delivery is one of a message's deliveries.
type Delivery struct {
	Message
	Receipt int
}

// Dead is a message that was given up, and why.
type Dead struct {
	Message
	Why string
}

// NewBroker makes a queue whose messages are out of sight so long.
func NewBroker(visibility time.Duration) *Broker {
	return &Broker{visibility: visibility, changed: make(chan struct{})}
}

// Send queues a message. A producer that is not sure sends it again.
func (b *Broker) Send(m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queued = append(b.queued, &entry{Message: m})
	b.wake()
}

// wake lets everybody look again who waits.
func (b *Broker) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Receive waits for a message and takes it out of sight.
func (b *Broker) Receive(ctx context.Context) (Delivery, error) {
	for {
		d, wait, changed := b.take()
		if d != nil {
			return *d, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Delivery{}, ctx.Err()
		}
		timer.Stop()
	}
}

func (b *Broker) take() (*Delivery, time.Duration, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := time.Hour
	for _, e := range b.queued {
		if out := time.Until(e.visible); out > 0 {
			wait = min(wait, out)
			continue
		}
		b.receipt++
		e.receipt, e.visible = b.receipt, time.Now().Add(b.visibility)
		return &Delivery{Message: e.Message, Receipt: e.receipt}, 0, nil
	}
	return nil, wait, b.changed
}

// Delete acknowledges a delivery, unless the message was delivered again since.
func (b *Broker) Delete(receipt int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, e := range b.queued {
		if e.receipt == receipt {
			b.queued = append(b.queued[:i], b.queued[i+1:]...)
			return
		}
	}
}

// Return has a delivery's message delivered again after a time.
func (b *Broker) Return(receipt int, after time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.queued {
		if e.receipt == receipt {
			e.visible = time.Now().Add(after)
		}
	}
	b.wake()
}

// Bury puts a delivery's message among the dead ones.
func (b *Broker) Bury(d Delivery, why string) {
	b.mu.Lock()
	b.dead = append(b.dead, Dead{d.Message, why})
	b.mu.Unlock()
	b.Delete(d.Receipt)
}

// Dead are the messages that were given up.
func (b *Broker) Dead() []Dead {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Dead(nil), b.dead...)
}
