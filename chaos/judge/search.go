package judge

import (
	"context"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// search looks for an order of a domain's operations in which the protocol gives the answers that were given.
//
// Porcupine tries the orders. What it takes for the state of the system is a set of worlds: all that may stand there,
// given the answers so far. Hidden operations are taken up only where they are needed, before an operation that may
// show them: whatever may happen from some moment on may as well happen later, until somebody looks.
type search struct {
	*plan
	stage    stage
	shared   bool
	forks    []window // by the place in world.doomed
	unseen   []*op    // hidden operations of the stage, by call
	granting []int    // how many claims are among the first n+1 of them
	limit    int      // how many of those claims are granted
	depth    int      // not 0: how many of them, of vanishing records and of turns of replaced servers to answer, together
	misses   []bool   // by number: expiries that may find something newer than they have read
	left     int      // of the budget
	first    *set

	branches *branches
	worlds   *worlds
	applied  map[uint64][]int32
	grown    map[growth][]offshoot
	followed map[following][]uint32
}

// An effort is how much of what is hidden a search uses, 0 being all, and what it may spend: a few bytes of memory each
// time. Little is quick to try, and mostly enough.
type effort struct {
	depth, budget int
	last          bool // for the last stage only
}

var efforts = []effort{
	{1, 300_000, false}, {2, 300_000, false}, {3, 300_000, false}, {4, 500_000, false},
	{6, 1_000_000, true}, {8, 2_000_000, true}, {12, 3_000_000, true}, utmost,
}

var utmost = effort{0, 20_000_000, true}

func (p *plan) search(s stage, forks []window, e effort) *search {
	x := &search{
		plan: p, stage: s, shared: p.domain.Resource, depth: e.depth, left: e.budget,
		branches: newBranches(len(p.domain.Keys)), worlds: newWorlds(), applied: map[uint64][]int32{}, grown: map[growth][]offshoot{},
		followed: map[following][]uint32{},
	}
	if s >= forked {
		x.forks = forks
	}
	x.unseen, x.granting = p.upTo(s)
	if x.limit = x.regrants(); x.depth > 0 {
		x.limit = min(x.limit, x.depth)
	}
	x.misses = x.missing()
	x.first = &set{worlds: []uint32{x.worlds.number(world{main: 1}, 0)}}
	return x
}

// complete says whether the search uses all that is hidden, so that more effort would find no more.
func (x *search) complete() bool {
	return x.depth == 0 || x.stage < wiped && x.depth >= x.regrants()
}

// regrants is how many hidden claims may be granted: each may be, and again by a copy.
func (x *search) regrants() int {
	if len(x.granting) == 0 {
		return 0
	}
	return min(2*x.granting[len(x.granting)-1], mostUsed)
}

func (x *search) spend(n int)     { x.left -= n }
func (x *search) exhausted() bool { return x.left <= 0 }

// model is the search in the form that porcupine takes. It stays as pure as that asks for: what it keeps is what it
// has found out.
func (x *search) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return x.first },
		StepContext: func(ctx context.Context, state, input, _ any) (bool, any) {
			if x.exhausted() {
				return false, nil
			}
			next := x.step(ctx, state.(*set), input.(*op))
			return len(next.worlds) > 0, next
		},
		Equal: func(a, b any) bool {
			return a.(*set).hash == b.(*set).hash && slices.Equal(a.(*set).worlds, b.(*set).worlds)
		},
		Hash:              func(state any) uint64 { return state.(*set).hash },
		DescribeOperation: func(input, _ any) string { return x.describe(input.(*op)) },
		DescribeState:     func(state any) string { return x.describeSet(state.(*set)) },
	}
}

// operations are what an order is looked for.
func (p *plan) operations() []porcupine.Operation {
	var all []porcupine.Operation
	clients := map[int]int{}
	for _, o := range p.ops {
		client, seen := clients[o.event.Caller]
		if !seen {
			client = len(clients)
			clients[o.event.Caller] = client
		}
		all = append(all, porcupine.Operation{ClientId: client, Input: o, Call: o.from, Return: o.until, Metadata: o.event.Err})
	}
	return all
}

// find says whether there is an order; unknown is that it has run out of time or of its budget.
func (x *search) find(timeout time.Duration) porcupine.CheckResult {
	result := porcupine.CheckOperationsTimeout(x.model(), x.operations(), timeout)
	if result == porcupine.Illegal && x.exhausted() {
		return porcupine.Unknown
	}
	return result
}
