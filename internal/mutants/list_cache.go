package main

// What is replayed from this process' memory.
var cacheMutants = []mutant{
	{
		"cache ignores the fingerprint", "P4", "another request under the same key gets the answer of the first",
		in("replay.go", "if r != nil && r.Fingerprint != string(fingerprint) {", "if false {"), onFake("TestReplayFromTheCacheHonoursTheClaim"),
	},
	{
		"cache compares the key's hash only", "P4", "two keys that meet in a hash get one answer",
		in("internal/replaycache/replaycache.go", "e == nil || e.key != key ||", "e == nil ||"), check{"./internal/replaycache", "^TestWhatIsKept$"},
	},
	{
		"cache hands out one payload", "P4", "what one caller does with his copy, the next one gets",
		both(
			in("replay.go", "done.Result.Payload = append(room, r.Payload...)", "if handedOut[r.Payload] == nil { handedOut[r.Payload] = append(room, r.Payload...) }; done.Result.Payload = handedOut[r.Payload]"),
			in("replay.go", "// lifeOf is", "var handedOut = map[string][]byte{}\n\n// lifeOf is"),
		), root("^TestReplaysFromTheCacheAreCopies$"),
	},
	{
		"cache older than its age", "P4", "what was expired elsewhere is replayed until something else needs its place",
		in("internal/replaycache/replaycache.go", "|| c.clock() >= e.until", ""), root("^TestReplayFromTheCacheIsNotOlderThanItsAge$"),
	},
	{
		"cache counts from the reply", "P4", "the way of the reply is added to the age",
		in("internal/replaycache/replaycache.go", "until := shown + min(", "until := c.clock() + min("), root("^TestReplayFromTheCacheIsNotOlderThanItsAge$"),
	},
	{
		"cache outlives the retention", "P4", "a result is replayed that its own coordinator has let Redis forget",
		in("internal/replaycache/replaycache.go", "min(c.maxAge, life)", "c.maxAge"), root("^TestReplayFromTheCacheEndsWithTheRetention$"),
	},
	{
		"own Expire leaves the entry", "P4", "an operator expires a key, and his own process goes on with the old result",
		in("manage.go", "defer c.cache.Drop(replaycache.Key(key)) // behind the reply", "// behind the reply"), root("^TestOwnExpireIsSeenAtOnce$"),
	},
	{
		"late reply brings back what was dropped", "P4", "a claim's reply was on its way when the key was expired",
		in("internal/replaycache/replaycache.go", "if shown <= s.dropped || c.clock() >= until {", "if c.clock() >= until {"), root("^TestOwnExpireIsSeenAtOnce$"),
	},
	{
		"late reply brings back what came before a lease", "P4", "a claim's reply was on its way when the key was expired elsewhere and granted here",
		in("internal/replaycache/replaycache.go", "g.token > rec.Token {", "g.token < 0 {"), root("^TestLeaseThatWasSeenIsNotReplayedOver$"),
	},
	{
		"unconfirmed result is cached", "P7", "what a failover may lose is replayed as what replicas have",
		in("replay.go", "if c.replicas == 0 || confirmed {", "if true {"), root("^TestUnconfirmedResultIsNotCached$"),
	},
}
