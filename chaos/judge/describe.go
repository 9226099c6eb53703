package judge

import (
	"fmt"
	"strings"

	"github.com/onceward/coordinator/chaos/history"
)

// Texts for people: in violations and in porcupine's pages.

// short makes an owner readable.
func short(owner string) string {
	if len(owner) > 6 {
		return owner[:6]
	}
	if owner == "" {
		return "?"
	}
	return owner
}

// since is a moment, in ms from the beginning of the run.
func (r *run) since(at int64) string {
	return fmt.Sprintf("%.3f ms", float64(at-r.Run.Start)/1e6)
}

func outcomeOf(e *history.Event) string {
	if e.Outcome == "" {
		return "(never returned)"
	}
	return string(e.Outcome)
}

// tell describes an event: what was asked, and what was answered.
func tell(e *history.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Op, e.Key)
	if e.Owner != "" {
		fmt.Fprintf(&b, " by %s", short(e.Owner))
		if e.Token != 0 {
			fmt.Fprintf(&b, "@%d", e.Token)
		}
	}
	if e.Fingerprint != "" {
		fmt.Fprintf(&b, " print %.12q", e.Fingerprint)
	}
	if e.Quarantine {
		b.WriteString(" quarantine")
	}
	if e.Wait {
		b.WriteString(" wait")
	}
	if e.MinToken != 0 {
		fmt.Fprintf(&b, " over %d", e.MinToken)
	}
	if e.Rerun {
		b.WriteString(" rerun")
	}
	if e.Data != "" && e.Op != history.Claim && e.Op != history.Write && e.Op != history.Insert {
		fmt.Fprintf(&b, " %.24q", e.Data)
	}
	fmt.Fprintf(&b, " → %s", outcomeOf(e))
	if e.Op == history.Claim && e.Attempt != 0 {
		fmt.Fprintf(&b, ", attempt %d", e.Attempt)
	}
	if e.Data != "" && e.Op == history.Claim {
		fmt.Fprintf(&b, ", checkpoint %.24q", e.Data)
	}
	if e.Found != "" {
		fmt.Fprintf(&b, " %.24q", e.Found)
	}
	if e.Current != 0 {
		fmt.Fprintf(&b, ", there is %d", e.Current)
	}
	return b.String()
}

func (p *plan) describe(o *op) string { return tell(o.event) }

var stateNames = [...]string{"absent", "in progress", "released", "completed", "failed"}

func (p *plan) describeRec(r *rec) string {
	if !r.there() {
		return "absent"
	}
	at := "@"
	if r.loose {
		at = "@≥"
	}
	s := fmt.Sprintf("%s by %s%s%d", stateNames[r.state], short(p.names[r.owner]), at, r.token)
	if r.attempt != 0 {
		s += fmt.Sprintf(" attempt %d", r.attempt)
	}
	if r.data != 0 {
		s += fmt.Sprintf(" %.24q", p.names[r.data])
	}
	if r.lapsed {
		s += " lapsed"
	}
	return s
}

func (x *search) describeBranch(id int32) string {
	b := x.branches.all[id]
	var parts []string
	for i := range b.recs {
		parts = append(parts, x.domain.Keys[i]+": "+x.describeRec(&b.recs[i]))
	}
	if x.shared {
		f := b.fence
		name := "fence: "
		if f.there() {
			name = "fence for " + x.domain.Keys[f.data] + ": "
			f.data = 0
		}
		parts = append(parts, name+x.describeRec(&f))
	}
	return strings.Join(parts, "; ")
}

// describeSet tells what there may be, as far as it fits.
func (x *search) describeSet(s *set) string {
	const most = 8
	var parts []string
	for i, n := range s.worlds {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(s.worlds)-most))
			break
		}
		w, _ := x.worlds.of(n)
		part := x.describeBranch(w.main)
		for _, d := range w.doomed {
			if d != 0 {
				part += " [replaced server: " + x.describeBranch(d) + "]"
			}
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " or ")
}
