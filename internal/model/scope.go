package model

// Scope bounds an exploration. Every number is a budget for the whole history: the explorer tries all orders in
// which it can be spent, and all ways to leave some of it unspent.
type Scope struct {
	Name    string
	Keys    int
	Shared  bool     // the keys have one resource
	Callers int      // each draws one owner
	Prints  [3]int32 // their fingerprints
	Settled bool     // the first caller claims the first key: the others are alike
	Operate [2]bool  // keys that an operator may expire or resolve
	Parted  bool     // callers keep to their own key: caller n to key n modulo Keys

	Ticks     int
	Claims    int
	Renewals  int
	Saves     int // checkpoints
	Completes int
	Releases  int
	Writes    int // fenced, in Redis: what the promise says of them is checked in every state without sending any
	Admits    int // by a sink elsewhere that remembers the highest grant it admitted
	GiveBacks int
	Expires   int
	Resolves  int
	Lost      int // replies that do not arrive
	Late      int // requests, or copies of them, that stay on their way
	InFlight  int // of those at one moment

	Cuts       int // replication stops; what is written from then on is the suffix that a failover loses
	Promotions int
	Skew       []int64 // by how much the replica's clock may differ, ticks
	Answers    int     // requests that a replaced master still runs

	Evictions int
	Steps     int     // of the master's clock
	StepBy    []int64 // ticks
	Floor     int64   // MinToken of the last caller, as a time, ticks from the beginning; 0 none

	Quarantine bool // of the last caller's claims
	Old        bool // the last caller's key is older than the retention, and its claims say so

	Length, Lifetime, Retention, Burial int64 // ticks; Length has a grace of one
}

// Units of explorations: a tick is a unit of time and has room for some grants, as a millisecond has.
const (
	perTick  = 8
	grace    = 1
	dawn     = 3 // the time at which all begins, so that clocks can be behind
	maxCalls = 3 // callers
	maxGrant = 6
	maxSky   = 2 // in flight
)

func (s *Scope) units() Units {
	return Units{PerMilli: perTick, Margin: 1, FarAhead: 1 << 20, Early: 1 << 20, Tokens: 1 << 40}
}

// budget indexes what is left.
type budget int

const (
	ticks budget = iota
	claims
	renewals
	saves
	completes
	releases
	writes
	admits
	giveBacks
	expires
	resolves
	losses
	lates
	cuts
	promotions
	answers
	evictions
	steps
	budgets
)

func (s *Scope) budgets() [budgets]int8 {
	var b [budgets]int8
	for i, n := range []int{
		s.Ticks, s.Claims, s.Renewals, s.Saves, s.Completes, s.Releases, s.Writes, s.Admits, s.GiveBacks, s.Expires,
		s.Resolves, s.Lost, s.Late, s.Cuts, s.Promotions, s.Answers, s.Evictions, s.Steps,
	} {
		b[i] = int8(n)
	}
	return b
}
