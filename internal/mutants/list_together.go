package main

// What those get who claim a key at the same time.
var togetherMutants = []mutant{
	{
		"claim answered by one that is out", "P4", "who comes while a claim is under way is told what it finds, which may be what he has just expired",
		in("internal/flight/flight.go", "out[K, V]{key: p.key, number: p.number}", "out[K, V]{key: p.key, number: p.number, next: p.all.out[p.hash].next}"),
		root("^TestClaimBehindAnExpireIsNotAnsweredFromBefore$"),
	},
	{
		"grant is told as a grant", "P1", "one flight brings one lease, and all who waited for it work under it",
		in("together.go", "return nil, c.told(q, &k.Reply)", "lease, _, err := c.claimed(ctx, q, k); return lease, err"), root("^TestGrantIsTheLeadersAlone$"),
	},
	{
		"one payload for all who waited", "P4", "what one caller does with the result, the others get",
		in("together.go", "Result: resultOf(&r.Rec)}", "Result: Result{Payload: r.Rec.Data, Token: Token(r.Rec.Token), CompletedAt: time.UnixMilli(r.Rec.End.Milliseconds())}}"),
		root("^TestReplaysAtOnce$"),
	},
	{
		"fingerprints share an answer", "P4", "the key alone says whose claims are alike",
		in("together.go", "copy(a.print[:], q.fingerprint)", "a.size = 0"), root("^TestFingerprintsSideBySide$"),
	},
	{
		"keys that meet in a hash share an answer", "P4", "a caller gets the result of a key that he has never heard of",
		in("internal/flight/flight.go", "case o.key != key:", "case false:"), check{"./internal/flight", "^TestKeysThatMeetInAHash$"},
	},
	{
		"unconfirmed grant is told to others", "P7", "they wait for a holder whose grant is given back just now",
		in("together.go", "return !k.Unconfirmed // or it is given back", "return true"), root("^TestAnswerOfTheLeaderAlone$"),
	},
	{
		"unconfirmed result is told to others", "P7", "what a failover may lose is replayed as what replicas have",
		in("together.go", "return !k.Unconfirmed || k.Reply.Rec.Mark != '0'", "return true"), root("^TestAnswerOfTheLeaderAlone$"),
	},
	{
		"repeated claim is told of others", "P5", "who asks again under his owner learns that somebody holds the key, and not that it is he",
		in("claim.go", "if q.again {", "if false {"), root("^TestOwnersAndBatchesGoAlone$"),
	},
	{
		"claim that hangs holds all up", "P8", "those behind wait for its reply however long it takes",
		in("internal/flight/flight.go", "case <-timer.C:", "case <-make(chan struct{}):"), root("^TestClaimThatHangsHoldsNobodyUp$"),
	},
	{
		"turn is lost with who leaves", "P8", "the one who was to claim for the others has gone, and they wait",
		in("internal/flight/flight.go", "case g.members > 0 && o.number == 0:", "case false:"), check{"./internal/flight", "^TestTurnOfOneWhoLeaves$"},
	},
	{
		"entry is left by who leaves", "P8", "the key is never led again, and its entry stays in memory",
		in("internal/flight/flight.go", "case g.members == 0 && o.number == 0:\n\t\tdelete(p.all.out, p.hash)", "case g.members == 0 && o.number == 0:"), check{"./internal/flight", "^TestTurnOfOneWhoLeaves$"},
	},
}
