package model

// State is where a record stands; a lapsed one is in progress with an end that has passed.
type State uint8

// The states of a record.
const (
	Absent State = iota
	InProgress
	Released
	Completed
	Failed
)

// Code is what a verb answers first.
type Code int

// The codes, with the numbers of the scripts.
const (
	OK Code = iota
	Over
	Mismatch
	Busy // in progress
	Finished
	Uncertain
	Lost
	Stale
	NotThere
	Corrupt
	MovedOn
	Restored
	KeyExpired
	Ahead
	Spent
	Blocked
)

var codeNames = [...]string{
	"ok", "over", "mismatch", "in progress", "finished", "uncertain", "lost", "stale", "absent", "corrupt", "moved on",
	"restored", "key expired", "ahead", "spent", "blocked",
}

func (c Code) String() string { return codeNames[c] }

// Unbound is the fingerprint of a record that is bound to none yet. To be bound to no fingerprint is a value of its own.
const Unbound int32 = -1

// GivenBack is the maximum of a tombstone that a give back made: to a key's age it is no record.
const GivenBack int64 = 1

// Record is what the server holds for a key. Its zero value is an absent one.
type Record struct {
	Token    int64
	End      int64 // of the lease; of a finished record, when it finished
	Length   int64 // of the lease and its grace
	Max      int64 // the end that no renewal passes; in a tombstone 0, or GivenBack
	Expiry   int64 // when the server forgets it
	Sequence int64 // of the checkpoint
	Owner    int32
	Print    int32 // fingerprint, or Unbound
	Data     int32 // the result, or the checkpoint; of a fence, the key that holds it
	Attempt  int32
	State    State
	Mark     uint8 // in progress: how waiters listen, 1 and 2 or both; finished: 1 when replicas confirmed it
	Saved    bool  // there is a checkpoint
}

// Fence is what the server holds for a resource: the grant that holds it, or the last that did.
type Fence struct{ Record }

func (r *Record) there() bool    { return r.State != Absent }
func (r *Record) finished() bool { return r.State == Completed || r.State == Failed }

// Slot is what one script sees: a key's record and, where the key has a resource, its fence.
type Slot struct {
	Record Record
	Fence  Fence
	Shared bool // the key has a resource
}

// held says whether the fence is held by the grant that the record has.
func (s *Slot) held() bool {
	r, f := &s.Record, &s.Fence.Record
	return s.Shared && f.State == InProgress && f.State == r.State && f.Token == r.Token && f.Owner == r.Owner
}

// endAt moves an end to an earlier time.
func (r *Record) endAt(stop, ms int64) {
	if stop < r.End {
		r.End, r.Length = stop, stop-ms
	}
}

// Verb is one script.
type Verb uint8

// The verbs.
const (
	Claim Verb = iota
	Renew
	Checkpoint
	Complete // and fail: Request.Outcome
	Release
	GiveBack
	Expire
	Resolve
	Mark
	FenceCheck
	Confirm
	Inspect
)

var verbNames = [...]string{"claim", "renew", "checkpoint", "complete", "release", "give back", "expire", "resolve", "mark", "fenced write", "confirm", "inspect"}

func (v Verb) String() string { return verbNames[v] }

// Request is a verb with its arguments. Which of them a verb reads stands at its function.
type Request struct {
	Verb  Verb
	Key   int32
	Owner int32
	Token int64 // of the grant; of expire and resolve, the token that was read
	Read  int32 // of expire and resolve, the owner that was read

	Print     int32
	Length    int64
	Lifetime  int64
	Retention int64
	Burial    int64 // how long a tombstone stays

	Quarantine bool
	Rewrite    bool  // for the replicas
	Floor      int64 // MinToken
	Issued     int64 // when the client made the key; 0 not known

	Outcome State // Completed, Failed, and for resolve Released
	Data    int32 // payload or checkpoint
	Attempt int32
	End     int64 // of the lease, as last confirmed
	Within  bool  // the holder is within its lease
	Finish  int64 // when it finished, by the holder's reckoning

	Sequence int64
	Listen   uint8
}

// Reply is a verb's answer. Which fields are set depends on the code.
type Reply struct {
	Code    Code
	Record  Record // the record, or what stands in the way
	Now     int64
	Attempt int32 // behind Blocked
	Which   int   // behind Ahead: 5 the token, 3 the time of issue
}

// Server holds some keys, which share one resource or have none.
type Server struct {
	Clock   int64 // in units of tokens; may step
	Records [MaxKeys]Record
	Fence   Fence
	Shared  bool
}

// MaxKeys is how many keys a Server can hold.
const MaxKeys = 2

// Run executes a request as of the server's clock.
func (s *Server) Run(p *Protocol, q *Request) Reply {
	slot, reply := p.Run(Slot{Record: s.Records[q.Key], Fence: s.Fence, Shared: s.Shared}, s.Clock, q)
	s.Records[q.Key], s.Fence = slot.Record, slot.Fence
	return reply
}

// Forget drops what has outlived its time.
func (s *Server) Forget(p *Protocol) {
	now := p.millis(s.Clock)
	for i := range s.Records {
		if s.Records[i].there() && now >= s.Records[i].Expiry {
			s.Records[i] = Record{}
		}
	}
	if s.Fence.there() && now >= s.Fence.Expiry {
		s.Fence = Fence{}
	}
}
