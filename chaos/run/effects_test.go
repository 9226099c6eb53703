package run

import (
	"fmt"
	"testing"

	"github.com/onceward/coordinator/chaos/history"
)

func TestOnTheirWay(t *testing.T) {
	fork := func(from, until int64, slots ...[2]int) history.Fault {
		return history.Fault{Name: killMaster, Effect: history.Fork, Slots: slots, Start: ms(from), End: ms(until), Count: 1}
	}
	move := func(from, until int64, slots ...[2]int) history.Fault {
		return history.Fault{Name: moveSlots, Effect: history.NoLoss, Slots: slots, Start: ms(from), End: ms(until), Count: 1}
	}
	own, one, other := [2]int{0, 5460}, [2]int{6000, 6000}, [2]int{7000, 7000}
	for _, test := range []struct {
		name     string
		happened []history.Fault
		want     [][2]int
	}{
		{"nothing moved", []history.Fault{fork(5000, 8000, own)}, nil},
		{"a move meanwhile", []history.Fault{move(4000, 6000, one), fork(5000, 8000, own, one)}, [][2]int{one}},
		{"a move that failed is not known", []history.Fault{fork(5000, 8000, own, one)}, [][2]int{one}},
		{"a move before", []history.Fault{move(1000, 2000, one), fork(5000, 8000, own, one)}, nil},
		{"one of two before", []history.Fault{move(1000, 2000, one), move(4000, 9000, other), fork(5000, 8000, own, one, other)}, [][2]int{other}},
		{"a move away from a master of many", []history.Fault{move(4500, 6000, other), fork(5000, 8000, [2]int{6000, 8000})}, [][2]int{other}},
		{"a move away before", []history.Fault{move(1000, 2000, other), fork(5000, 8000, [2]int{6000, 8000})}, nil},
		{"a move elsewhere", []history.Fault{move(4500, 6000, one), fork(5000, 8000, [2]int{6500, 8000})}, nil},
		{"moved before and again", []history.Fault{move(1000, 2000, one), move(4900, 5100, one), fork(5000, 8000, own, one)}, [][2]int{one}},
	} {
		var got [][2]int
		for _, loss := range onTheirWay(test.happened) {
			if loss.Effect != history.Wipe || loss.Start != ms(4000) || loss.End != ms(8000) {
				t.Errorf("%s: %+v", test.name, loss)
			}
			got = append(got, loss.Slots...)
		}
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
