-- Purpose: the holder's lease goes on, up to its maximum lifetime.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  head: the grant
-- ARGV[2]  length: of the lease and its grace, ms
-- ARGV[3]  retention: how long the record outlives the lease, ms
-- ARGV[4]  optional, 1: answer with the whole record
-- Replies: {OK, header or record, now} · {LOST} nothing there, or lapsed · {STALE, header} ended or another's · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: in progress → in progress. A lapsed lease is not revived: somebody may have been told that it is free.
-- Repeating: the end is the later of the stored and the new one; a late copy prolongs a live grant by one lease at most.
local rec = redis.pcall('GET', KEYS[1])
local fence, refusal = hold(rec, ARGV[1], KEYS[2])
if refusal then return refusal end

local now = millis(redis.call('TIME'))
local stop = lease_end(rec, fence, now)
if now >= stop then return {LOST} end
stop = math.min(math.max(stop, now + ARGV[2]), num(rec, 87, 99))
local ttl = keep(stop - now + ARGV[3], token_of(rec), now)
local left = redis.call('PTTL', KEYS[1])
if stop ~= num(rec, 62, 74) then rec = with_end(rec, now, stop) end
redis.call('SET', KEYS[1], rec, 'PX', math.max(ttl, left))
if fence then
  left = redis.call('PTTL', KEYS[2])
  if stop ~= num(fence, 62, 74) then fence = with_end(fence, now, stop) end
  redis.call('SET', KEYS[2], fence, 'PX', math.max(ttl, left))
end
if ARGV[4] then return {OK, rec, now} end
return {OK, sub(rec, 1, 99), now}
