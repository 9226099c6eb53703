package coordpg

import (
	"fmt"
	"time"

	"github.com/onceward/coordinator"
)

// Event is what an operation has to tell others, written in its transaction and published by a [Relay].
type Event struct {
	Topic   string // 1 to 255 bytes of UTF-8
	Payload []byte

	// What follows is set when a relay hands it out.

	// Seq identifies the event: consumers drop what they have seen. Of two events of one resource the later has the greater.
	Seq       int64
	Key       coordinator.Key
	Token     coordinator.Token // of the grant that wrote it
	CreatedAt time.Time
}

func (e Event) check() error {
	if e.Topic == "" || len(e.Topic) > 255 {
		return fmt.Errorf("%w: Event.Topic has %d bytes; 1 to 255 are allowed", coordinator.ErrInvalid, len(e.Topic))
	}
	return nil
}

type withEvents []Event

func (events withEvents) complete(o *completion) error {
	for _, e := range events {
		if err := e.check(); err != nil {
			return err
		}
	}
	o.events = append(o.events, events...)
	return nil
}

func (events withEvents) do(o *doing) error {
	c := completion{events: o.events}
	err := events.complete(&c)
	o.events = c.events
	return err
}

// Emit writes events with the outcome, by the same statement. Work under [Do] that knows its events only later calls
// [Lease.Emit].
func Emit(events ...Event) CompleteOption { return withEvents(events) }
