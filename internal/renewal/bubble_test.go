package renewal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lease is due a third of its length after it began; one that nothing prolongs, at its end.
type lease struct {
	place  Place
	name   string
	length time.Duration
	manual bool

	mu    sync.Mutex
	began time.Time
}

func (l *lease) after(d time.Duration) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.began.Add(d)
}

// schedule keeps a diary: when, since the beginning, what happened to whom. Its clock is a bubble's, so times are exact.
type schedule struct {
	*Schedule[*lease]
	stop func()

	mu    sync.Mutex
	began time.Time
	diary []string
}

func (s *schedule) note(what string, leases ...*lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range leases {
		what += " " + l.name
	}
	s.diary = append(s.diary, fmt.Sprint(time.Since(s.began), " ", what))
}

func (s *schedule) add(name string, length time.Duration, manual bool) *lease {
	l := &lease{name: name, began: time.Now(), length: length, manual: manual}
	s.Add(l)
	return l
}

func (s *schedule) prolong(l *lease) {
	l.mu.Lock()
	l.began = time.Now()
	l.mu.Unlock()
	s.Moved(l)
}

func (s *schedule) renewed(l *lease) {
	if s.Back(l) {
		s.note("late", l)
	}
	s.prolong(l)
}

// master is the beginning of a lease's name, up to a slash; all that have none are of one master.
func (l *lease) master() string { return l.name[:strings.IndexByte(l.name, '/')+1] }

func apart(leases []*lease) (groups [][]*lease) {
	of := map[string]int{}
	for _, l := range leases {
		i, known := of[l.master()]
		if !known {
			i = len(groups)
			of[l.master()], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], l)
	}
	return groups
}

// inBubble runs a test, with renewals that end as they are told to, and compares the diary.
func inBubble(t *testing.T, renew func(*schedule, *lease), test func(s *schedule) (diary []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		base, stop := context.WithCancel(t.Context())
		s := &schedule{began: time.Now(), stop: stop}
		s.Schedule = New(Host[*lease]{
			Base: base, Jitter: func(d time.Duration) time.Duration { return d },
			Start: func(fn func()) bool {
				if base.Err() == nil {
					go fn()
				}
				return base.Err() == nil
			},
			Place: func(l *lease) *Place { return &l.place }, Length: func(l *lease) time.Duration { return l.length },
			Deadline: func(l *lease) time.Time { return l.after(l.length) },
			Due: func(l *lease) time.Time {
				if l.manual {
					return l.after(l.length)
				}
				return l.after(l.length / 3)
			},
			Apart: apart,
			Renew: func(leases []*lease) {
				s.note("renew", leases...)
				for _, l := range leases {
					renew(s, l)
				}
			},
			Lapse: func(l *lease) { s.note("lapsed", l) }, Close: func(l *lease) { s.note("closed", l) },
		})
		want := test(s)
		s.mu.Lock()
		if !slices.Equal(s.diary, want) {
			t.Errorf("\ngot  %s\nwant %s", strings.Join(s.diary, ", "), strings.Join(want, ", "))
		}
		s.mu.Unlock()
		stop()
	})
}
