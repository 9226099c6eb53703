package main

// Who is granted a key, under which token, and what everybody else is told.
var claimMutants = []mutant{
	{
		"claim takes a live lease", "P1", "it writes its own lease over whatever is there: SET without NX",
		script("claim", "if now < lease_end(rec, fence, now) then return stands", "if false then return stands"), onFake("TestOneHolder"),
	},
	{
		"claim does not look at the resource", "P1", "it locks the key alone, though two keys write to one account",
		script("claim", "if fence and sub(fence, 2, 2) == 'p' and", "if false and"), onFake("TestOneHolder"),
	},
	{
		"claim is not idempotent for its owner", "P5", "its own lease, granted by a copy whose reply was lost, keeps it out",
		script("claim", "if rec and sub(rec, 3, 34) == owner then", "if false then"), onFake("TestLostRepliesAndRequests"),
	},
	{
		"token by INCR of an evictable counter", "P2", "a counter counts from 1 again when it was evicted or lost",
		both(
			script("claim", ".. secs .. micros .. '000000001'", ".. string.format('%016.0f', redis.call('INCR', KEYS[1] .. ':n')) .. '000000001'"),
			script("common", "local token = time[1] * 1000000 + time[2]", "local token = redis.call('INCR', KEYS[#KEYS] .. ':n')"),
		), onFake("TestTokensRise"),
	},
	{
		"token by the client's clock", "P2", "the clock of whoever claims is the token, and clients' clocks are apart",
		both(
			in("internal/protocol/request.go", "flagged := a.Quarantine ||", "a.MinToken = max(a.MinToken, time.Now().UnixMicro())\nflagged := a.Quarantine ||"),
			script("claim", "local token = mint(time, last)", "local token = last + 1"),
		), root("^TestTokensAreOfTheServersClock$"),
	},
	{
		"token without the last one", "P2", "the clock alone is the token, so a clock that was stepped back lets it fall",
		script("common", "if last >= token then return last + 1 end", ""), root("^TestClockSteppedBack$"),
	},
	{
		"token without the resource's", "P2", "the tokens of an account's keys rise each by themselves",
		script("claim", "math.max(token_of(rec), token_of(fence))", "token_of(rec)"), onFake("TestTokensOfAResourceRiseTogether"),
	},
	{
		"token as Lua prints numbers", "P2", "a number joined to a text reads 1.79e+15 on a real server",
		script("claim", "format('1p%s%016.0f', owner, token)", "'1p' .. owner .. sub('0000000000000000' .. token, -16)"), root("^TestVerbs$/^redis$/^claim$/other"),
	},
	{
		"token forgotten before the clock has passed it", "P2", "a key with a token ahead of the clock is kept no longer than others",
		script("common", "return math.max(floor, tonumber(ttl))", "return tonumber(ttl)"), onFake("TestTokenAheadOfTheClockIsKept"),
	},
	{
		"lease by the key's TTL alone", "P4", "what was asked for, and by whom, is forgotten with the lease",
		script("claim", "    redis.call('SET', name, rec, 'PX', ttl)", "    redis.call('SET', name, rec, 'PX', tonumber(length))"), cells("claim", "absent"),
	},
	{
		"record without a TTL", "P8", "SET and PEXPIRE are two calls, and the second does not take place",
		script("claim", "    redis.call('SET', name, rec, 'PX', ttl)", "    redis.call('SET', name, rec)"), onFake("TestEveryKeyHasATTL"),
	},
	{
		"clock stepped back prolongs a lease", "P8", "the stored end is believed, however far away it is",
		script("common", "if stored > bound then return bound end", ""), root("^TestClockSteppedBack$"),
	},
	{
		"fingerprint not compared while in progress", "P4", "another request under the same key is told to wait for an answer that is not its own",
		script("claim", "elseif sub(rec, 60, 61)", "elseif from == 75 and sub(rec, 60, 61)"), cells("claim with another fingerprint", "live"),
	},
	{
		"replay is cut at a NUL", "P4", "%s in a real server's Lua ends at the first zero byte",
		script("claim", "state == 102) then return rec end", "state == 102) then return string.format('%s', rec) end"), root("^TestSameAnswer$/^redis$"),
	},
	{
		"key older than what is remembered, where nothing is there", "P8", "a retry that comes days later runs the operation again",
		script("claim", " and now <= sub(window, 14) then", " then"), onFake("TestBadInputChangesNothing"),
	},
	{
		"key older than what is remembered, behind a give back", "P8", "a tombstone that says nothing of the key is taken for a run",
		script("claim", "if unknown and now > num(window, 14, 26) then", "if not rec and now > num(window, 14, 26) then"), onFake("TestOldKeyIsRefusedAfterAGiveBack"),
	},
	{
		"key of the future", "P8", "a client whose clock is ahead makes keys that never become too old",
		script("claim", "not window or now >= sub(window, 1, 13) and", "not window or"), onFake("TestBadInputChangesNothing"),
	},
}
