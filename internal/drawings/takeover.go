package main

// takeover draws how a paused holder loses its lease to another, and what its late write meets.
func takeover() *drawing {
	d := &drawing{
		name: "takeover.svg", width: 1040, height: 480,
		title: "A takeover, from the first claim to the late write",
		about: "Worker A claims a key at 0 s with a lease of 30 s and a grace of 3 s, and is paused at 5 s. Worker B asks at 20 s and is told ErrInProgress. " +
			"At 30 s the context of A's lease ends. At 33 s the stored end passes and the key has lapsed. " +
			"At 34 s B claims again and takes over with a greater token. A wakes at 40 s; its completion and its fenced writes are ErrStaleToken. " +
			"B completes at 50 s, and later claims get the stored result.",
	}
	const ( // where the moments stand; not to scale
		claimed, paused, asked, deadline, end, taken, woken, done, replayed, right = 190, 250, 400, 520, 610, 680, 760, 900, 970, 1020
		worker, record, other, later                                               = 100, 210, 340, 430
		high                                                                       = 36
	)
	for _, lane := range []struct {
		y    int
		name string
	}{{worker, "worker A"}, {record, "the record in Redis"}, {other, "worker B"}, {later, "anybody, later"}} {
		d.label(20, lane.y+high/2+4, "name", "start", lane.name)
	}
	d.path("dashed", point{deadline, 60}, point{deadline, worker})
	d.path("dashed", point{deadline, worker + high}, point{deadline, record})
	d.path("dashed", point{end, 60}, point{end, worker})
	d.path("dashed", point{end, worker + high}, point{end, record})
	d.label(deadline, 32, "", "middle", "A's deadline", "30 s")
	d.label(end, 32, "", "middle", "stored end", "33 s")
	for _, moment := range []struct {
		x    int
		time string
	}{{claimed, "0 s"}, {paused, "5 s"}, {asked, "20 s"}, {taken, "34 s"}, {woken, "40 s"}, {done, "50 s"}} {
		d.label(moment.x, 49, "small", "middle", moment.time)
	}

	d.box(claimed, worker, paused-claimed, high, "first", "works")
	d.box(paused, worker, deadline-paused, high, "over", "paused: renews nothing")
	d.box(deadline, worker, woken-deadline, high, "over", "its context has ended")
	d.box(woken, worker, 90, high, "first", "wakes")

	d.box(claimed, record, deadline-claimed, high, "first", "lease of A, token 7, attempt 1")
	d.box(deadline, record, end-deadline, high, "first", "grace")
	d.box(end, record, taken-end, high, "over", "lapsed")
	d.box(taken, record, done-taken, high, "second", "B, token 8, attempt 2")
	d.box(done, record, right-done, high, "box", "completed")

	d.arrow("line", point{claimed + 20, worker + high}, point{claimed + 20, record})
	d.label(claimed+28, 177, "", "start", "Claim: a lease")
	d.arrow("stop", point{woken + 20, worker + high}, point{woken + 20, record})
	d.label(woken+30, 160, "red", "start", "Complete, Fence.Do:", "ErrStaleToken")
	d.label(woken+30, 194, "small", "start", "nothing is written")

	d.box(asked-30, other, 60, high, "second", "asks")
	d.arrow("line", point{asked, other}, point{asked, record + high})
	d.label(asked-10, 280, "", "end", "Claim: ErrInProgress,", "RetryAfter 13 s")
	d.box(taken, other, done+30-taken, high, "second", "works")
	d.arrow("line", point{taken + 10, other}, point{taken + 10, record + high})
	d.label(taken, 280, "", "end", "Claim: granted,", "a takeover")
	d.arrow("line", point{done + 10, other}, point{done + 10, record + high})
	d.label(done, 297, "", "end", "Complete: stored")
	d.box(replayed-30, later, 80, high, "box", "asks")
	d.arrow("line", point{replayed + 10, later}, point{replayed + 10, record + high})
	d.label(replayed, 412, "", "end", "Claim: the stored result")
	d.label(20, 32, "small", "start", "not to scale")
	return d
}
