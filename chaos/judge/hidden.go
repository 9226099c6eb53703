package judge

import (
	"cmp"
	"slices"

	"github.com/onceward/coordinator/chaos/history"
)

// hide adds what an operation may have done unseen: o itself where its outcome is not known, further copies of it
// where it was answered. Some calls do more than they are asked for: a claim whose grant is over before it arrives is
// given back and asked again under another owner; so is one that replicas did not confirm; and who gets
// no answer may give back in the background.
func (p *plan) hide(o *op, from stage) {
	unanswered := from == plain
	switch o.do {
	case history.Claim:
		told := o.owner != nobody && (unanswered && o.said != history.NotReplicated || o.said == history.Granted || o.said == history.Takeover)
		if told {
			p.hideAs(o, from, history.Claim, o.owner)
			if unanswered {
				p.hideAs(o, from, history.GiveBack, o.owner)
			}
		}
		if unanswered && told {
			if !o.repeated {
				return
			}
			from = repeats // an earlier owner of this claim
		}
		p.hideAs(o, from, history.Claim, nobody)
		p.hideAs(o, from, history.GiveBack, nobody)
	case history.Checkpoint, history.Complete, history.Fail, history.Release, history.GiveBack, history.Expire, history.Resolve:
		p.hideAs(o, from, o.do, o.owner)
	}
}

func (p *plan) hideAs(o *op, from stage, do history.Op, owner int32) *op {
	h := *o
	h.hidden, h.stage, h.do, h.said, h.owner, h.until, h.onMain = true, from, do, history.OK, owner, always, false
	if do == history.Claim {
		h.said = history.Granted
	}
	p.hidden = append(p.hidden, &h)
	return &h
}

// number orders the hidden operations and numbers all. Claims that were held back without a sign of it may be granted
// late; they are hidden from the stage on that knows of held requests.
func (p *plan) number() {
	for _, o := range p.ops {
		if o.do != history.Claim || o.repeated {
			continue
		}
		for _, w := range p.lates {
			if w.overlaps(o.from, o.until) {
				p.hideAs(o, wiped, history.Claim, nobody)
				p.hideAs(o, wiped, history.GiveBack, nobody)
				break
			}
		}
	}
	slices.SortStableFunc(p.hidden, func(a, b *op) int { return cmp.Compare(a.from, b.from) })
	for i, o := range p.ops {
		o.number = int32(i)
	}
	for i, o := range p.hidden {
		o.number = int32(len(p.ops) + i)
	}
}

// upTo are the hidden operations of a stage; of claims, and of their being given back, that no event tells apart, the
// first stands for all. granting says how many claims there are among the first n.
func (p *plan) upTo(s stage) (all []*op, granting []int) {
	type form struct {
		do         history.Op
		key        int
		print      int32
		quarantine bool
	}
	known := map[form]bool{}
	claims := 0
	for _, o := range p.hidden {
		if o.stage > s {
			continue
		}
		if o.do == history.Claim {
			claims++
		}
		if o.owner == nobody && (o.do == history.Claim || o.do == history.GiveBack) {
			f := form{do: o.do, key: o.key}
			if o.do == history.Claim {
				f.print, f.quarantine = o.print, o.event.Quarantine
			}
			if known[f] {
				if len(granting) > 0 {
					granting[len(granting)-1] = claims
				}
				continue
			}
			known[f] = true
		}
		all, granting = append(all, o), append(granting, claims)
	}
	return all, granting
}

// missing says which expiries may find something newer than what they have read, and write nothing: those during
// which another operation may have raised the key's token, or that may have read it from a server that was replaced.
func (x *search) missing() []bool {
	misses := make([]bool, len(x.ops)+len(x.hidden))
	raises := func(o *op) bool {
		switch o.do {
		case history.Claim:
			return o.said == history.Granted || o.said == history.Takeover
		case history.Expire, history.Resolve, history.GiveBack:
			return o.said == history.OK
		case history.Complete, history.Fail: // a record that was lost is written anew
			return o.said == history.OK && x.stage >= wiped
		}
		return false
	}
	for _, o := range x.ops {
		if o.do != history.Expire {
			continue
		}
		miss := false
		for _, other := range x.ops {
			miss = miss || other != o && other.key == o.key && raises(other) && other.from <= o.until && o.from <= other.until
		}
		for _, other := range x.unseen {
			miss = miss || other.event != o.event && other.key == o.key && raises(other) && other.from <= o.until
		}
		for _, f := range x.forks {
			miss = miss || f.overlaps(o.from, o.until)
		}
		misses[o.number] = miss
	}
	return misses
}
