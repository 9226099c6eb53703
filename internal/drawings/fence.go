package main

// fence draws two keys of one resource and the value behind its fence.
func fence() *drawing {
	d := &drawing{
		name: "fence.svg", width: 1040, height: 372,
		title: "A fence in front of a value",
		about: "Two keys, transfer-1 and transfer-2, have the same resource, account/42. transfer-1 claims with token 7 and sets the balance to 100; its lease lapses. " +
			"transfer-2 claims with token 8 and sets the balance to 150. A late write under token 7 ends at the fence with ErrStaleToken. " +
			"When transfer-2 completes, the fence is clear and keeps token 8, so that the next grant has a greater one.",
	}
	const (
		claim1, write1, lapse, claim2, write2, late, done, right = 205, 325, 440, 540, 670, 800, 925, 1020
		calls, guard, value, high                                = 70, 190, 290, 40
	)
	d.label(20, calls+16, "name", "start", "calls")
	d.label(20, guard+24, "name", "start", "the fence")
	d.label(20, value+24, "name", "start", "the balance")
	d.label(20, 34, "small", "start", "transfer-1 and transfer-2 are keys with Resource account/42: one of them at a time holds a lease. Real tokens have 16 digits.")

	for _, call := range []struct {
		x            int
		class        string
		who, doing   string
		line, remark string
	}{
		{claim1, "first", "transfer-1", "Claim", "line", "token 7"},
		{write1, "first", "transfer-1", "SET 100", "line", "passes"},
		{claim2, "second", "transfer-2", "Claim", "line", "token 8"},
		{write2, "second", "transfer-2", "SET 150", "line", "passes"},
		{late, "first", "transfer-1", "SET 999", "stop", ""},
		{done, "second", "transfer-2", "Complete", "line", ""},
	} {
		d.box(call.x-50, calls, 100, high+4, call.class, call.who, call.doing)
		d.arrow(call.line, point{call.x, calls + high + 4}, point{call.x, guard})
		if call.remark != "" {
			d.label(call.x+9, 156, "", "start", call.remark)
		}
	}
	d.label(late+9, 148, "red", "start", "ErrStaleToken")
	d.label(late+9, 166, "small", "start", "refused")

	d.box(claim1-20, guard, lapse-claim1+20, high, "first", "held by transfer-1, token 7")
	d.box(lapse, guard, claim2-20-lapse, high, "over", "ended")
	d.box(claim2-20, guard, done-claim2+10, high, "second", "held by transfer-2, token 8")
	d.box(done-10, guard, right-done+10, high, "box", "clear, 8 kept")
	d.arrow("line", point{write1, guard + high}, point{write1, value})
	d.arrow("line", point{write2, guard + high}, point{write2, value})
	d.box(write1-20, value, write2-write1, high, "box", "100")
	d.box(write2-20, value, right-write2+20, high, "box", "150")
	return d
}
