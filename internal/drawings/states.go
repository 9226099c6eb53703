package main

// states draws the states of a record and the calls that move it, as docs/states.md tells them.
func states() *drawing {
	d := &drawing{
		name: "states.svg", width: 940, height: 572,
		title: "The states of a key",
		about: "A claim moves an absent, released or lapsed key to in progress. Renew and SaveCheckpoint keep it there. " +
			"Complete and Fail finish it, Release and GiveBack release it, and it lapses when its lease and grace run out. " +
			"A lapsed key is taken over by the next claim, finished, released or given back by its old holder, or settled by Resolve. " +
			"Expire moves every state to released. At the end of the retention every key is absent again.",
	}
	d.box(40, 70, 180, 56, "box", "absent", "no record")
	d.box(370, 190, 210, 72, "first", "in_progress", "somebody holds the lease")
	d.box(370, 390, 210, 72, "over", "lapsed", "ran out, no outcome")
	d.box(40, 390, 180, 72, "box", "released", "given up or expired")
	d.box(730, 190, 180, 272, "second", "completed or failed", "", "replayed to every", "claim that follows")

	d.arrow("line", point{220, 98}, point{430, 98}, point{430, 190})
	d.label(325, 90, "", "middle", "Claim: attempt 1")
	d.arrow("line", point{530, 190}, point{530, 155}, point{630, 155}, point{630, 208}, point{580, 208})
	d.label(580, 146, "", "middle", "Renew, SaveCheckpoint")
	d.arrow("line", point{580, 240}, point{730, 240})
	d.label(665, 232, "", "middle", "Complete, Fail")
	d.arrow("line", point{370, 244}, point{160, 244}, point{160, 390})
	d.label(265, 236, "", "middle", "Release, GiveBack")
	d.arrow("line", point{80, 390}, point{80, 208}, point{370, 208})
	d.label(225, 200, "", "middle", "Claim: attempt + 1")
	d.arrow("dashed", point{420, 262}, point{420, 390})
	d.label(410, 322, "", "end", "lease and grace", "run out")
	d.arrow("line", point{530, 390}, point{530, 262})
	d.label(540, 322, "", "start", "Claim: a takeover,", "attempt + 1")
	d.arrow("line", point{370, 432}, point{220, 432})
	d.label(295, 407, "", "middle", "Release, GiveBack,", "Resolve (Rerun)")
	d.arrow("line", point{580, 432}, point{730, 432})
	d.label(655, 407, "", "middle", "Complete, Fail,", "Resolve")
	d.arrow("dashed", point{820, 190}, point{820, 42}, point{130, 42}, point{130, 70})
	d.label(475, 33, "", "middle", "the retention ends, as it does for released and lapsed keys")
	d.box(370, 502, 210, 40, "over", "every state")
	d.arrow("line", point{370, 522}, point{130, 522}, point{130, 462})
	d.label(255, 514, "", "middle", "Expire: a tombstone;")
	d.label(255, 541, "", "middle", "the next claim is attempt 1")
	return d
}
