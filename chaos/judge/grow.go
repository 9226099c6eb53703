package judge

import (
	"slices"
	"sort"

	"github.com/onceward/coordinator/chaos/history"
)

// moment is what may happen unseen before an operation, by the times of the operations.
type moment struct {
	level  int32 // how many of the hidden operations have begun
	wiping bool  // records may vanish
	buried bool  // tombstones may have outlived their time
	open   uint8 // by fork: it may begin
	over   uint8 // by fork: it is over after the operation
}

// moment says what may happen between what has taken place and an operation. An effect with a beginning and an end
// may come before the operation if it begins before that returns, and has not ended before the last call.
func (x *search) moment(s *set, o *op) moment {
	m := moment{level: int32(sort.Search(len(x.unseen), func(i int) bool { return x.unseen[i].from > o.until }))}
	may := func(w window) bool { return w.start <= o.until && s.last <= w.end }
	if x.stage >= wiped {
		for _, w := range x.wipes {
			m.wiping = m.wiping || may(w)
		}
	}
	for i, f := range x.forks {
		if may(f) {
			m.open |= 1 << i
		}
		if f.end < max(s.last, o.from) {
			m.over |= 1 << i
		}
	}
	m.buried = o.until >= x.burial()
	return m
}

// burial is the earliest time at which a tombstone may be gone: it stays for the maximum lifetime, which is a lease
// at least, and its grace.
func (p *plan) burial() int64 {
	if len(p.domain.events) == 0 {
		return always
	}
	stay := p.run.Run.Lifetime
	if stay == 0 {
		stay = p.run.Run.Lease
	}
	return p.domain.events[0].Call + stay
}

// growth is a branch and what may happen to it unseen, offshoot what it may have become by then.
type growth struct {
	branch, used, level int32
	wiping, buried      bool
}

type offshoot struct{ branch, used int32 }

// grow returns what a branch may be, when any of the hidden operations have taken effect on it.
func (x *search) grow(branch, used int32, at moment) []offshoot {
	if at.level == 0 && !at.wiping && !at.buried {
		return []offshoot{{branch, used}}
	}
	key := growth{branch, used, at.level, at.wiping, at.buried}
	if all, ok := x.grown[key]; ok {
		return all
	}
	least := map[int32]int32{branch: used}
	queue := []offshoot{{branch, used}}
	reach := func(b, used int32) {
		if before, seen := least[b]; !seen || used < before {
			least[b] = used
			queue = append(queue, offshoot{b, used})
		}
	}
	for len(queue) > 0 && !x.exhausted() {
		from := queue[0]
		queue = queue[1:]
		if least[from.branch] < from.used {
			continue // reached with less since
		}
		for _, o := range x.unseen[:at.level] {
			cost := int32(0)
			if o.do == history.Claim {
				if cost = 1; int(from.used) >= min(x.limit, 2*x.granting[at.level-1]) {
					continue
				}
			}
			for _, b := range x.apply(o, from.branch) {
				if b != from.branch {
					reach(b, from.used+cost)
				}
			}
		}
		if at.buried {
			for _, b := range x.bury(from.branch) {
				reach(b, from.used)
			}
		}
		cost := int32(0)
		if x.depth > 0 {
			cost = 1
		}
		if at.wiping && (cost == 0 || int(from.used) < x.depth) {
			for _, b := range x.vanish(from.branch) {
				reach(b, from.used+cost)
			}
		}
	}
	all := make([]offshoot, 0, len(least))
	for b, used := range least {
		all = append(all, offshoot{b, used})
	}
	slices.SortFunc(all, func(a, b offshoot) int { return int(a.branch) - int(b.branch) })
	x.grown[key] = all
	x.spend(len(all))
	return all
}

// vanish returns the branches that one record less leaves.
func (x *search) vanish(branch int32) (out []int32) {
	b := x.branches.all[branch]
	for i := range b.recs {
		if b.recs[i].there() {
			out = append(out, x.branches.put(b, i, rec{}, b.fence))
		}
	}
	if b.fence.there() {
		out = append(out, x.branches.put(b, 0, b.recs[0], rec{}))
	}
	return out
}

// bury returns the branches that one tombstone less leaves.
func (x *search) bury(branch int32) (out []int32) {
	b := x.branches.all[branch]
	for i := range b.recs {
		if b.recs[i].tombstone() {
			out = append(out, x.branches.put(b, i, rec{}, b.fence))
		}
	}
	return out
}
