package main

func msg(tests string) check { return check{"./coordmsg", tests} }

func msgOnFake(test string) check { return msg("^" + test + "$/^miniredis$") }

// The promises as consumers of messages have them.
var msgMutants = []mutant{
	{
		"a message is acknowledged before its outcome is stored", "P1", "what could not be stored runs again, though it was acknowledged as done",
		in("coordmsg/handle.go", "	return s.unstored(ctx, lease, err)\n}\n\n// again", "	return v\n}\n\n// again"), msg("^TestRedisStaysAway$"),
	},
	{
		"storing is tried once", "P1", "a moment without Redis has the work done again",
		in("coordmsg/handle.go", "		if !passing(err) {\n			return err", "		if true {\n			return err"), msg("^TestRedisAwayForAMoment$"),
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
		in("coordmsg/handle.go", "ran >= s.most {", "ran < 0 {"), msgOnFake("TestPoisonedByCrashes"),
	},
	{
		"what is poisoned is not stored", "P5", "the other copies of a parked message run",
		in("coordmsg/parked.go", "		return lease.Fail(ctx, text)", "		_ = text\n		return lease.Release(ctx)"), msgOnFake("TestPoisonedByErrors"),
	},
	{
		"the work goes on without its lease", "P6", "a handler that has lost its message is not told",
		in("coordmsg/handle.go", "defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()", ""), msgOnFake("TestHandlerHearsOfItsLostLease"),
	},
	{
		"another's message is done", "P4", "a message that was never handled is acknowledged, because another one had its key",
		in("coordmsg/verdict.go", "{coordinator.ErrMismatch, Park, Reused}", "{coordinator.ErrMismatch, Ack, Done}"), msgOnFake("TestRefused"),
	},
	{
		"a lost claim keeps its message", "P5", "the next delivery waits for a lease that nobody has",
		in("coordmsg/handle.go", "go giveBack(ctx, c, key, unknown.Owner)", "_, _ = ctx, key"), msg("^TestLostReply$"),
	},
	{
		"what lapsed in a batch is begun", "P6", "a handler begins though its lease is over",
		in("coordmsg/batch.go", "case !held:", "case !held && false:"), msgOnFake("TestNotBegun"),
	},
	{
		"a release under the work's own context", "P5", "what gives itself up is held to the lease's end",
		in("lease.go", "if g, _ := GrantFrom(ctx); g == l.grant {", "if false {"), check{".", "^TestReleaseUnderTheWorksOwnContext$"},
	},
	{
		"a wrong option parks its messages", "P7", "a queue goes to the dead letters because a timeout is too long",
		in("coordmsg/handle.go", "errors.Is(err, coordinator.ErrInvalid) && !ownFault(ctx, c, key, opts) {", "false {"), msgOnFake("TestWhoIsToBlame"),
	},
	{
		"a message that was not begun has had an attempt", "P5", "it is parked as poisoned, and its handler never ran",
		in("coordmsg/handle.go", "_ = lease.GiveBack(ctx) //", "_ = lease.Release(ctx) //"), msgOnFake("TestNotBegun"),
	},
	{
		"a shutdown uses up the last attempt", "P5", "the next delivery is parked, though the handler was only broken off",
		in("coordmsg/handle.go", "		putBack(ctx, lease)\n	}\n	return s.again", "	}\n	return s.again"), msgOnFake("TestShutdown"),
	},
	{
		"errors are no attempts", "P5", "a message that cannot be handled is handled for ever",
		in("coordmsg/handle.go", "case lease.Attempt() >= s.most && ctx.Err() == nil:", "case false:"), msgOnFake("TestPoisonedByErrors"),
	},
	{
		"a lost message is released", "P7", "what a handler did that lost its lease is not known, and in quarantine it runs again",
		in("coordmsg/handle.go", "if lease.Context().Err() != nil || s.overdue() {", "if false {"), msg("^TestUncertainAfterALostLease$"),
	},
	{
		"storing ends with the consumer", "P8", "the key is held by a lease that is renewed for nobody",
		in("coordmsg/handle.go", "if passing(err) && lease.Context().Err() == nil {", "if false {"), msg("^TestRedisRefusesAtShutdown$/^done$"),
	},
	{
		"the visibility timeout is ignored", "P6", "a handler goes on while the broker gives its message to another",
		in("coordmsg/options.go", "s.visible, s.claim = d, append(s.claim, coordinator.MaxLifetime(d))", "s.visible = 0"), msgOnFake("TestWhoIsToBlame"),
	},
	{
		"the visibility timeout counts from the grant", "P6", "a handler whose claim has waited goes on while the broker gives its message to another",
		in("coordmsg/handle.go", "s.called.Add(s.visible)", "time.Now().Add(s.visible)"), msg("^TestVisibilityTimeoutCountsFromTheCall$"),
	},
	{
		"the verdicts of a batch are swapped", "P4", "one message is acknowledged for another",
		in("coordmsg/batch.go", "b.verdicts[i] = turn(i)", "b.verdicts[len(b.verdicts)-1-i] = turn(i)"), msgOnFake("TestBatch"),
	},
	{
		"suspects run first", "P5", "a message that kills its process takes the whole batch with it each time",
		in("coordmsg/batch.go", "slices.Concat(answered, first, later)", "slices.Concat(answered, later, first)"), msg("^TestSuspectsRunLast$"),
	},
	{
		"a batch sends its own resource back", "P1", "messages of one account wait for a lease each",
		in("coordmsg/batch.go", "coordinator.ErrInProgress) && holds", "coordinator.ErrClosed) && holds"), msgOnFake("TestResourceTakesTurns"),
	},
}
