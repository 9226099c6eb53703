-- Purpose: the holder gives the key up without an outcome; the next claim may run at once.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  head: the grant
-- ARGV[2]  retention: how long the released record stays, ms
-- Replies: {OK} released, or nothing of this grant's to release · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: in progress, lapsed → released.
-- Repeating: only the grant itself is released; a copy finds it ended, or another's, and writes nothing.
local rec = redis.pcall('GET', KEYS[1])
local fence, refusal = hold(rec, ARGV[1], KEYS[2])
if refusal then
  if refusal[1] == LOST or refusal[1] == STALE then return {OK} end
  return refusal
end

local now = millis(redis.call('TIME'))
redis.call('SET', KEYS[1], '1r' .. sub(rec, 3, 50) .. '0' .. sub(rec, 52), 'PX', keep(ARGV[2], token_of(rec), now))
if fence then clear(fence, KEYS[2], ARGV[2], now) end
wake(rec, KEYS[1])
return {OK}
