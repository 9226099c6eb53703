package judge

import (
	"context"
	"slices"
)

// mostForks is how many forks of one domain a search keeps apart.
const mostForks = 6

// mostUsed is how many hidden things a world can have used.
const mostUsed = 1<<usedBits - 1

const usedBits = 8

// world is what there may be: the branch that survives, and those of servers that are replaced.
type world struct {
	main   int32
	doomed [mostForks]int32 // 0: it has not parted from the main one, or is over
	by     int32            // which of the doomed answered last, plus one; 0 for the main one, and where that costs nothing
}

// worlds numbers the worlds that a search has met. In the lowest bits of a number is how much a world has used of
// search.depth, or of search.limit: of worlds that are equal otherwise the one that has used the least serves for all.
type worlds struct {
	all   []world
	known map[world]uint32
}

func newWorlds() *worlds { return &worlds{known: map[world]uint32{}} }

func (s *worlds) number(w world, used int32) uint32 {
	for i, d := range w.doomed {
		if d == w.main {
			w.doomed[i] = 0 // still as the main one: it may as well part later
		}
		if w.doomed[i] == 0 && w.by == int32(i+1) {
			w.by = 0
		}
	}
	n, ok := s.known[w]
	if !ok {
		n = uint32(len(s.all))
		s.all = append(s.all, w)
		s.known[w] = n
	}
	return n<<usedBits | uint32(used)
}

func (s *worlds) of(n uint32) (w world, used int32) {
	return s.all[n>>usedBits], int32(n & mostUsed)
}

// least sorts the worlds and keeps of equal ones that which has used the least.
func least(all []uint32) []uint32 {
	slices.Sort(all)
	return slices.CompactFunc(all, func(a, b uint32) bool { return a>>usedBits == b>>usedBits })
}

// set is all that there may be when some operations have taken place; last is when the last of them was called.
type set struct {
	worlds []uint32
	last   int64
	hash   uint64
}

// step returns what there may be after an operation.
func (x *search) step(ctx context.Context, s *set, o *op) *set {
	m := x.moment(s, o)
	next := &set{last: max(s.last, o.from)}
	for _, n := range s.worlds {
		if ctx.Err() != nil || x.exhausted() {
			break
		}
		next.worlds = append(next.worlds, x.follow(n, o, m)...)
	}
	next.worlds = least(next.worlds)
	x.spend(len(next.worlds))
	for _, n := range next.worlds {
		next.hash = (next.hash ^ uint64(n)) * 0x9e3779b97f4a7c15
		next.hash ^= next.hash >> 29
	}
	return next
}

// following is an operation on a world.
type following struct {
	world  uint32
	number int32
	moment
}

// follow returns what an operation may make of a world.
func (x *search) follow(n uint32, o *op, m moment) []uint32 {
	key := following{n, o.number, m}
	if out, ok := x.followed[key]; ok {
		return out
	}
	starts := []uint32{n}
	if m.wiping {
		starts = x.thin(n, o, m)
	}
	var out []uint32
	for _, n := range starts {
		w, used := x.worlds.of(n)
		if !x.frozen(w, o) {
			parted := x.part(w, o, m)
			for _, g := range x.grow(w.main, used, m) {
				for _, b := range x.apply(o, g.branch) {
					for _, w := range parted {
						w.main, w.by = b, 0
						out = append(out, x.worlds.number(x.over(w, m), g.used))
					}
				}
			}
		}
		if !o.onMain {
			out = x.followDoomed(out, w, used, o, m)
		}
	}
	out = slices.Clip(slices.Clone(least(out)))
	x.followed[key] = out
	x.spend(1 + len(out))
	return out
}

// followDoomed adds what becomes of a world when a server that is replaced answers.
func (x *search) followDoomed(out []uint32, w world, used int32, o *op, m moment) []uint32 {
	for i, f := range x.forks {
		if o.from > f.end {
			continue // only the survivor can have answered
		}
		from := w.doomed[i]
		if from == 0 { // it parts now
			if from = w.main; m.open>>i&1 == 0 || x.frozen(w, o) {
				continue
			}
		}
		next, used := w, used
		if x.depth > 0 && w.by != int32(i+1) { // it is its turn now
			if next.by = int32(i + 1); int(used) == x.depth {
				continue
			}
			used++
		}
		for _, g := range x.grow(from, used, m) {
			for _, b := range x.apply(o, g.branch) {
				next.doomed[i] = b
				out = append(out, x.worlds.number(x.over(next, m), g.used))
			}
		}
	}
	return out
}

// over drops the branches of forks that are over after the operation.
func (x *search) over(w world, m moment) world {
	for i := range x.forks {
		if m.over>>i&1 != 0 {
			w.doomed[i] = 0
		}
	}
	return w
}

// part returns a world as it is and as it may be when servers are left behind that are replaced, before the branch that
// survives changes.
func (x *search) part(w world, o *op, m moment) []world {
	all := []world{w}
	for i, f := range x.forks {
		if w.doomed[i] != 0 || o.until < f.fault.Start || m.open>>i&1 == 0 {
			continue
		}
		for _, w := range all {
			w.doomed[i] = w.main
			all = append(all, w)
		}
	}
	return all
}

// frozen says whether the branch that survives stands still: it has parted from a master that was not even disturbed
// when the operation returned, so that nobody else can have answered.
func (x *search) frozen(w world, o *op) bool {
	for i, f := range x.forks {
		if w.doomed[i] != 0 && o.until < f.fault.Start {
			return true
		}
	}
	return false
}

// thin lets records vanish from every branch: an operation that comes after the end of a wipe must find that it has
// happened, on the branches that it does not touch as well.
func (x *search) thin(n uint32, o *op, m moment) []uint32 {
	at := moment{wiping: true}
	all := []uint32{n}
	known := map[uint32]bool{n: true}
	note := func(w world, used int32) {
		if n := x.worlds.number(w, used); !known[n] {
			known[n] = true
			all = append(all, n)
		}
	}
	for i := 0; i < len(all); i++ {
		w, used := x.worlds.of(all[i])
		for _, thinner := range x.part(w, o, m) {
			for _, g := range x.grow(w.main, used, at) {
				thinner.main = g.branch
				note(thinner, g.used)
			}
		}
		for j, d := range w.doomed {
			if d == 0 {
				continue
			}
			for _, g := range x.grow(d, used, at) {
				thinner := w
				thinner.doomed[j] = g.branch
				note(thinner, g.used)
			}
		}
	}
	return least(all)
}
