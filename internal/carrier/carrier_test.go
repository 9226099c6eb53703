package carrier

import (
	"context"
	"testing"
	"time"
)

// When a pause and its call's time are over at once, there is no other try: it would not be sent any more, and all the same count as one
// that may have run.
func TestNoTryAfterTheEnd(t *testing.T) {
	c := New(Config{Base: t.Context(), Jitter: func(time.Duration) time.Duration { return 0 }})
	if !c.BackOff(t.Context(), 1) {
		t.Error("there is time, and no other try")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 1000 {
		if c.BackOff(ended, 1) {
			t.Fatal("another try after the end")
		}
	}
}
