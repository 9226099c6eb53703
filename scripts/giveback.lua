-- Purpose: end a claim whose outcome its caller does not know, by its owner alone.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  owner of the claim
-- ARGV[2]  retention: how long a released record stays, ms
-- ARGV[3]  how long a tombstone stays, ms
-- Replies: {OK} · {SPENT} no token left below 2^53 · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: in progress, lapsed → released, and nobody having worked under the grant its attempt does not count; absent → released, by a tombstone that makes a late copy of the claim find itself over.
--   Its maximum is 1, because it knows nothing of the key: a claim judges the key's age as where there is no record.
-- Repeating: a copy finds the owner's record released and writes nothing.
local rec = redis.pcall('GET', KEYS[1])
if rec then
  if broken(rec) then return refuse(rec, 1) end
  if sub(rec, 2, 34) ~= 'p' .. ARGV[1] then return {OK} end
end
local fence = KEYS[2] and redis.pcall('GET', KEYS[2])
if fence and broken(fence) then return refuse(fence, 2) end
local held = fence and sub(fence, 2, 34) == 'p' .. ARGV[1] and (not rec or sub(fence, 35, 50) == sub(rec, 35, 50))
if rec and KEYS[2] and not held then return {OK} end

local time = redis.call('TIME')
local now = millis(time)
if rec then
  local attempt = sub(rec, 52, 59)
  if attempt ~= '00000000' then attempt = format('%08.0f', tonumber(attempt) - 1) end
  redis.call('SET', KEYS[1], '1r' .. sub(rec, 3, 50) .. '0' .. attempt .. sub(rec, 60),
    'PX', keep(ARGV[2], token_of(rec), now))
else
  local token = mint(time, token_of(fence))
  if token >= 9007199254740992 then return {SPENT} end
  redis.call('SET', KEYS[1], tombstone(ARGV[1], token, now, 1), 'PX', keep(ARGV[3], token, now))
end
if held then clear(fence, KEYS[2], ARGV[2], now) end
if rec then wake(rec, KEYS[1]) end
return {OK}
