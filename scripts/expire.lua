-- Purpose: fence out what is there and forget it, so that the next claim works anew.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  owner and token, as they stood in the record that was read before; 16 zeros when there was none
-- ARGV[2]  owner of the tombstone where there is no record
-- ARGV[3]  how long the tombstone stays, ms
-- ARGV[4]  retention: how long a cleared fence stays, ms
-- Replies: {OK} expired, or something newer is there · {SPENT} no token left below 2^53 · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: every state → released, as a tombstone with a raised token, attempt 0, no checkpoint, bound to no fingerprint.
-- Repeating: the token has risen, so a copy finds something newer and writes nothing. The owner tells equal tokens of two grants apart.
local rec = redis.pcall('GET', KEYS[1])
if rec then
  if broken(rec) then return refuse(rec, 1) end
  if sub(rec, 3, 50) ~= ARGV[1] then return {OK} end
end
local fence = KEYS[2] and redis.pcall('GET', KEYS[2])
if fence and broken(fence) then return refuse(fence, 2) end

local time = redis.call('TIME')
local now = millis(time)
local token = mint(time, math.max(token_of(rec), token_of(fence)))
if token >= 9007199254740992 then return {SPENT} end
redis.call('SET', KEYS[1], tombstone(rec and sub(rec, 3, 34) or ARGV[2], token, now, 0), 'PX', keep(ARGV[3], token, now))
if fence and sub(fence, 2, 2) == 'p' and sub(fence, 110) == KEYS[1] then clear(fence, KEYS[2], ARGV[4], now) end
if rec and sub(rec, 2, 2) == 'p' then wake(rec, KEYS[1]) end
return {OK}
