package run

import (
	"slices"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

// What faults do to each other, and to the times that the judge goes by.

// lag is how far a replica may be behind its master.
const lag = time.Second

// onTheirWay are the losses of slots that were moved to or from a master which was replaced meanwhile. A new target may
// lack keys that the source has dropped already. A new source claims the slot with a newer epoch than the target
// has, which then deletes what it was given. Either way nobody has the keys, however old they were.
func onTheirWay(happened []history.Fault) (losses []history.Fault) {
	for _, f := range happened {
		if f.Effect != history.Fork {
			continue
		}
		loss := f
		loss.Effect, loss.Slots, loss.Start = history.Wipe, nil, f.Start-int64(lag)
		loss.Detail = "slots on their way to or from a master that was replaced"
		for _, slots := range f.Slots {
			if slots[0] == slots[1] {
				if !settledBefore(happened, slots[0], loss.Start) {
					loss.Slots = append(loss.Slots, slots)
				}
				continue
			}
			loss.Slots = append(loss.Slots, movedMeanwhile(happened, slots, loss.Start, loss.End)...)
		}
		if len(loss.Slots) > 0 {
			losses = append(losses, loss)
		}
	}
	return losses
}

// movedMeanwhile are the slots of a range that were moved between two moments.
func movedMeanwhile(happened []history.Fault, within [2]int, from, until int64) (slots [][2]int) {
	for _, f := range happened {
		if f.Name != moveSlots || f.End < from || f.Start > until {
			continue
		}
		for _, s := range f.Slots {
			if within[0] <= s[0] && s[1] <= within[1] && !slices.Contains(slots, s) {
				slots = append(slots, s)
			}
		}
	}
	return slots
}

// settledBefore says whether all moves of a slot that are known were over at a moment.
func settledBefore(happened []history.Fault, slot int, at int64) bool {
	moved := false
	for _, f := range happened {
		if f.Name != moveSlots || !slices.Contains(f.Slots, [2]int{slot, slot}) {
			continue
		}
		if moved = true; f.End >= at {
			return false
		}
	}
	return moved // one that failed is not known
}

// stepped says whether a clock was moved. What has a TTL may end at once then, tombstones too.
func stepped(happened []history.Fault) bool {
	return slices.ContainsFunc(happened, func(f history.Fault) bool { return f.Effect == history.Step })
}
