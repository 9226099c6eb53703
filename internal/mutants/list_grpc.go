package main

// rpc are tests of coordgrpc, which is a module of its own in the same workspace.
func rpc(tests string) check { return check{"./coordgrpc", tests} }

func rpcOnFake(test string) check { return rpc("^" + test + "$/^miniredis$") }

// The promises as gRPC has them.
var grpcMutants = []mutant{
	{
		"gRPC: one scope for all tenants", "P4", "a tenant gets what another one was answered",
		in("coordgrpc/server.go", "coordinator.JoinScope(tenant, method)", `coordinator.JoinScope("", method)`), rpcOnFake("TestKeysDoNotMeet"),
	},
	{
		"gRPC: an empty tenant is one", "P4", "all who are not authenticated share their answers",
		in("coordgrpc/server.go", `if err != nil || tenant == "" {`, "if err != nil {"), rpcOnFake("TestKeysDoNotMeet"),
	},
	{
		"gRPC: one scope for all methods", "P4", "one key for two methods is refused, or gets the other's answer",
		in("coordgrpc/server.go", "coordinator.JoinScope(tenant, method)", `coordinator.JoinScope(tenant)`), rpcOnFake("TestKeysDoNotMeet"),
	},
	{
		"gRPC: the fingerprint without the request", "P4", "another order gets the first one's answer",
		in("coordgrpc/answer.go", "_, _ = sum.Write(request)", ""), rpcOnFake("TestInProgress"),
	},
	{
		"gRPC: of two keys the first", "P1", "who joins two calls' metadata has two operations made one",
		in("coordgrpc/metadata.go", "case 1:", "default:"), rpc("^TestKeysThatAreNone$"),
	},
	{
		"gRPC: two keys in one", "P1", "two keys that a proxy has joined are a third",
		in("coordgrpc/metadata.go", " || c == ','", ""), rpc("^TestKeysThatAreNone$/^two_in_one$"),
	},
	{
		"gRPC: every status is kept", "P5", "an error that would have passed blocks all retries",
		in("coordgrpc/options.go", "codes.Internal, codes.Unknown:\n\t\treturn false", "codes.Internal, codes.Unknown:\n\t\treturn true"), rpcOnFake("TestStatuses"),
	},
	{
		"gRPC: no status is kept", "P4", "a refusal is asked for again, and then granted",
		in("coordgrpc/options.go", "\t\treturn false\n\t}\n\treturn true\n}", "\t\treturn false\n\t}\n\treturn false\n}"), rpcOnFake("TestStatuses"),
	},
	{
		"gRPC: replays without their mark", "P4", "nobody can tell a final UNAVAILABLE from a passing one",
		in("coordgrpc/server.go", "rec.mark(ReplayedMetadata)", ""), rpcOnFake("TestReplay"),
	},
	{
		"gRPC: sessions are stored", "P4", "whoever repeats a call gets the first one's session",
		in("coordgrpc/metadata.go", `case "set-cookie", `, "case "), rpcOnFake("TestReplay"),
	},
	{
		"gRPC: a cancelled handler has an outcome", "P5", "a caller that left is told for ever that it has",
		in("coordgrpc/server.go", "nothing := stopped || o.released", "nothing := o.released"), rpc("^TestCallersThatLeave$/^miniredis$/^cancelled$"),
	},
	{
		"gRPC: a panic keeps the lease", "P5", "the key is blocked until the lease lapses",
		in("coordgrpc/server.go", "\t\t\trec.pass()\n\t\t\to.release(lease)\n", "\t\t\trec.pass()\n"), rpcOnFake("TestPanicReleases"),
	},
	{
		"gRPC: a lost reply keeps the key", "P5", "a client is kept out by its own call",
		in("coordgrpc/server.go", "_ = o.c.GiveBack(ctx, o.key, owner)", "_, _ = ctx, owner"), rpc("^TestLostReplies$"),
	},
	{
		"gRPC: work goes on without its lease", "P6", "the handler is not told that another one has taken over",
		in("coordgrpc/server.go", "stop := context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })", "stop := func() bool { return true }"), rpc("^TestLeaseIsLost$/^miniredis$/^nobody,_done$"),
	},
	{
		"gRPC: the late one's answer", "P4", "two clients with one key are told two things",
		in("coordgrpc/server.go", "case done, errors.Is(failed, coordinator.ErrLeaseLost), errors.Is(failed, coordinator.ErrStaleToken):", "case done && false:"), rpc("^TestLeaseIsLost$/^miniredis$/^another,_done$"),
	},
	{
		"gRPC: the late one's metadata", "P4", "the successor's answer has the header of one that was not kept",
		in("coordgrpc/metadata.go", "\tr.header = metadata.Join(r.header, md)\n\treturn nil\n", "\tr.header = metadata.Join(r.header, md)\n\treturn r.stream.SetHeader(md)\n"), rpc("^TestLeaseIsLost$/^miniredis$/^another,_done$"),
	},
	{
		"gRPC: a completion ends with its caller", "P4", "what is done is not kept, as its client has left",
		in("coordgrpc/server.go", "ctx, bound := context.WithoutCancel(o.ctx), ", "ctx, bound := o.ctx, "), rpc("^TestCallersThatLeave$/^miniredis$/^goes_on$"),
	},
	{
		"gRPC: too large is not stored", "P1", "the operation stays open, and runs again",
		in("coordgrpc/server.go", "if errors.Is(err, coordinator.ErrTooLarge) {", "if false {"), rpcOnFake("TestLargeAnswers"),
	},
	{
		"gRPC: open where Redis is away", "P7", "calls run unprotected though nobody has asked for that",
		in("coordgrpc/server.go", "if away && o.open && o.ctx.Err() == nil {", "if away && o.ctx.Err() == nil {"), rpcOnFake("TestRedisAway"),
	},
	{
		"gRPC: claims until the caller's deadline", "P7", "with Redis away callers hear nothing until they give up",
		in("coordgrpc/server.go", "o.c.Claim(asking{o.ctx}, ", "o.c.Claim(o.ctx, "), rpcOnFake("TestRedisAway"),
	},
	{
		"gRPC: old keys run", "P4", "a retry after the retention does it again",
		in("coordgrpc/server.go", "is && !s.anyAge {", "is && s.anyAge {"), rpcOnFake("TestKeysAge"),
	},
	{
		"gRPC: a damaged answer is read", "P4", "part of an answer, or another's, is taken for the whole",
		in("coordgrpc/answer.go", "\tif r.Bad {\n\t\treturn nil, errAnswer\n\t}\n\treturn a, nil", "\treturn a, nil"), rpc("^TestUnreadable$/^unkept_and_more$"),
	},
	{
		"gRPC: the client makes a key for each try", "P5", "each try is a new operation",
		in("coordgrpc/client.go", "err := invoke(ctx, method,", "ctx, _ := c.key(metadata.NewOutgoingContext(ctx, nil))\n\t\t\terr := invoke(ctx, method,"), rpc("^TestClientRetries$/^unavailable$"),
	},
	{
		"gRPC: the client retries what is final", "P5", "a replayed failure is asked for again and again",
		in("coordgrpc/client.go", `case err == nil, slices.Contains(marks.Get(ReplayedMetadata), "true"):`, "case err == nil:"), rpc("^TestClientRetries$/^a_replay$"),
	},
	{
		"gRPC: grants go to everybody", "P3", "a credential is sent to whoever is called",
		in("coordgrpc/client.go", "cc != nil && c.GrantTo != nil && c.GrantTo(cc.Target(), method) && ", ""), rpc("^TestGrantsAreSent$"),
	},
	{
		"gRPC: a stale grant is let in", "P3", "who was overtaken still writes",
		in("coordgrpc/grants.go", "case err == nil:\n\t\treturn grant, nil", "case err == nil || errors.Is(err, highest.ErrStale):\n\t\treturn grant, nil"), rpcOnFake("TestRequireGrant"),
	},
	{
		"gRPC: open where replicas lag", "P4", "an operation that is done runs again, since its result is not confirmed",
		in("coordgrpc/server.go", "errors.Is(err, coordinator.ErrUnavailable) // not", "errors.Is(err, coordinator.ErrUnavailable) || errors.Is(err, coordinator.ErrNotReplicated) // not"), rpc("^TestReplicasThatLag$"),
	},
	{
		"gRPC: no quarantine", "P7", "what a process did that died amid its work is done again",
		in("coordgrpc/server.go", "if o.quarantine {", "if false {"), rpc("^TestQuarantine$"),
	},
	{
		"gRPC: a lost lease is released", "P7", "a handler that lost its lease and stops frees a key that is in quarantine",
		in("coordgrpc/server.go", "if lease.Context().Err() != nil {\n\t\treturn\n\t}\n\tctx, cancel", "if false {\n\t\treturn\n\t}\n\tctx, cancel"), rpc("^TestQuarantineAfterALostLease$"),
	},
	{
		"gRPC: what the fence says is an answer", "P4", "a client is told UNKNOWN where there is an answer, and reads tokens",
		in("coordgrpc/server.go", " || isStale(err, lease.Token()) {", " {"), rpc("^TestLeaseIsLost$/^miniredis$/^another,_fenced$"),
	},
	{
		"gRPC: what cannot be read is done", "P7", "an operation in progress is said to be done",
		in("coordgrpc/status.go", "refusal{reason: ReasonRecordUnreadable,", "refusal{reason: ReasonAnswerUnreadable,"), rpc("^TestRecordOfANewerVersion$"),
	},
	{
		"gRPC: a mark in the header alone", "P4", "a replay behind a header that was sent is taken for the call's own answer",
		in("coordgrpc/metadata.go", "r.set(md, md)", "r.set(md, nil)"), rpc("^TestLeaseIsLostAfterTheHeader$"),
	},
	{
		"gRPC: what can never be stored is renewed", "P8", "the key is held for nobody up to the maximum lifetime",
		in("coordgrpc/server.go", "\to.release(lease) // of what", "\t_ = lease // of what"), rpc("^TestAnswerThatCannotBeStored$"),
	},
}
