package model

import "fmt"

// world is one state of an exploration: two nodes, callers, what is on its way, and what a witness who sees
// everything remembers in order to judge.
type world struct {
	time    int64 // the true one, ticks
	nodes   [2]node
	phase   phase
	callers [maxCalls]caller
	flight  [maxSky]letter
	flying  int8
	grants  [maxGrant]grant // all that were made, anywhere, in their order
	granted int8
	sink    sink
	left    [budgets]int8
	stepped int8 // how the master's clock was
}

type phase int8

const (
	whole    phase = iota // one master; its replica has everything
	parted                // replication has stopped
	replaced              // node 1 is the master; node 0 may still answer
)

const steppedBack = 1

// node is a server and what the witness knows of the history that survives in it.
type node struct {
	Server
	offset    int64 // of its clock, ticks
	minted    int64 // tokens in this tick
	takenOver bool  // after a failover
	known
}

// known is a history: it is lost together with the writes that it is about.
type known struct {
	made    uint16           // grants, a bit for each
	tokens  uint16           // those of them whose token, or a greater one, survives
	current [MaxKeys]int8    // by domain: the grant that nothing has ended or superseded, plus one
	version [MaxKeys]int8    // by key: which grant, expiry or resolution stands
	events  [MaxKeys]int8    // by key: how many there were
	closed  [MaxKeys]int8    // by key: the owner whose claim was the last to be ended, plus one
	bound   [MaxKeys]int32   // by key: the fingerprint that it is bound to
	answer  [MaxKeys]outcome // by key
	ran     [MaxKeys]bool    // by key: what stands there is of a grant, or of an operator who decided that it runs anew
	looked  [MaxKeys]int64   // by domain: the true time by which the lease that a claim was refused for must be over; 0 none
}

type outcome struct {
	state State
	data  int32
	until int64 // by the clock of the node
}

type grant struct {
	owner, key int8
	token      int64
	at         int64 // true time
	offset     int64 // of its maker's clock
	node       int8
	version    int8
	stale      bool // its maker was replaced
	ahead      bool // its token was ahead of the clock
}

// caller is one claim and the work that follows it.
type caller struct {
	state    callerState
	key      int8
	token    int64
	attempt  int32
	end      int64 // as last confirmed, by the server's clock
	believes int64 // until when it believes to hold the lease, true time
	saved    int64 // sequence of its last checkpoint
}

type callerState int8

const (
	idle  callerState = iota
	asked             // has claimed, and knows of no answer
	holding
	done
)

// letter is a request on its way.
type letter struct {
	Request
	caller  int8 // -1 an operator
	sent    int64
	ran     uint8 // by node: it has run there, in the history that survives
	version int8  // of the key, when an operator read it
}

// sink is a resource outside Redis that remembers the highest grant it admitted.
type sink struct {
	token [MaxKeys]int64
	owner [MaxKeys]int8
	grant [MaxKeys]int8 // plus one
}

func (w *world) serving() int {
	if w.phase == replaced {
		return 1
	}
	return 0
}

// domain of a key: the resource, or the key itself.
func (n *node) domain(key int8) int8 {
	if n.Shared {
		return 0
	}
	return key
}

// setClocks lets each node's clock follow the true time, and what has outlived its time go; it returns what the
// master should not have let go.
func (w *world) setClocks(p *Protocol) (broken string) {
	for i := range w.nodes {
		n := &w.nodes[i]
		n.Clock = (w.time+n.offset)*perTick + n.minted
		was := n.Server
		n.Forget(p)
		for k := range n.Records {
			if was.Records[k].there() && !n.Records[k].there() {
				if a := &n.answer[k]; i == w.serving() && p.millis(n.Clock) < a.until {
					broken = fmt.Sprintf("P4: a result that is kept until %d goes at %d", a.until, p.millis(n.Clock))
				}
				n.forgotten(int8(k), w)
			}
		}
		if was.Fence.there() && !n.Fence.there() {
			n.current[0] = 0
			n.survive(w)
		}
	}
	return broken
}

// forgotten notes that a record has gone.
func (n *node) forgotten(key int8, w *world) {
	if !n.Shared {
		n.current[key] = 0 // with a resource the fence still lets it write
	}
	n.happens(key)
	n.closed[key], n.bound[key], n.answer[key], n.ran[key] = 0, Unbound, outcome{}, false
	n.survive(w)
}

// elsewhere is more than the events that a key can have on the node that was the master first.
const elsewhere = 50

// happens gives what stands at a key a number of its own.
func (n *node) happens(key int8) {
	n.events[key]++
	n.version[key] = n.events[key]
}

// survive drops the grants of which neither the token nor a greater one is left where a claim looks.
func (n *node) survive(w *world) {
	for i := range w.granted {
		g := &w.grants[i]
		kept := n.Shared && n.Fence.there() && n.Fence.Token >= g.token
		for k := range n.Records {
			same := int8(k) == g.key || n.Shared
			kept = kept || same && n.Records[k].there() && n.Records[k].Token >= g.token
		}
		if !kept {
			n.tokens &^= 1 << i
		}
	}
}

// coder writes a world to bytes and reads it back, so that there is one list of its parts.
type coder struct {
	buf  []byte
	at   int
	read bool
}

func code[T ~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~int64 | ~int](c *coder, v *T) {
	if c.read {
		*v = T(int8(c.buf[c.at]))
		c.at++
		return
	}
	if int64(*v) != int64(int8(*v)) {
		panic(fmt.Sprintf("a scope is too large: %d", *v))
	}
	c.buf = append(c.buf, byte(*v))
}

func (c *coder) flags(flags ...*bool) {
	var b uint8
	for i, f := range flags {
		if *f && !c.read {
			b |= 1 << i
		}
	}
	c.bits(&b)
	for i, f := range flags {
		*f = b>>i&1 == 1
	}
}

func (c *coder) bits(b *uint8) {
	if c.read {
		*b = c.buf[c.at]
		c.at++
	} else {
		c.buf = append(c.buf, *b)
	}
}

func (c *coder) record(r *Record) {
	code(c, &r.State)
	if r.State == Absent {
		return
	}
	code(c, &r.Token)
	code(c, &r.End)
	code(c, &r.Length)
	code(c, &r.Max)
	code(c, &r.Expiry)
	code(c, &r.Sequence)
	code(c, &r.Owner)
	code(c, &r.Print)
	code(c, &r.Data)
	code(c, &r.Attempt)
	c.flags(&r.Saved)
}

func (c *coder) node(n *node) {
	for i := range n.Records {
		c.record(&n.Records[i])
	}
	if n.Shared {
		c.record(&n.Fence.Record)
	}
	code(c, &n.offset)
	code(c, &n.minted)
	c.flags(&n.takenOver, &n.ran[0], &n.ran[1])
	small := [2]uint8{uint8(n.made), uint8(n.tokens)}
	c.bits(&small[0])
	c.bits(&small[1])
	n.made, n.tokens = uint16(small[0]), uint16(small[1])
	for i := range MaxKeys {
		code(c, &n.current[i])
		code(c, &n.version[i])
		code(c, &n.events[i])
		code(c, &n.closed[i])
		code(c, &n.bound[i])
		code(c, &n.looked[i])
		if a := &n.answer[i]; c.optional(a.state != Absent) {
			code(c, &a.state)
			code(c, &a.data)
			code(c, &a.until)
		}
	}
}

// optional says whether a part follows.
func (c *coder) optional(there bool) bool {
	c.flags(&there)
	return there
}

func (c *coder) letter(l *letter) {
	code(c, &l.Verb)
	code(c, &l.caller)
	code(c, &l.Key)
	code(c, &l.Token)
	code(c, &l.Owner)
	code(c, &l.Read)
	code(c, &l.Attempt)
	code(c, &l.End)
	code(c, &l.Outcome)
	c.flags(&l.Within)
	code(c, &l.Finish)
	code(c, &l.Floor)
	code(c, &l.sent)
	code(c, &l.Sequence)
	code(c, &l.version)
	c.bits(&l.ran)
}

// world writes the parts that matter first and what is left of the budgets last; it returns where the first end.
func (c *coder) world(w *world) int {
	code(c, &w.time)
	code(c, &w.phase)
	code(c, &w.stepped)
	c.node(&w.nodes[0])
	if w.phase != whole {
		c.node(&w.nodes[1])
	}
	for i := range w.callers {
		a := &w.callers[i]
		code(c, &a.state)
		if a.state != idle {
			code(c, &a.key)
		}
		if a.state == holding {
			code(c, &a.token)
			code(c, &a.attempt)
			code(c, &a.end)
			code(c, &a.believes)
			code(c, &a.saved)
		}
	}
	code(c, &w.granted)
	for i := range w.granted {
		g := &w.grants[i]
		code(c, &g.owner)
		code(c, &g.key)
		code(c, &g.token)
		code(c, &g.at)
		code(c, &g.offset)
		code(c, &g.node)
		code(c, &g.version)
		c.flags(&g.stale, &g.ahead)
	}
	for i := range w.sink.token {
		code(c, &w.sink.token[i])
		code(c, &w.sink.owner[i])
		code(c, &w.sink.grant[i])
	}
	code(c, &w.flying)
	for i := range w.flying {
		c.letter(&w.flight[i])
	}
	core := len(c.buf)
	for i := range w.left {
		code(c, &w.left[i])
	}
	return core
}
