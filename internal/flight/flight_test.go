package flight

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const patience = 100 * time.Millisecond

// asked is what one caller got out of asking: from the question of another one, or his own.
type asked struct {
	question int64
	shared   bool
	took     time.Duration
}

// desk answers questions with their numbers, each after a time.
type desk struct {
	*Flights[string, int64]
	takes  func(question int64) time.Duration
	spoilt func(question int64) bool
	last   atomic.Int64
}

func newDesk(takes time.Duration) *desk {
	return &desk{
		Flights: New[string, int64](),
		takes:   func(int64) time.Duration { return takes }, spoilt: func(int64) bool { return false },
	}
}

func (d *desk) ask(ctx context.Context, key string) (a asked) {
	began := time.Now()
	defer func() { a.took = time.Since(began) }()
	p := d.Enter(key)
	if !p.Leads() {
		if value, shared := p.Wait(ctx, patience); shared {
			return asked{question: value, shared: true}
		}
		if ctx.Err() != nil {
			return asked{}
		}
	}
	question := d.last.Add(1)
	defer func() { p.End(question, !d.spoilt(question)) }()
	time.Sleep(d.takes(question))
	return asked{question: question}
}

// start has callers ask, one behind the other, and returns what they got once all have it.
func (d *desk) start(ctx context.Context, key string, callers int) (wait func() []asked) {
	got := make([]asked, callers)
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() { got[i] = d.ask(ctx, key) })
		synctest.Wait()
	}
	return func() []asked { group.Wait(); return got }
}

func (d *desk) wantEmpty(t *testing.T) {
	t.Helper()
	if n := d.Len(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// The first asks for himself. All others wait for the next question, which one of them asks.
func TestOneQuestionForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(10 * time.Millisecond)
		own, shared := 0, 0
		for i, a := range d.start(t.Context(), "key", 1000)() {
			switch {
			case i == 0 && (a.shared || a.question != 1 || a.took != 10*time.Millisecond):
				t.Errorf("the first got %+v", a)
			case i > 0 && (a.question != 2 || a.took != 20*time.Millisecond):
				t.Errorf("%d got %+v", i, a)
			case a.shared:
				shared++
			default:
				own++
			}
		}
		if own != 2 || shared != 998 {
			t.Errorf("%d asked, %d were told", own, shared)
		}
		d.wantEmpty(t)
	})
}

// An answer is never that of a question which was asked before its receiver came.
func TestAnswerIsNotOlderThanTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(10 * time.Millisecond)
		waits := []func() []asked{}
		for range 5 { // at 0, 4, 8, 12, 16 ms; questions go out at 0, 10, 20
			waits = append(waits, d.start(t.Context(), "key", 3))
			time.Sleep(4 * time.Millisecond)
		}
		for i, want := range [][]int64{{1, 2, 2}, {2, 2, 2}, {2, 2, 2}, {3, 3, 3}, {3, 3, 3}} {
			for j, a := range waits[i]() {
				if a.question != want[j] {
					t.Errorf("at %d ms: the answer to question %d, not %d", 4*i, a.question, want[j])
				}
			}
		}
		d.wantEmpty(t)
	})
}

func TestKeysAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(10 * time.Millisecond)
		one, other := d.start(t.Context(), "one", 1), d.start(t.Context(), "other", 1)
		for _, a := range append(one(), other()...) {
			if a.shared || a.took != 10*time.Millisecond {
				t.Errorf("%+v", a)
			}
		}
		d.wantEmpty(t)
	})
}

// Two keys with one hash: the one that comes second does not share, and leaves the other's entry alone.
func TestKeysThatMeetInAHash(t *testing.T) {
	f := New[string, int64]()
	one := f.Enter("one")
	o := f.out[one.hash]
	o.key = "other"
	f.out[one.hash] = o // as if that had the same hash
	second := f.Enter("one")
	if !second.Leads() {
		t.Fatal("it waits for another key's answer")
	}
	second.End(2, true)
	if n := f.Len(); n != 1 {
		t.Errorf("%d entries while one is out", n)
	}
	one.End(1, true)
	if n := f.Len(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// What is not to be shared each asks for himself, at once.
func TestAnswerThatServesNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(10 * time.Millisecond)
		d.spoilt = func(question int64) bool { return question == 2 }
		own := 0
		for i, a := range d.start(t.Context(), "key", 10)() {
			if i > 1 && (a.shared || a.took != 30*time.Millisecond) {
				t.Errorf("%d got %+v", i, a)
			}
			if !a.shared {
				own++
			}
		}
		if own != 10 {
			t.Errorf("%d have asked, not all", own)
		}
		d.wantEmpty(t)
	})
}

// A question without an answer keeps others for two patiences at most: one takes the turn after the first, for all who wait.
func TestNobodyWaitsLongForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(10 * time.Millisecond)
		d.takes = func(question int64) time.Duration {
			if question == 1 {
				return time.Hour
			}
			return 10 * time.Millisecond
		}
		hung := d.start(t.Context(), "key", 1)
		time.Sleep(50 * time.Millisecond)
		for i, a := range d.start(t.Context(), "key", 10)() {
			if a.question != 2 || a.took != patience+10*time.Millisecond {
				t.Errorf("%d behind a question that hangs: %+v", i, a)
			}
		}
		// It is out of the way now.
		if a := d.start(t.Context(), "key", 2)(); a[0].took != 10*time.Millisecond || a[1].took != 20*time.Millisecond {
			t.Errorf("later: %+v", a)
		}
		d.wantEmpty(t)
		hung()
		d.wantEmpty(t)
	})
}

func TestNobodyWaitsLongForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(10 * time.Millisecond)
		d.takes = func(question int64) time.Duration {
			if question == 2 {
				return time.Hour
			}
			return 10 * time.Millisecond
		}
		for i, a := range d.start(t.Context(), "key", 10)() {
			if i > 1 && (a.shared || a.took != 10*time.Millisecond+patience+10*time.Millisecond) {
				t.Errorf("%d: %+v", i, a)
			}
		}
		d.wantEmpty(t)
	})
}

// Who has the turn and leaves hands it on; with the last of them the entry goes.
func TestThoseWhoLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(10 * time.Millisecond)
		ended, cancel := context.WithCancel(t.Context())
		first := d.start(t.Context(), "key", 1)
		leaving, staying := d.start(ended, "key", 3), d.start(t.Context(), "key", 3)
		time.Sleep(5 * time.Millisecond)
		cancel()
		for _, a := range leaving() {
			if a.question != 0 || a.took != 5*time.Millisecond {
				t.Errorf("left with %+v", a)
			}
		}
		first()
		for _, a := range staying() {
			if a.question != 2 || a.took != 20*time.Millisecond {
				t.Errorf("stayed and got %+v", a)
			}
		}
		d.wantEmpty(t)

		// All leave, before and behind the end of the question.
		ended, cancel = context.WithCancel(t.Context())
		first = d.start(t.Context(), "key", 1)
		leaving = d.start(ended, "key", 3)
		cancel()
		leaving()
		if n := d.Len(); n != 1 {
			t.Errorf("%d entries while a question is out", n)
		}
		first()
		d.wantEmpty(t)
	})
}

// The turn comes to one whose context has just ended. Which of the two he sees first is chance.
func TestTurnOfOneWhoLeaves(t *testing.T) {
	for i := range 60 {
		stays := i%2 == 0
		synctest.Test(t, func(t *testing.T) {
			f := New[string, int64]()
			lead := f.Enter("key")
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			leaving := f.Enter("key")
			lead.End(1, true) // leaving has the turn now
			staying := leaving
			if stays {
				staying = f.Enter("key")
			}
			if _, shared := leaving.Wait(ended, patience); shared || leaving.Leads() {
				t.Error("who leaves leads")
			}
			if stays {
				began := time.Now()
				if _, shared := staying.Wait(t.Context(), patience); shared || !staying.Leads() || time.Since(began) > 0 {
					t.Errorf("who stays leads: %v, after %v", staying.Leads(), time.Since(began))
				}
				staying.End(2, true)
			}
			if n := f.Len(); n != 0 {
				t.Errorf("%d entries are left", n)
			}
		})
	}
}

// Whoever asks, leaves, hangs or spoils an answer: it ends with nothing left, and nobody's answer is older than he.
func TestNothingIsLeft(t *testing.T) {
	f := New[int, int64]()
	var clock atomic.Int64
	var group sync.WaitGroup
	for caller := range 32 {
		group.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%7+caller%3)*50*time.Microsecond)
				came := clock.Add(1)
				p := f.Enter(i % 3)
				if !p.Leads() {
					if sent, shared := p.Wait(ctx, time.Duration(1+i%5)*100*time.Microsecond); shared && sent < came {
						t.Error("an answer to a question that was asked before")
					}
				}
				if sent := clock.Add(1); p.Leads() {
					if i%4 == 0 {
						time.Sleep(time.Duration(i%11) * 50 * time.Microsecond)
					}
					p.End(sent, i%9 != 0)
				}
				cancel()
			}
		})
	}
	group.Wait()
	if n := f.Len(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// Who is alone pays with no memory.
func TestAloneCostsNoMemory(t *testing.T) {
	f := New[string, int64]()
	if n := testing.AllocsPerRun(100, func() {
		p := f.Enter("key")
		p.End(1, true)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
