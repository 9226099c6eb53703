package judge

import (
	"encoding/binary"
	"slices"
)

// state is where a record stands. Time has no place here: a record in progress may be live or lapsed.
type state uint8

const (
	absent state = iota
	inProgress
	released // of a fence: cleared
	completed
	failed
)

const (
	nobody  int32 = 0  // the owner of a claim whose owner no event tells
	unbound int32 = -1 // the fingerprint of a tombstone
)

// rec is what stands under a key, or a resource's fence. Owners, fingerprints and payloads are numbers of their texts.
type rec struct {
	token    int64
	owner    int32
	print    int32
	data     int32 // the result, or the checkpoint; of a fence, the key that holds it
	attempt  int32
	sequence int32 // of the checkpoint, among those of its grant
	state    state
	loose    bool // the token is this one or greater: no event tells which
	lapsed   bool // in progress, and an answer has said that the lease is over
}

func (r *rec) there() bool    { return r.state != absent }
func (r *rec) finished() bool { return r.state == completed || r.state == failed }

// mayHave says whether the token can be this one, mayLack whether it can be another.
func (r *rec) mayHave(token int64) bool { return r.token == token || r.loose && token > r.token }
func (r *rec) mayLack(token int64) bool { return r.token != token || r.loose }

// tombstone says whether it is one; a claim that was given back is not, being bound.
func (r *rec) tombstone() bool { return r.state == released && r.print == unbound }

// branch is what one server holds of a domain. It is never changed once it is made.
type branch struct {
	id    int32
	recs  []rec // by key
	fence rec   // absent where the key stands alone
}

func (r *rec) appendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(r.token))
	for _, n := range [...]int32{r.owner, r.print, r.data, r.attempt, r.sequence} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	flag := func(set bool) byte {
		if set {
			return 1
		}
		return 0
	}
	return append(b, byte(r.state), flag(r.loose), flag(r.lapsed))
}

// branches are all that a search has met, each once, so that a number stands for one.
type branches struct {
	all   []*branch
	known map[string]int32
	text  []byte // of the one that is looked for
}

func newBranches(keys int) *branches {
	b := &branches{all: []*branch{nil}, known: map[string]int32{}} // 0 is none
	b.put(&branch{recs: make([]rec, keys)}, 0, rec{}, rec{})
	return b
}

// put returns the branch that differs from this one in a key's record and the fence.
func (s *branches) put(b *branch, key int, r, fence rec) int32 {
	text := s.text[:0]
	for i := range b.recs {
		if i == key {
			text = r.appendTo(text)
		} else {
			text = b.recs[i].appendTo(text)
		}
	}
	text = fence.appendTo(text)
	s.text = text
	if id, ok := s.known[string(text)]; ok {
		return id
	}
	n := &branch{id: int32(len(s.all)), recs: slices.Clone(b.recs), fence: fence}
	n.recs[key] = r
	s.all = append(s.all, n)
	s.known[string(text)] = n.id
	return n.id
}
