package main

// What a holder may do, and a late one may not.
var holderMutants = []mutant{
	{
		"renew revives a taken-over lease", "P3", "the late holder writes his lease over his successor's",
		script("renew", "if refusal then return refusal end", "if refusal and refusal[1] ~= STALE then return refusal end rec = rec and ARGV[1] .. sub(rec, 51)"), cells("renew", "other live"),
	},
	{
		"renew revives a lapsed lease", "P1", "a lease that others were told is free goes on",
		script("renew", "if now >= stop then return {LOST} end", ""), cells("renew", "lapsed"),
	},
	{
		"renew passes the maximum lifetime", "P8", "a holder that hangs and renews blocks its key for ever",
		script("renew", "math.min(math.max(stop, now + ARGV[2]), num(rec, 87, 99))", "math.max(stop, now + ARGV[2])"), root("^TestLeaseIsRenewedUntilItsMaximumLifetime$"),
	},
	{
		"checkpoint without a sequence", "P5", "a copy that arrives late overwrites what was saved after it",
		script("checkpoint", "if there >= ARGV[2] then", "if false then"), cells("checkpoint too late", ""),
	},
	{
		"complete without the owner check", "P3", "a late worker finishes what his successor is at work on",
		script("complete", "if refusal then return refusal end", "if refusal and refusal[1] ~= STALE then return refusal end"), cells("complete", "other live"),
	},
	{
		"complete on an absent record at any time", "P3", "where nothing is left to compare, whoever comes may write",
		script("complete", "if not rec and now >= num(ARGV[2], 1, 13) then", "if false then"), cells("complete after the end", "absent"),
	},
	{
		"complete with other bytes succeeds", "P7", "the caller is told that his result is stored, and another one is",
		script("complete", "or sub(rec, 75 + num(rec, 60, 61)) ~= sub(stored, 75 + num(stored, 60, 61))", ""), cells("complete", "mine completed otherwise"),
	},
	{
		"complete keeps the resource", "P8", "the account stays locked until its lease runs out",
		script("complete", "if fence then clear(", "if false then clear("), cells("complete with a resource", "mine live"),
	},
	{
		"release after complete", "P4", "a deferred release deletes the result",
		script("release", "if refusal[1] == LOST or refusal[1] == STALE then", "if rec and sub(rec, 3, 50) == sub(ARGV[1], 3) then redis.call('DEL', KEYS[1]) end if true then"), cells("release", "mine completed"),
	},
	{
		"release by anybody", "P1", "DEL without a look at who holds the lock",
		script("release", "if refusal then", "if refusal and refusal[1] ~= STALE then"), cells("release", "other live"),
	},
	{
		"resource freed by another owner", "P1", "the record is compared and the lock on its account is not",
		script("release", "local fence, refusal = hold(rec, ARGV[1], KEYS[2])", "local _, refusal = hold(rec, ARGV[1]) local fence = KEYS[2] and redis.call('GET', KEYS[2])"),
		cells("release with a resource", "mine live, fence other"),
	},
	{
		"fence after the write", "P3", "the write has been done when the token is found to be old",
		both(
			script("fence_do", "local reply = redis.pcall(ARGV[2], KEYS[2], unpack(ARGV, 3))", ""),
			script("fence_do", "local current = redis.pcall('GET', KEYS[1])", "local reply = redis.pcall(ARGV[2], KEYS[2], unpack(ARGV, 3)) local current = redis.pcall('GET', KEYS[1])"),
		), onFake("TestFence"),
	},
	{
		"fence compares tokens only", "P3", "an equal token of another owner passes",
		script("fence_do", "sub(current, 1, 50) ~= ARGV[1]", "sub(current, 35, 50) ~= sub(ARGV[1], 35)"), onFake("TestFence"),
	},
	{
		"fence is open where no record is", "P3", "a lost record lets every old grant through",
		script("fence_do", "if not current then return {STALE} end", "current = current or ARGV[1]"), cells("fence", "absent"),
	},
	{
		"fence for scripts without its check", "P3", "only plain commands are compared",
		script("fence_eval", "sub(current, 1, 50) ~= ARGV[1]", "false"), onFake("TestFence"),
	},
}

// What operators, waiters and those who only look may do.
var operatorMutants = []mutant{
	{
		"give back leaves nothing on an absent key", "P5", "a copy of the claim that is still on its way is granted, and nobody works",
		script("giveback", "local token = mint(time, token_of(fence))", "if true then return {OK} end local token = mint(time, token_of(fence))"), cells("give back", "absent"),
	},
	{
		"give back of any owner", "P1", "the key is given up whoever holds it now",
		script("giveback", "~= 'p' .. ARGV[1] then return {OK} end", "== '' then return {OK} end"), cells("give back", "other live"),
	},
	{
		"expire unconditionally", "P5", "a copy that arrives late expires what came after",
		script("expire", "~= ARGV[1] then return {OK} end", "== '' then return {OK} end"), cells("expire", "other live"),
	},
	{
		"tombstone forgets the token", "P2", "what is expired is deleted, and its token with it",
		script("common", "owner, token, now, maximum)\nend", "owner, 0, now, maximum)\nend"), onFake("TestTokensRise"),
	},
	{
		"resolve without raising the token", "P3", "the old holder's grant is still the current one",
		script("resolve", "format('%016.0f', token)", "sub(rec, 35, 50)"), cells("resolve to result", "mine lapsed"),
	},
	{
		"mark shortens the TTL", "P4", "a waiter's mark makes the record go with the lease",
		script("mark", "'KEEPTTL')", "'PX', end_of(rec, now) - now)"), cells("mark", "mine live"),
	},
	{
		"confirm of another token's record", "P7", "what replicas hold of an older result is noted on a newer one",
		script("confirm", "sub(rec, 3, 51) == ARGV[1] .. '0'", "sub(rec, 51, 51) == '0'"), cells("confirm", "other completed"),
	},
	{
		"inspect writes", "P8", "whoever looks keeps the record alive",
		script("inspect", "local size = num(rec, 60, 61)", "redis.call('PEXPIRE', KEYS[1], 86400000) local size = num(rec, 60, 61)"), cells("inspect", "mine"),
	},
}
