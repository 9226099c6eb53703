-- Purpose: what stands there, as the master sees it.
-- KEYS[1]  the record
-- ARGV[1]  optional, 1: with the result or checkpoint; otherwise cut off behind the fingerprint
-- Replies: {OK, record, now, remaining ms of the key or -1, bytes of result or checkpoint} · {ABSENT} · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: none; nothing is written.
-- Repeating: only reads.
local rec = redis.pcall('GET', KEYS[1])
if not rec then return {ABSENT} end
if broken(rec) then return refuse(rec, 1) end
local size = num(rec, 60, 61) % 99
size = size + (find(rec, '^.[cf]') and 74 or 99)
local rest = #rec - size
if rest > 0 and find(rec, '^.[pr]') then rest = rest - 10 end -- the checkpoint's sequence number
if not ARGV[1] then rec = sub(rec, 1, size) end
return {OK, rec, millis(redis.call('TIME')), redis.call('PTTL', KEYS[1]), rest}
