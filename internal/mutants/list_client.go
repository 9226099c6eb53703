package main

// What a lease means to the process that has it.
var leaseMutants = []mutant{
	{
		"deadline counted from the reply", "P6", "the way of the reply is added to the lease",
		in("lease.go", "l.deadline = r.Sent.Add(", "l.deadline = time.Now().Add("), root("^TestContextEndsAGraceBeforeTheLease$"),
	},
	{
		"no grace", "P6", "the holder stops at the very moment at which another one may begin",
		in("lease.go", "min(l.lease, r.Remaining()-l.grace)", "r.Remaining()"), root("^TestContextEndsAGraceBeforeTheLease$"),
	},
	{
		"context not ended when the lease has lapsed", "P6", "nobody tells the worker that his time is over",
		in("renew.go", "l.finish(ErrLeaseLost)", "_ = l"), root("^TestContextEndsAGraceBeforeTheLease$"),
	},
	{
		"grant that arrives dead is handed out", "P6", "a reply that took longer than the lease is taken for a lease",
		in("claim.go", "if lease.expired() {\n\t\t\treturn nil, true", "if false {\n\t\t\treturn nil, true"), root("^TestLeaseShorterThanTheWayToTheServer$"),
	},
	{
		"unconfirmed renewal moves the deadline", "P6", "what one master alone has written counts as held",
		in("lease.go", "case k.Reply.Code == protocol.OK && k.Unconfirmed:", "case false:"), root("^TestReplicas$"),
	},
	{
		"maximum lifetime by the server's clock alone", "P8", "a clock that was stepped back lets renewals go on",
		in("lease.go", "if l.latest.Before(l.deadline) {", "if false {"), root("^TestMaximumLifetimeInSpiteOfAClockSteppedBack$"),
	},
	{
		"release under a dead context", "P8", "the deferred release is sent with the context that has just ended",
		in("lease.go", "ended := ctx.Err() != nil\n", "ended := false\n"), onFake("TestReleaseUnderADeadContextStillReleases"),
	},
	{
		"lease renewed after its release failed", "P8", "a lost release leaves a lease that nobody holds and that never ends",
		in("lease.go", "l.finish(nil)\n\tif ended &&", "if ended &&"), root("^TestLeaseThatNobodyHoldsIsNotRenewedOn$/^Release$"),
	},
	{
		"panic keeps the key", "P8", "the release stands behind the work and not in a defer",
		in("do.go", "if !settled {", "if false && !settled {"), onFake("TestDo"),
	},
	{
		"unknown claim is not given back", "P8", "the claim whose reply was lost blocks its own retry",
		in("do.go", "_ = c.GiveBack(ctx, key, unknown.Owner) })", "})"), root("^TestDoKeepsTheOwnerThatItGivesBack$"),
	},
	{
		"one owner for a whole batch", "P1", "two elements with one key are the same claim, and both are granted",
		in("claim.go", "claims[i], calls[i] = q, c.claimCall(q)", "if i > 0 && claims[0] != nil { q.owner = claims[0].owner }; claims[i], calls[i] = q, c.claimCall(q)"),
		onFake("TestClaimManyGivesTheSameKeyOnce"),
	},
}

// What goes over the wire, and what is made of what comes back.
var clientMutants = []mutant{
	{
		"go-redis resends what must run once", "P5", "the client's own retries are left on, and INCR runs twice",
		in("internal/carrier/carrier.go", "NoRetry() bool { return true }", "NoRetry() bool { return false }"), onFake("TestOneSendIsOneRun"),
	},
	{
		"fenced write is tried again", "P5", "what is safe to repeat and what is not go through one loop",
		in("internal/carrier/carrier.go", "if !k.Once {", "if true {"), onFake("TestOneSendIsOneRun"),
	},
	{
		"lost connection counts as not run", "P7", "an EOF after the request went out is taken for a request that did not",
		in("internal/carrier/fate.go", "return fateUnknown", "return fateNotRun"), onFake("TestOneSendIsOneRun"),
	},
	{
		"retry with a new owner", "P5", "the id is drawn in the loop, so the second try meets the first one's lease",
		in("internal/carrier/carrier.go", "cmd := sentOnce{redis.NewCmd(", "if k.Script.Verb == \"claim\" { k.Args[0] = fmt.Sprintf(\"%032x\", time.Now().UnixNano()) }; cmd := sentOnce{redis.NewCmd("),
		onFake("TestLostRepliesAndRequests"),
	},
	{
		"ErrUnknown reported as ErrUnavailable", "P7", "a request that was out is reported as not done",
		in("send.go", "case k.MayHaveRun:", "case false:"), root("^TestRefusalAfterALostReplyIsUnknown$"),
	},
	{
		"refusal hides an earlier copy", "P7", "the last answer decides, though a copy before it may have run",
		in("internal/carrier/carrier.go", "k.Settled, k.Err = true, explain(a.err)", "k.Settled, k.MayHaveRun, k.Err = true, false, explain(a.err)"), root("^TestRefusalAfterALostReplyIsUnknown$"),
	},
	{
		"call outlives its context", "P5", "the client's own timeouts decide when a call returns",
		both(
			in("internal/carrier/carrier.go", "go func() { finished <- c.transmit(ctx, calls, again) }()", "finished <- c.transmit(ctx, calls, again)"),
			in("internal/carrier/lane.go", "case <-ctx.Done():", "case <-c.Base.Done():"),
		), root("^TestCallsReturnWhenTheirContextEnds$"),
	},
	{
		"completion keeps the lease's TTL", "P4", "the time that the key had left is taken for enough, also after the lease",
		in("lease.go", "l.c.carrier.GivenUp(ctx).Before(l.deadline)", "true"), root("^TestResultIsKeptForTheRetention$"),
	},
	{
		"repeated completion keeps the lease's TTL", "P4", "the time that the key had left at the first sending is taken for enough at the last",
		in("internal/carrier/carrier.go", "if s.again && k.Hasty {", "if false {"), root("^TestLateCompletionIsKeptForTheRetention$"),
	},
	{
		"completion over any record", "P3", "what the holder knows of the record is not compared with it",
		script("complete", "if rec == ARGV[3] then", "if rec and ARGV[3] then"), root("^TestOracle$"),
	},
	{
		"replay to any fingerprint", "P4", "the client leaves it to the script, which leaves it to the client",
		in("internal/protocol/reply.go", "rec.Bound && string(rec.Fingerprint) != printOf(q)", "false"), cells("claim with another fingerprint", "other completed"),
	},
	{
		"RetainFor is not looked at", "P4", "a completion within its lease is kept as long as any",
		in("lease.go", "retention == l.c.retention && ", ""), root("^TestResultIsKeptForTheRetention$"),
	},
	{
		"call that was not sent may have run", "P7", "a caller who leaves before his pipeline goes out is told that it went",
		in("internal/carrier/lane.go", "if c.lanes.leave(l, r) {", "if false {"), check{"./internal/carrier", "^TestCallLeavesBeforeItIsSent$"},
	},
	{
		"call that left is sent", "P7", "a caller leaves before his pipeline goes out, and his call goes out with it",
		in("internal/carrier/lane.go", "l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)", "_ = i"), check{"./internal/carrier", "^TestCallLeavesBeforeItIsSent$"},
	},
	{
		"call on its way has not run", "P7", "a caller who leaves while his pipeline is out is told that nothing was done",
		in("internal/carrier/lane.go", "k.MayHaveRun = true", ""), check{"./internal/carrier", "^TestCallLeavesOnTheWay$"},
	},
	{
		"pipeline ends with its first caller", "P8", "the context of one caller is that of all who share his pipeline",
		in("internal/carrier/lane.go", "context.WithDeadline(context.WithoutCancel(rides[0].ctx), end)", "context.WithDeadline(rides[0].ctx, end)"), check{"./internal/carrier", "^TestCallLeavesOnTheWay$"},
	},
	{
		"replies of a shared pipeline are mixed up", "P1", "a caller takes another one's grant for his own",
		in("internal/carrier/lane.go", "r.done <- answers[i]", "r.done <- answers[len(answers)-1-i]"), check{"./internal/carrier", "^TestCallsShareAPipeline$"},
	},
	{
		"replies to what is sent anew are mixed up", "P1", "what a pipeline's unknown scripts are answered goes to its first calls",
		in("internal/carrier/carrier.go", "answers[unknown[n]] = a", "answers[n] = a"), check{"./internal/carrier", "^TestUnknownScriptsInAPipeline$"},
	},
	{
		"NOSCRIPT not handled", "P8", "after a restart or a failover nobody can finish what he holds",
		in("internal/carrier/carrier.go", "if err := answers[i].err; err != nil && redis.HasErrorPrefix(err, \"NOSCRIPT\") {", "if false {"), root("^TestLeaseIsRenewedUntilItsMaximumLifetime$"),
	},
	{
		"ReloadState not called", "P8", "after a failover the client asks the dead master for a minute",
		in("internal/carrier/carrier.go", "c.Cluster.ReloadState(ctx)", ""), root("^TestTopologyIsLookedAtAfterAnError$"),
	},
	{
		"WAIT on a connection that wrote nothing", "P7", "replicas are asked about another connection's writes, and have them all",
		both(
			in("internal/carrier/replicate.go", "_ = pipe.Process(ctx, wait)\n\t_, _ = pipe.Exec(ctx)", `_, _ = pipe.Exec(ctx)
	if waiting == nil {
		waiting = redis.NewClient(node.(*redis.Client).Options())
	}
	_ = waiting.Process(ctx, wait)`),
			in("internal/carrier/replicate.go", "// notSent marks", "var waiting *redis.Client\n\n// notSent marks"),
		), root("^TestReplicas$"),
	},
	{
		"unconfirmed claim is granted", "P7", "WAIT is sent and its answer is not looked at",
		in("claim.go", "case protocol.OK:\n\t\tif k.Unconfirmed {", "case protocol.OK:\n\t\tif false {"), root("^TestUnconfirmedClaimsReturnWithTheirContexts$"),
	},
	{
		"unconfirmed claim kept", "P8", "the claim is an error to its caller, and a lease to everybody else",
		in("claim.go", "return nil, false, c.unconfirmedClaim(ctx, q)", "return nil, false, fmt.Errorf(\"%w: given back\", ErrNotReplicated)"), root("^TestReplicas$"),
	},
	{
		"unconfirmed completion is a success", "P7", "a result that a failover may lose is reported as stored",
		in("lease.go", "if k.Unconfirmed {", "if false {"), root("^TestReplicas$"),
	},
	{
		"key encoding is not injective", "P4", "the parts of a key are joined by a colon that they may hold themselves",
		in("internal/keyname/keyname.go", "c == '-' || c == '_'", "c == ':' || c == '-' || c == '_'"), check{"./internal/keyname", "^TestNamesAreInjective$"},
	},
}

// What waiters get.
var waitMutants = []mutant{
	{
		"wake without a poll", "P8", "who misses the message waits for ever",
		in("internal/wakeup/wakeup.go", "timer.Reset(r.pause(in, seen))", "_ = r.pause(in, seen)"), root("^TestLostWakeUp$"),
	},
	{
		"waiter gets another request's result", "P4", "all who wait for a key are told what the first one found",
		in("wait.go", "if !bytes.Equal(found.Fingerprint, q.fingerprint) {", "if false {"), root("^TestWaiterIsNotToldAnotherRequestsResult$"),
	},
	{
		"waiter gets what was there before its call", "P4", "who enters while the first one looks is told what that look finds, though it may be expired by then",
		in("internal/wakeup/wakeup.go", "m != leader && m.number <= latest", "m != leader"), root("^TestWaiterIsNotToldWhatWasThereBeforeItsCall$"),
	},
}
