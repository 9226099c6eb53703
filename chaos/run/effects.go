package run

import (
	"slices"
	"time"

	"github.com/onceward/coordinator/chaos/history"
)

// What faults do to each other, and to the times that the judge goes by.

// lag is how far a replica may be behind its master.
const lag = time.Second

// onTheirWay are the losses of slots that were moved to a master which was replaced before its replica had all of
// their keys: the source has dropped these, so nobody has them, however old they were.
func onTheirWay(happened []history.Fault) (losses []history.Fault) {
	for _, f := range happened {
		if f.Effect != history.Fork {
			continue
		}
		loss := f
		loss.Effect, loss.Slots, loss.Start = history.Wipe, nil, f.Start-int64(lag)
		loss.Detail = "slots on their way to a master that was replaced"
		for _, slots := range f.Slots {
			if slots[0] == slots[1] && !settledBefore(happened, slots[0], loss.Start) {
				loss.Slots = append(loss.Slots, slots)
			}
		}
		if len(loss.Slots) > 0 {
			losses = append(losses, loss)
		}
	}
	return losses
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
