package main

// pg are tests of coordpg, which is a module of its own in the same workspace.
func pg(tests string) check { return check{"./coordpg", tests} }

const (
	pgFences = "coordpg/migrations/001_fence.sql"
	pgSide   = "coordpg/migrations/002_side.sql"
	pgLedger = "coordpg/migrations/003_ledger.sql"
)

// The promises as PostgreSQL keeps them. Its functions are broken as well as the Go code.
var pgMutants = []mutant{
	{
		"pg: an older grant is admitted", "P3", "a worker that was replaced writes over its successor",
		in("coordpg/fence.go", "\n\t\t\tWHERE f.token < excluded.token OR f.token = excluded.token AND f.owner = excluded.owner\n\t\tRETURNING 1", " RETURNING 1"), pg("^TestAdmit$"),
	},
	{
		"pg: tokens without their owners", "P3", "of two owners of one token both are admitted",
		in("coordpg/fence.go", " AND f.owner = excluded.owner\n\t\tRETURNING 1", " RETURNING 1"), pg("^TestAdmit$"),
	},
	{
		"pg: a refusal that can be ignored", "P3", "code that does not look at the error commits",
		in("coordpg/fence.go", "err = again.ask(ctx, tx)", "return &coordinator.StaleTokenError{}"), pg("^TestRefusedTransactionsCannotCommit$"),
	},
	{
		"pg: a column that is not compared", "P3", "the mark is written and never read",
		in("coordpg/fence.go", "AND (fence_token < $%[4]d OR fence_token = $%[4]d AND fence_owner = $%[5]d) RETURNING", "RETURNING"), pg("^TestFencedUpdate$"),
	},
	{
		"pg: rows are counted, not compared", "P3", "an update of three rows changes the two that are not fenced",
		in("coordpg/fence.go", "CASE WHEN c.n < there.n THEN", "CASE WHEN c.n = 0 AND there.n > 0 THEN"), pg("^TestFencedUpdate$"),
	},
	{
		"pg: the trigger asks whether anybody was admitted", "P3", "code that forgot to ask passes by another's admission",
		in(pgFences, " AND admitted = pg_current_xact_id_if_assigned()", ""), pg("^TestTrigger$|^TestStoppedWorkerChangesNothing$/^trigger$"),
	},
	{
		"pg: the trigger looks before other triggers do", "P3", "a row is written to a resource that the transaction was not admitted to",
		in("coordpg/fence.go", "coordinator_guard AFTER INSERT", "coordinator_guard BEFORE INSERT"), pg("^TestTrigger$"),
	},
	{
		"pg: a comment in a caller's part", "P3", "an update loses its mark",
		in("coordpg/fence.go", "UPDATE %[1]s SET %[2]s\n\t\t\t, fence_token", "UPDATE %[1]s SET %[2]s, fence_token"), pg("^TestFencedUpdate$"),
	},
	{
		"pg: the trigger looks at the new row only", "P3", "a row is taken away from a resource",
		in(pgFences, "IF TG_OP <> 'INSERT' THEN", "IF TG_OP = 'DELETE' THEN"), pg("^TestTrigger$"),
	},
	{
		"pg: an outcome that is there is passed over", "P1", "the second run of an operation commits its effects",
		in("coordpg/ledger.go", "$8, $9, $10) RETURNING true, completed_at", "$8, $9, $10) ON CONFLICT DO NOTHING RETURNING true, completed_at"), pg("^TestTwoWorkersWithOneKey$"),
	},
	{
		"pg: a connection that was given back is rolled back", "P5", "the next borrower's transaction is lost, and its commit says nil",
		in("coordpg/session.go", "rollback: sync.OnceFunc(func() {", "rollback: func(f func()) func() { _ = sync.OnceFunc; return f }(func() {"), pg("^TestDoLeavesOthersTransactionsAlone$"),
	},
	{
		"pg: the ledger is not asked first", "P4", "work runs again whose outcome is known",
		in("coordpg/session.go", "if err == nil && redis && done {", "if err == nil && redis && done && false {"), pg("^TestDoAsksTheLedgerFirst$"),
	},
	{
		"pg: a fingerprint that is not compared", "P4", "after a loss of Redis another request gets the answer",
		in("coordpg/ledger.go", "if bytes.Equal(e.Fingerprint, fingerprint) {", "if true {"), pg("^TestDo$"),
	},
	{
		"pg: a lost answer to a commit is a failure", "P7", "the caller is told that nothing was booked",
		in("coordpg/session.go", "if sent && unsure(err) {\n\t\treturn op.doubt", "if sent && unsure(err) && l == nil {\n\t\treturn op.doubt"), pg("^TestLostCommits$"),
	},
	{
		"pg: a commit in doubt is done again", "P7", "nobody asks whether it took place",
		in("coordpg/session.go", "return op.doubt(ctx, l, done, err)", "return nil, errNotCommitted"), pg("^TestCommitInFlight$"),
	},
	{
		"pg: a commit in doubt counts", "P7", "what never arrived is reported as done",
		in("coordpg/session.go", "return op.doubt(ctx, l, done, err)", "return done, nil"), pg("^TestLostCommits$"),
	},
	{
		"pg: a commit on its way is not waited for", "P7", "the work runs beside a commit that arrives late",
		in("coordpg/session.go", "SELECT pg_advisory_xact_lock($1) IS NULL", "SELECT $1::bigint IS NULL"), pg("^TestLateCommit$"),
	},
	{
		"pg: what the server refused for certain is run again", "P7", "ten runs of what can never be committed",
		in("coordpg/session.go", "return cmp.Or(pg.SeverityUnlocalized, pg.Severity) != \"ERROR\"", "return cmp.Or(pg.SeverityUnlocalized, pg.Severity) != \"ERROR\" || pg.Code[:2] != \"23\" && pg.Code[:2] != \"40\""), pg("^TestCommitsThatFailForCertain$"),
	},
	{
		"pg: a commit that no standby has counts", "P7", "what a failover takes back was reported as done",
		in("coordpg/session.go", "CASE WHEN current_setting('synchronous_standby_names') <> '' THEN", "CASE WHEN current_setting('synchronous_standby_names') = '?' THEN"), pg("^TestStalledStandby$"),
	},
	{
		"pg: a commit outlives its context", "P5", "the caller has gone long ago, and its call waits on",
		in("coordpg/session.go", "committing, cancel := outliving(ctx, tidyTime)", "committing, cancel := outliving(ctx, 5*tidyTime)"), pg("^TestCommitEndsSoonAfterItsContext$"),
	},
	{
		"pg: a stored result is taken for this run's", "P4", "two callers get two results of one operation",
		in("coordpg/session.go", "return &outcome{result: e.Result, replayed: true}, nil", "return &outcome{result: e.Result, replayed: !e.by(l.grant)}, nil"), pg("^TestDoLeavesOthersTransactionsAlone$"),
	},
	{
		"pg: BeginFunc's commit in doubt may be repeated", "P7", "effects take place twice",
		in("coordpg/fence.go", "err != nil && unsure(err) {", "err != nil && unsure(err) && false {"), pg("^TestBeginFuncWhoseCommitIsInDoubt$"),
	},
	{
		"pg: Redis has the last word", "P4", "what was committed is reported as failed",
		in("coordpg/do.go", "if committed != nil {\n", "if committed != nil && err == nil {\n"), pg("^TestCommitCountsWhenRedisCannotBeTold$"),
	},
	{
		"pg: the high-water mark is not asked for", "P2", "a Redis that lost its tokens never gets past the fence",
		in("coordpg/do.go", "append(opts, coordinator.MinToken(mark))", "append(opts, coordinator.MinToken(0*mark))"), pg("^TestGrantsExceedTheHighWaterMark$"),
	},
	{
		"pg: events of runs that were rolled back", "P5", "consumers hear of what did not take place",
		in("coordpg/do.go", "\tfor run := 1; ; run++ {\n\t\tout, err := op.once(ctx, lease(), nil)", "\tsame := lease()\n\tfor run := 1; ; run++ {\n\t\tout, err := op.once(ctx, same, nil)"), pg("^TestDoRunsAgain$"),
	},
	{
		"pg: a transaction that stands still for ever", "P8", "a paused worker keeps its locks",
		in(pgLedger, "IF _strict OR current_setting('idle_in_transaction_session_timeout') = '0' THEN", "IF false THEN"), pg("^TestStandingStillEndsTheTransaction$/^resource$"),
	},
	{
		"pg: a transaction without a resource stands still", "P8", "a paused worker keeps its locks",
		in("coordpg/session.go", "CASE WHEN $5 OR current_setting('idle_in_transaction_session_timeout') = '0' THEN", "CASE WHEN $5 AND false THEN"), pg("^TestStandingStillEndsTheTransaction$/^key$"),
	},
	{
		"pg: a switch that waits for nobody", "P1", "both sides grant while a transaction ends",
		in(pgSide, "PERFORM pg_advisory_xact_lock(1869505381, hashtext('@schema'));", ""), pg("^TestSwitchWaitsForTransactions$"),
	},
	{
		"pg: a transaction that does not hold its side", "P1", "the database grants what Redis has granted",
		in(pgLedger, "_void := pg_advisory_xact_lock_shared(1869505381, hashtext('@schema'))::text;", "_void := '';"), pg("^TestSwitchWaitsForTransactions$"),
	},
	{
		"pg: one without a resource does not hold its side", "P1", "the database grants what Redis has granted",
		in("coordpg/session.go", "SELECT pg_advisory_xact_lock_shared(1869505381, hashtext('@schema')) IS NULL,", "SELECT hashtext('@schema') IS NULL,"), pg("^TestSwitchWaitsForTransactions$"),
	},
	{
		"pg: the side is asked before it is held", "P1", "who waited for a switch goes on under the old side",
		in(pgSide, "    PERFORM pg_advisory_xact_lock_shared(1869505381, hashtext('@schema'));\n    IF @schema.redis_grants() <> _redis THEN", "    IF @schema.redis_grants() <> _redis THEN"), pg("^TestSwitchWaitsForTransactions$"),
	},
	{
		"pg: grants of Redis count while it is away", "P1", "what Redis grants and what the database grants both take effect",
		in("coordpg/session.go", "case err == nil && !redis:", "case false:"), pg("^TestSwitchWaitsForTransactions$|^TestSwitchByHand$|^TestNeverBothSides$"),
	},
	{
		"pg: admitted by Redis while it is away", "P1", "a fence lets the worker of the other side pass",
		in("coordpg/fence.go", ") AS side WHERE side.grants", ") AS side"), pg("^TestFencesHoldTheirSide$"),
	},
	{
		"pg: admitted without holding the side", "P1", "the database grants what Redis has granted",
		in("coordpg/fence.go", "SELECT pg_advisory_xact_lock_shared(1869505381, hashtext('@schema')),", "SELECT hashtext('@schema'),"), pg("^TestFencesHoldTheirSide$"),
	},
	{
		"pg: a switch that keeps everybody waiting", "P8", "one transaction that nobody ends stops every other one",
		in(pgSide, "PERFORM set_config('lock_timeout', '1s', true);", "NULL;"), pg("^TestForgottenTransactionStopsNobody$"),
	},
	{
		"pg: handed back while somebody is cut off", "P1", "the sides change as often as two processes disagree",
		in(pgSide, "WHERE pinned OR away_at > clock_timestamp() - _calm_ms * interval '1 millisecond'", "WHERE pinned"), pg("^TestNobodyHandsBackWhileOneCannotReachRedis$"),
	},
	{
		"pg: what was taken over by hand is handed back", "P1", "maintenance ends by itself",
		in(pgSide, "WHERE pinned OR away_at", "WHERE away_at"), pg("^TestTakenOverByHandStays$"),
	},
	{
		"pg: the side is drawn, not set", "P1", "a crash turns the side around",
		in(pgSide, "PERFORM setval('@schema.side', (SELECT last_value + 1 FROM @schema.side));", "PERFORM nextval('@schema.side');"), pg("^TestSideSurvivesACrash$"),
	},
	{
		"pg: a context that outlives the database's grant", "P6", "the holder goes on while another one works",
		in("coordpg/session.go", "coordinator.ContextWithGrant(ctx, l.grant), l.ends,", "coordinator.ContextWithGrant(ctx, l.grant), l.ends.Add(time.Hour),"), pg("^TestDatabaseGrants$"),
	},
	{
		"pg: a lease begins before it is granted", "P6", "who has waited for longer than a lease is granted one that is over",
		in(pgLedger, "_waited_us := extract(epoch FROM clock_timestamp() - _begun) * 1000000;", "_waited_us := 0;"), pg("^TestDatabaseGrants$"),
	},
	{
		"pg: work that stands still is not told so", "P6", "its transaction is ended, and it does not learn what to set",
		in("coordpg/querier.go", "return ok && pg.Code == \"25P03\"", "return ok && pg.Code == \"?\""), pg("^TestStandingStillIsNotRunAgain$"),
	},
	{
		"pg: whoever asks is granted", "P1", "the database grants one key twice",
		in(pgLedger, "_held := pg_try_advisory_xact_lock(_domain);", "_held := true;"), pg("^TestDatabaseGrants$"),
	},
	{
		"pg: one lock for each key of a resource", "P1", "two keys of a resource are granted at once",
		in("coordpg/session.go", `if op.key.Resource != "" {`+"\n\t\tname =", `if false {`+"\n\t\tname ="), pg("^TestDatabaseGrants$"),
	},
	{
		"pg: a relay without a fence", "P3", "a relay that was replaced publishes beside its successor",
		in(pgLedger, "    PERFORM @schema.admit(_resource, _mine, _owner);\n    RETURN _mine;", "    RETURN _mine;"), pg("^TestRelayIsFenced$"),
	},
	{
		"pg: events are deleted before they are published", "P5", "what could not be published is lost",
		in("coordpg/relay.go", "\t\tif err := r.publish(publishing, events); err != nil {\n", "\t\tif err := r.publish(publishing, events); err != nil && false {\n"), pg("^TestRelay$"),
	},
	{
		"pg: an outcome that a lease outlives", "P1", "a worker that was stopped for long does again what is forgotten",
		in("coordpg/do.go", "o.keep < least {", "o.keep < 0*least {"), pg("^TestDoRefusesBadOptions$"),
	},
	{
		"pg: a locked event is overtaken", "P5", "consumers see a resource's events out of order",
		in("coordpg/relay.go", "WHERE passed.seq IS NULL OR passed.seq > free.seq", ""), pg("^TestRelayKeepsTheOrderOfAResource$"),
	},
	{
		"pg: a publisher that is not told", "P6", "two relays publish, and the first does not know",
		in("coordpg/relay.go", "context.WithTimeoutCause(ctx, r.within, errSlow)", "context.WithTimeoutCause(ctx, 100*r.within, errSlow)"), pg("^TestPublisherIsToldBeforeItIsReplaced$"),
	},
	{
		"pg: outcomes are swept early", "P4", "an operation runs again within its retention",
		in("coordpg/sweep.go", "WHERE expires_at < now() ORDER BY", "WHERE expires_at < now() + interval '2 days' ORDER BY"), pg("^TestSweep$"),
	},
	{
		"pg: marks are swept early", "P3", "a stopped worker finds no mark",
		in("coordpg/sweep.go", "AND seen_at < now() - $3 * interval '1 millisecond'", "AND $3 > 0"), pg("^TestSweep$"),
	},
	{
		"pg: the wrong request keeps the key", "P4", "after a loss of Redis the first request to come binds it, and the right one is refused",
		in("coordpg/do.go", "	if !mine {\n\t\treturn nil, refused\n\t}\n\treturn &outcome{result: e.Result, replayed: true}, nil", "	return nil, refused"), pg("^TestWrongRequestAfterLoss$"),
	},
	{
		"pg: a wrong binding is left in Redis", "P4", "the right request is replayed by the ledger, and never by Redis again",
		in("coordpg/do.go", "_ = op.c.Expire(ctx, op.key)", ""), pg("^TestWrongRequestAfterLoss$"),
	},
	{
		"pg: a claim in doubt is the caller's", "P7", "Redis hangs, and the database is not asked",
		in("coordpg/do.go", " || errors.Is(err, coordinator.ErrUnknown) && !op.begun):", "):"), pg("^TestRedisHangs$"),
	},
	{
		"pg: BeginFunc without its admission", "P3", "what was refused at the beginning works and commits",
		in("coordpg/fence.go", "if err := p.admitted(ctx, s.q, resource, g, err); err != nil {\n\t\treturn err\n\t}\n\tif err := fn", "if err := fn"), pg("^TestBeginFunc$"),
	},
}
