// Package history is what a chaos run leaves behind: what each caller asked for and was told, what was done to the
// servers meanwhile, and what stood in the sinks in the end. Everything is JSON lines, so that a process may be
// killed in the middle of its work without taking along what it has seen.
package history

// Op is what a caller did.
type Op string

// The operations of a history.
const (
	Claim      Op = "claim"
	Renew      Op = "renew" // one that the caller asked for; renewals in the background leave no trace
	Checkpoint Op = "checkpoint"
	Complete   Op = "complete"
	Fail       Op = "fail"
	Release    Op = "release"
	GiveBack   Op = "give_back"
	Expire     Op = "expire"
	Resolve    Op = "resolve"
	Result     Op = "result"
	Write      Op = "write"  // to the sink in Redis, behind the fence
	Insert     Op = "insert" // into the sink in PostgreSQL, behind coordpg.Admit
)

// Outcome is what a caller was told: the names are those of coordinator.Event.
type Outcome string

// The outcomes of a history; an operation that never returned has none.
const (
	OK            Outcome = "ok"
	Granted       Outcome = "granted"
	Takeover      Outcome = "takeover" // granted, after a lease had lapsed
	Replayed      Outcome = "replayed" // ErrCompleted: Result and Failed say what is stored
	InProgress    Outcome = "in_progress"
	Mismatch      Outcome = "mismatch"
	Uncertain     Outcome = "uncertain"
	LeaseLost     Outcome = "lease_lost"
	Stale         Outcome = "stale"
	NotFound      Outcome = "not_found"
	Unknown       Outcome = "unknown"
	NotReplicated Outcome = "not_replicated"
	Unavailable   Outcome = "unavailable" // known not to have run
	Closed        Outcome = "closed"      // known not to have run
	Failed        Outcome = "error"       // anything else: a failure of the run
)

// Final is the Caller of claims that ask, when all is over, what has become of each key.
const Final = -1

// Event is one operation of one caller. It is written twice: when it begins, without an outcome, and when it
// ends; both have the same ID. A process that is killed in between leaves the first one only.
type Event struct {
	ID      int64  `json:"id"`      // unique in the process
	Process int    `json:"process"` // of the caller
	Caller  int    `json:"caller"`  // one sequential actor, unique in the run
	Domain  string `json:"domain"`  // the fence domain: the resource, or scope and id of a key that stands alone
	Key     string `json:"key"`     // the key's ID, unique in its domain
	Op      Op     `json:"op"`

	// Call and Return are nanoseconds of this machine's monotonic clock, which all processes share.
	Call   int64 `json:"call"`
	Return int64 `json:"return,omitempty"`

	Owner       string `json:"owner,omitempty"`       // whose grant is used, was given, or is given back; of a claim that is asked again, the one asked for
	Token       int64  `json:"token,omitempty"`       // of that grant; of expire and resolve none
	Attempt     int    `json:"attempt,omitempty"`     // of a grant, or of the run in progress
	Fingerprint string `json:"fingerprint,omitempty"` // of a claim or a result
	Quarantine  bool   `json:"quarantine,omitempty"`  // the claim said QuarantineLapsed
	Wait        bool   `json:"wait,omitempty"`        // the claim waited: it is many claims in one, of which the last was answered
	MinToken    int64  `json:"min_token,omitempty"`

	Data    string  `json:"data,omitempty"`   // in: checkpoint, result, or the line written to the sink. Of a grant: the checkpoint found
	Failed  bool    `json:"failed,omitempty"` // of Data or Found: it is a final failure
	Rerun   bool    `json:"rerun,omitempty"`  // of resolve
	Outcome Outcome `json:"outcome,omitempty"`
	Found   string  `json:"found,omitempty"`   // out: the stored result, of replayed claims, results and completions
	Current int64   `json:"current,omitempty"` // out: StaleTokenError.Current
	Err     string  `json:"err,omitempty"`     // the error's text, for people
}

// Pending reports whether the operation began and never ended.
func (e *Event) Pending() bool { return e.Return == 0 }

// Holding is a stretch of time in which a lease's context was seen alive, and how it ended.
type Holding struct {
	Process int    `json:"process"`
	Caller  int    `json:"caller"`
	Domain  string `json:"domain"`
	Key     string `json:"key"`
	Owner   string `json:"owner"`
	Token   int64  `json:"token"`
	Granted int64  `json:"granted"`         // when the claim returned
	Alive   int64  `json:"alive"`           // the latest moment, taken before a look at the context that found it alive
	Ended   int64  `json:"ended,omitempty"` // when the holder learned of the end; 0 when its process was killed before
	Cause   string `json:"cause,omitempty"` // lease_lost, closed, finished
	Lease   int64  `json:"lease"`           // ns, without the grace
	Grace   int64  `json:"grace"`           // ns
	Stopped bool   `json:"stopped,omitempty"`
	Auto    bool   `json:"auto,omitempty"` // renewed in the background
}

// Effect is what a fault does to what was acknowledged.
type Effect string

// The effects of faults.
const (
	// NoLoss: answers may be lost, late or refused, but what was acknowledged stays.
	NoLoss Effect = "none"
	// Fork: from Start to End two servers may answer for the slots, and what the one that is replaced acknowledged
	// may be forgotten.
	Fork Effect = "fork"
	// Wipe: records may vanish between Start and End, each by itself.
	Wipe Effect = "wipe"
	// Step: a server's clock was moved, so that leases may end early or late and tokens are ahead.
	Step Effect = "step"
	// Late: requests were held back between Start and End, and delivered at End.
	Late Effect = "late"
	// Stop: processes of callers were stopped or killed.
	Stop Effect = "stop"
	// Database: PostgreSQL was disturbed, and Redis was not.
	Database Effect = "database"
)

// Fault is one fault that was injected.
type Fault struct {
	Name   string `json:"name"`
	Effect Effect `json:"effect"`
	// Slots are the ranges [from, to] that the servers concerned serve; none is all.
	Slots [][2]int `json:"slots,omitempty"`
	// Processes are the callers concerned, of Stop.
	Processes []int `json:"processes,omitempty"`
	Start     int64 `json:"start"`
	End       int64 `json:"end"` // when its effect was over: the promotion seen by all and the old master demoted, the requests delivered
	// Promoted is when a replica had taken over, 0 where none had to.
	Promoted int64 `json:"promoted,omitempty"`
	// Offset is how far a clock was moved, in ns.
	Offset int64 `json:"offset,omitempty"`
	// Count is how many things it hit: requests held, replies dropped, connections cut, keys evicted; at least 1
	// for a fault that happened.
	Count  int64  `json:"count"`
	Detail string `json:"detail,omitempty"`
}

// The kinds of sinks.
const (
	Redis    = "redis"    // a list, behind a Fence
	Postgres = "postgres" // a table, behind coordpg.Admit
)

// Sink is what stood in a domain's fenced list in the end, on the master that served it, or in the table.
type Sink struct {
	Domain string   `json:"domain"`
	Kind   string   `json:"kind"`
	Lines  []string `json:"lines"` // each is SinkLine, in the order of admission
}

// Key is what stood under one Redis key of ours in the end.
type Key struct {
	Name string `json:"name"`
	TTL  int64  `json:"ttl"` // ms, -1 for none
	Node string `json:"node"`
}

// Domain tells what a run did with a fence domain.
type Domain struct {
	Name     string   `json:"name"`
	Resource bool     `json:"resource"` // its keys share a resource; otherwise it is one key alone
	Keys     []string `json:"keys"`
	Slot     int      `json:"slot"`
}

// Line is one line of a history: exactly one of its fields is set.
type Line struct {
	Event   *Event   `json:"event,omitempty"`
	Holding *Holding `json:"holding,omitempty"`
	Fault   *Fault   `json:"fault,omitempty"`
	Sink    *Sink    `json:"sink,omitempty"`
	Key     *Key     `json:"redis_key,omitempty"`
	Domain  *Domain  `json:"domain,omitempty"`
	Run     *Run     `json:"run,omitempty"`
	Leak    *Leak    `json:"leak,omitempty"`
}

// Run is what was chosen for the whole run.
type Run struct {
	Seed     int64  `json:"seed"`
	Group    string `json:"group"` // of faults
	Engine   string `json:"engine"`
	Replicas int    `json:"replicas"`        // of WithReplicas, 0 for none
	Lease    int64  `json:"lease"`           // ns
	Grace    int64  `json:"grace"`           // ns
	Cache    int64  `json:"cache,omitempty"` // ns, of WithReplayCache: what is found may be as old; 0 for none
	Start    int64  `json:"start"`
	End      int64  `json:"end"`
	Lifetime int64  `json:"lifetime,omitempty"` // ns, of WithMaxLifetime: tombstones stay for it and its grace
}

// Leak is what a process still had after it had closed its coordinators and clients; 0 is expected.
type Leak struct {
	Process     int `json:"process"`
	Goroutines  int `json:"goroutines"`
	Connections int `json:"connections"`
}
