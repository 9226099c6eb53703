package main

// web are tests of coordhttp.
func web(tests string) check { return check{"./coordhttp", tests} }

func webOnFake(test string) check { return web("^" + test + "$/^miniredis$") }

// The promises as HTTP has them.
var httpMutants = []mutant{
	{
		"one scope for all tenants", "P4", "a tenant gets what another one was answered",
		in("coordhttp/coordhttp.go", "return coordinator.JoinScope(tenant, r.Method, path)", `return coordinator.JoinScope("", r.Method, path)`), web("^TestKeysDoNotMeet$"),
	},
	{
		"an empty tenant is one", "P4", "all who are not authenticated share their answers",
		in("coordhttp/coordhttp.go", `if err != nil || tenant == "" {`, "if err != nil {"), web("^TestKeysDoNotMeet$"),
	},
	{
		"one scope for all routes", "P4", "one key on two routes gets one answer, or none",
		in("coordhttp/coordhttp.go", "return coordinator.JoinScope(tenant, r.Method, path)", "return coordinator.JoinScope(tenant, r.Method)"), web("^TestKeysDoNotMeet$"),
	},
	{
		"one scope for all tenants of a route", "P4", "a tenant gets what another one was answered",
		in("coordhttp/coordhttp.go", "return coordinator.JoinScope(tenant, r.Method, r.Pattern)", `return coordinator.JoinScope("", r.Method, r.Pattern)`), web("^TestTenantsOfAScope$"),
	},
	{
		"one scope for all tenants by Scope", "P4", "a tenant gets what another one was answered",
		in("coordhttp/coordhttp.go", "return coordinator.JoinScope(tenant, m.scope(r))", `return coordinator.JoinScope("", m.scope(r))`), web("^TestTenantsOfAScope$"),
	},
	{
		"the path as it was rewritten", "P4", "what was asked of one account is answered to another one's request",
		in("coordhttp/coordhttp.go", "path := sentPath(r)", "path := r.URL.EscapedPath()"), web("^TestRewrittenPaths$"),
	},
	{
		"the fingerprint without the body", "P4", "another order gets the first one's answer",
		in("coordhttp/fingerprint.go", "_, _ = sum.Write(body)", ""), webOnFake("TestKeyReused"),
	},
	{
		"raw and quoted are two keys", "P1", "a client that mends its header is charged twice",
		in("coordhttp/header.go", "if key = quoted; key == \"\" {", "if quoted == \"\" {"), webOnFake("TestReplay"),
	},
	{
		"cookies are stored", "P4", "whoever repeats a request gets the first one's session",
		in("coordhttp/answer.go", `"Set-Cookie": true, `, ""), webOnFake("TestReplay"),
	},
	{
		"what Connection names is stored", "P4", "what was meant for one connection is replayed on others",
		in("coordhttp/answer.go", "!dropped[canonical] && ", ""), webOnFake("TestReplay"),
	},
	{
		"every answer is kept", "P5", "an error that would have passed blocks all retries",
		in("coordhttp/options.go", "return status >= 200 && status < 500", "return true"), webOnFake("TestStatuses"),
	},
	{
		"streams are run again", "P1", "what was streamed takes effect once for each retry",
		in("coordhttp/recorder.go", "return &answer{status: r.status, unkept: true, streamed: true, cutOff: cutOff}", "return &answer{status: 503, unkept: true, streamed: true, cutOff: cutOff}"), web("^TestWriters$/^flushed$"),
	},
	{
		"a client that does not read is waited for", "P1", "the lease ends meanwhile, and a retry runs again",
		in("coordhttp/recorder.go", "end = time.Now().Add(r.patience)", "end = time.Time{}"), web("^TestClientThatDoesNotRead$/^detached$"),
	},
	{
		"a client waits for the storing of its answer", "P8", "an answer that is there does not end before the lease does",
		in("coordhttp/coordhttp.go", "o.background(func() { o.storeLater(lease, a) })", "o.storeLater(lease, a)"), web("^TestUnstoredAnswersEnd$/^HTTP_2$"),
	},
	{
		"what is for quarantine is released", "P7", "work that ended with its lease, nobody knows how far it got, runs again",
		in("coordhttp/coordhttp.go", "if o.quarantine && lease.Context().Err() != nil {", "if false {"), web("^TestHandlerStopsWithoutItsLease$"),
	},
	{
		"an answer too long is not stored", "P1", "the operation stays open, and runs again",
		in("coordhttp/coordhttp.go", "if errors.Is(err, coordinator.ErrTooLarge) {", "if false {"), web("^TestWriters$/^too_long_in_the_end$"),
	},
	{
		"a panic keeps the lease", "P5", "the key is blocked until the lease lapses",
		in("coordhttp/coordhttp.go", "\t\t\trec.finish()\n\t\t\to.release(lease)\n", "\t\t\trec.finish()\n"), web("^TestPanicReleases$"),
	},
	{
		"a lost reply keeps the key", "P5", "a client is kept out by its own request",
		in("coordhttp/coordhttp.go", "_ = o.c.GiveBack(ctx, o.key, owner)", "_, _ = ctx, owner"), web("^TestLostReplyDoesNotLockOut$"),
	},
	{
		"work goes on without its lease", "P6", "the handler is not told that another one has taken over",
		in("coordhttp/context.go", "unlisten := context.AfterFunc(c.lease, func() { cancel(context.Cause(c.lease)) })", "unlisten := func() bool { return true }"), web("^TestLeaseIsLost$/^not$"),
	},
	{
		"who asks late is not told of the lease", "P6", "a handler that looks at its context after the loss sees one that goes on",
		in("coordhttp/context.go", "if c.begun() || c.lease.Err() != nil || c.Context.Err() != nil {", "if c.begun() || c.Context.Err() != nil {"), web("^TestHandlerContextIsAskedLate$"),
	},
	{
		"the late one's answer", "P4", "two clients with one key are told two things",
		in("coordhttp/coordhttp.go", "if !done && (errors.Is(err, coordinator.ErrLeaseLost) || errors.Is(err, coordinator.ErrStaleToken)) {", "if false {"), web("^TestLeaseIsLost$"),
	},
	{
		"open where Redis is away", "P7", "requests run unprotected though nobody has asked for that",
		in("coordhttp/coordhttp.go", "if away && o.open && ctx.Err() == nil {", "if away && ctx.Err() == nil {"), webOnFake("TestRedisAway"),
	},
	{
		"old keys run", "P4", "a retry after the retention does it again",
		in("coordhttp/coordhttp.go", "is && !o.anyAge {", "is && o.anyAge {"), webOnFake("TestKeyExpired"),
	},
	{
		"an answer opens anywhere", "P4", "who can write to Redis moves an answer to another key",
		in("internal/sealed/sealed.go", "return append(bytes.Clone(head), bound...)", "return bytes.Clone(head)"), web("^TestStoredAnswers$"),
	},
	{
		"what is not encrypted opens too", "P4", "who can write to Redis makes up answers",
		in("internal/sealed/sealed.go", "b.plain, b.current, b.ring = keys.AllowPlain,", "b.plain, b.current, b.ring = true,"), check{"./internal/sealed", "^TestWhatDoesNotOpen$"},
	},
	{
		"the client makes a key for each try", "P5", "each try is a new operation",
		both(in("coordhttp/transport.go", "next.Body = body", "next.Body = body\n\t\tnext.Header.Del(or(t.Header, \"Idempotency-Key\"))\n\t\t_ = t.setKey(next)"), nil), web("^TestTransportRetries$"),
	},
	{
		"the client retries what is final", "P5", "a replayed failure is asked for again and again",
		in("coordhttp/transport.go", " && !replayed(response.Header)", ""), web("^TestTransportRetries$"),
	},
	{
		"an equal token of another owner", "P3", "two holders of one token, after a failover, both write",
		in("internal/highest/highest.go", " or string.sub(mark, 1, 16) == token and mark ~= ARGV[1]", ""), webOnFake("TestRequireGrant"),
	},
	{
		"tokens that nobody was granted", "P3", "one made-up token shuts all holders out",
		in("internal/highest/highest.go", "if tonumber(token) > time[1]", "if false and tonumber(token) > time[1]"), webOnFake("TestRequireGrant"),
	},
	{
		"the highest grant is not kept", "P3", "a lower token is let in after a higher one",
		in("internal/highest/highest.go", "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])", ""), webOnFake("TestRequireGrant"),
	},
}
