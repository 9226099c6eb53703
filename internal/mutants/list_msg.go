package main

func msg(tests string) check { return check{"./coordmsg", tests} }

func msgOnFake(test string) check { return msg("^" + test + "$/^miniredis$") }

// The promises as consumers of messages have them.
var msgMutants = []mutant{
	{
		"a message is acknowledged before its outcome is stored", "P1", "what could not be stored runs again, though it was acknowledged as done",
		in("coordmsg/handle.go", "	return s.unstored(lease, err)\n}\n\n// again", "	return v\n}\n\n// again"), msg("^TestRedisStaysAway$"),
	},
	{
		"storing is tried once", "P1", "a moment without Redis has the work done again",
		in("coordmsg/handle.go", "if !errors.Is(err, coordinator.ErrUnavailable) && !errors.Is(err, coordinator.ErrUnknown) {", "if true {"), msg("^TestRedisAwayForAMoment$"),
	},
	{
		"an error is an acknowledgement", "P5", "a message whose handler failed is lost",
		in("coordmsg/handle.go", "v := Verdict{Action: Retry, Reason: Failed,", "v := Verdict{Action: Ack, Reason: Failed,"), msgOnFake("TestFailuresAreTriedAgain"),
	},
	{
		"a failed message keeps its lease", "P5", "it waits for the lease's end",
		in("coordmsg/handle.go", "		v.Reason = Lost\n	}\n	s.release(ctx, lease)\n", "		v.Reason = Lost\n	}\n"), msgOnFake("TestFailuresAreTriedAgain"),
	},
	{
		"a panic keeps the message", "P5", "it waits for the lease's end",
		in("coordmsg/handle.go", "if !returned { // a panic, or runtime.Goexit\n			s.release(ctx, lease)", "if !returned { // a panic, or runtime.Goexit\n			_ = s"), msgOnFake("TestPanicFreesTheKey"),
	},
	{
		"a crash is no attempt", "P5", "a message that kills its consumers kills them for ever",
		in("coordmsg/handle.go", "if lease.Attempt() > s.most {", "if false {"), msgOnFake("TestPoisonedByCrashes"),
	},
	{
		"what is poisoned is not stored", "P5", "the other copies of a parked message run",
		in("coordmsg/parked.go", "		return lease.Fail(ctx, text)", "		_ = text\n		return lease.Release(ctx)"), msgOnFake("TestPoisonedByErrors"),
	},
	{
		"the work goes on without its lease", "P6", "a handler that has lost its message is not told",
		in("coordmsg/handle.go", "defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()", ""), msgOnFake("TestVisibilityTimeout"),
	},
	{
		"another's message is done", "P4", "a message that was never handled is acknowledged, because another one had its key",
		in("coordmsg/verdict.go", "{coordinator.ErrMismatch, Park, Reused}", "{coordinator.ErrMismatch, Ack, Done}"), msgOnFake("TestRefused"),
	},
	{
		"a lost claim keeps its message", "P5", "the next delivery waits for a lease that nobody has",
		in("coordmsg/handle.go", "_ = c.GiveBack(ctx, key, unknown.Owner)", "_, _ = ctx, key"), msg("^TestLostReply$"),
	},
	{
		"what lapsed in a batch is begun", "P6", "a handler begins though its lease is over",
		in("coordmsg/batch.go", "case claim.Lease.Context().Err() != nil:", "case false:"), msg("^TestNotBegun$"),
	},
	{
		"a release under the work's own context", "P5", "what gives itself up is held to the lease's end",
		in("lease.go", "if g, _ := GrantFrom(ctx); g == l.grant {", "if false {"), check{".", "^TestReleaseUnderTheWorksOwnContext$"},
	},
}
