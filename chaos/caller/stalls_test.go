package caller

import (
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

func TestStalls(t *testing.T) {
	s := &stalls{}
	begun := history.Now() - int64(time.Second)
	at := func(ms int64) int64 { return begun + ms*int64(time.Millisecond) }
	for _, ms := range []int64{0, 5, 10, 70, 75, 80} {
		s.look(at(ms))
	}
	s.last = history.Now() // it runs
	for _, test := range []struct {
		from  int64
		least time.Duration
		want  bool
	}{
		{0, 50 * time.Millisecond, true},
		{0, 60 * time.Millisecond, false},
		{70, 50 * time.Millisecond, true},
		{71, 50 * time.Millisecond, false},
	} {
		if got := s.since(at(test.from), test.least); got != test.want {
			t.Errorf("since(%d ms, %v) = %v", test.from, test.least, got)
		}
	}
	s.last = history.Now() - int64(100*time.Millisecond)
	if !s.since(at(100), 90*time.Millisecond) {
		t.Error("a stall that has just ended is not known")
	}
}
