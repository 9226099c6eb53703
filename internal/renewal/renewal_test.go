package renewal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestDiary(t *testing.T) {
	const sec = time.Second
	hang := func(*schedule, *lease) {}
	var tries int
	for _, c := range []struct {
		what  string
		renew func(*schedule, *lease)
		test  func(s *schedule)
		want  string
	}{
		{"each in its time, until it is removed", (*schedule).renewed, func(s *schedule) {
			a := s.add("a", 30*sec, false)
			time.Sleep(500 * time.Millisecond)
			b := s.add("b", 12*sec, false) // before what the goroutine waits for
			time.Sleep(10500 * time.Millisecond)
			s.Remove(b)
			s.Remove(a)
			s.Remove(a)
			time.Sleep(49 * sec)
			s.add("c", 3*sec, false) // the goroutine has ended, and begins again
			time.Sleep(1500 * time.Millisecond)
		}, "4.5s renew b, 8.5s renew b, 10s renew a, 1m1s renew c"},
		{"who is due soon goes along", (*schedule).renewed, func(s *schedule) {
			for _, name := range []string{"a", "b", "c"} {
				s.add(name, 30*sec, false)
				time.Sleep(600 * time.Millisecond)
			}
			time.Sleep(10 * sec)
		}, "10s renew a b, 11.2s renew c"},
		{"who is answered late, a third of the lease after it was due", func(s *schedule, l *lease) {
			tries++
			time.Sleep(10*sec + time.Duration(tries))
			s.renewed(l)
		}, func(s *schedule) {
			tries = -1
			s.add("a", 30*sec, false)
			time.Sleep(45 * sec)
		}, "10s renew a, 30s renew a, 40.000000001s late a"},
		{"a deadline waits for no renewal", hang, func(s *schedule) {
			s.add("a", 30*sec, false)
			time.Sleep(60 * sec)
		}, "10s renew a, 30s lapsed a"},
		{"its holder renews it", hang, func(s *schedule) {
			a := s.add("a", 30*sec, true)
			time.Sleep(20 * sec)
			s.prolong(a)
			time.Sleep(60 * sec)
		}, "50s lapsed a"},
		{"its holder renews it meanwhile: one renewal under way at a time", hang, func(s *schedule) {
			a := s.add("a", 30*sec, false)
			time.Sleep(20 * sec)
			s.prolong(a)
			time.Sleep(60 * sec)
		}, "10s renew a, 50s lapsed a"},
		{"pauses grow to a second, and begin anew after a success", func(s *schedule, l *lease) {
			if tries++; tries == 4 {
				s.renewed(l)
			} else {
				s.Retry(l)
			}
		}, func(s *schedule) {
			tries = 0
			s.add("a", 6*sec, false)
			time.Sleep(60 * sec)
		}, "2s renew a, 2.3s renew a, 2.9s renew a, 3.9s renew a, " +
			"5.9s renew a, 6.2s renew a, 6.8s renew a, 7.8s renew a, 8.8s renew a, 9.8s renew a, 9.9s lapsed a"},
		{"closed", hang, func(s *schedule) {
			a := s.add("a", 30*sec, false)
			time.Sleep(15 * sec)
			s.stop()
			time.Sleep(60 * sec)
			s.Remove(a)
			if b := s.add("b", sec, false); s.Len() != 0 || s.Has(a) || s.Has(b) {
				t.Error("a closed schedule keeps leases")
			}
		}, "10s renew a, 15s closed a"},
	} {
		t.Run(c.what, func(t *testing.T) {
			inBubble(t, c.renew, func(s *schedule) []string { c.test(s); return strings.Split(c.want, ", ") })
		})
	}
}

// The heap, with many that come and go: each ends at its own deadline.
func TestEveryLeaseEndsAtItsDeadline(t *testing.T) {
	inBubble(t, nil, func(s *schedule) (want []string) {
		for n, at := range rand.Perm(1000) {
			l := s.add(fmt.Sprint(n), time.Duration(at+10)*time.Second, true)
			if n%3 == 0 {
				time.AfterFunc(time.Duration(at+5)*time.Second, func() { s.Remove(l) })
				continue
			}
			want = append(want, fmt.Sprintf("%06d|%v lapsed %d", at, l.length, n))
		}
		time.Sleep(time.Hour)
		slices.Sort(want)
		for i, line := range want {
			_, want[i], _ = strings.Cut(line, "|")
		}
		return want
	})
}

// Leases of many masters that are due in turns go out in full pipelines, each of one master and in the order of time; a
// master that hangs holds up only its own.
func TestGoesAreOfOneMaster(t *testing.T) {
	const masters, each = 10, mostAtOnce + 100
	var mu sync.Mutex
	goes := map[string][]int{}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		s := New(Host[*lease]{
			Base: ctx, Start: func(fn func()) bool { go fn(); return true }, Apart: apart,
			Place: func(l *lease) *Place { return &l.place }, Length: func(l *lease) time.Duration { return l.length },
			Deadline: func(l *lease) time.Time { return l.after(l.length) },
			Due:      func(l *lease) time.Time { return l.after(l.length / 3) },
			Renew: func(leases []*lease) {
				master := leases[0].master()
				if master == "0/" {
					<-ctx.Done()
					return
				}
				mu.Lock()
				defer mu.Unlock()
				goes[master] = append(goes[master], len(leases))
				for i, l := range leases {
					if l.master() != master || i > 0 && l.began.Before(leases[i-1].began) {
						t.Errorf("%s of %v is in a go of %s, number %d", l.name, l.began.Sub(began), leases[0].name, i)
					}
				}
			},
			Lapse: func(*lease) {}, Close: func(*lease) {},
		})
		for i := range masters * each { // all within what goes along
			s.Add(&lease{name: fmt.Sprintf("%d/%d", i%masters, i), length: 30 * time.Second, began: began.Add(time.Duration(i) * time.Microsecond)})
		}
		time.Sleep(11 * time.Second)
		cancel()
		synctest.Wait()
	})
	if len(goes) != masters-1 {
		t.Errorf("%d masters were asked beside the one that hangs, want %d", len(goes), masters-1)
	}
	for master, sizes := range goes {
		slices.Sort(sizes)
		if !slices.Equal(sizes, []int{each - mostAtOnce, mostAtOnce}) {
			t.Errorf("master %s: goes of %v leases, want full ones first", master, sizes)
		}
	}
}
