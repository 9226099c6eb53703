package run

import (
	"testing"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

func ms(n int64) int64 { return n * int64(time.Millisecond) }

func TestOutage(t *testing.T) {
	// Claims every 20 ms, but for 100 to 900 and 1500 to 1600.
	var hits []int64
	for at := int64(0); at < 2000; at += 20 {
		if at <= 100 || at >= 900 && at <= 1500 || at >= 1600 {
			hits = append(hits, ms(at))
		}
	}
	probers := []*prober{{from: 0, to: 99}, {from: 100, to: 199, hits: hits}}
	mine := [][2]int{{150, 150}}
	for _, test := range []struct {
		name  string
		fault history.Fault
		want  outage
		ok    bool
	}{
		{
			"promotion", history.Fault{Slots: mine, Start: ms(110), Promoted: ms(700), End: ms(1200)},
			outage{Again: 790 * time.Millisecond, Promotion: 590 * time.Millisecond, After: 200 * time.Millisecond}, true,
		},
		{"the longest gap", history.Fault{Slots: mine, Start: ms(50), End: ms(1700)}, outage{Again: 800 * time.Millisecond}, true},
		{"a gap that goes on after the end", history.Fault{Slots: mine, Start: ms(1480), End: ms(1520)}, outage{Again: 100 * time.Millisecond}, true},
		{"none", history.Fault{Slots: mine, Start: ms(1000), End: ms(1100)}, outage{Again: 20 * time.Millisecond}, true},
		{"no claim since", history.Fault{Slots: mine, Start: ms(1900), End: ms(2100)}, outage{}, false},
		{"of a master that nobody probes", history.Fault{Slots: [][2]int{{0, 9}}, Start: ms(50), End: ms(1700)}, outage{}, false},
		{"of all masters", history.Fault{Start: ms(50), End: ms(1700)}, outage{Again: 800 * time.Millisecond}, true},
	} {
		if got, ok := outageOf(probers, test.fault); got != test.want || ok != test.ok {
			t.Errorf("%s: %+v, %v; want %+v, %v", test.name, got, ok, test.want, test.ok)
		}
	}
}

func TestMiddle(t *testing.T) {
	for _, test := range []struct {
		of   []int
		want int
	}{{nil, 0}, {[]int{7}, 7}, {[]int{9, 1}, 1}, {[]int{3, 9, 1}, 3}} {
		if got := middle(test.of); got != test.want {
			t.Errorf("middle(%v) = %d", test.of, got)
		}
	}
}
