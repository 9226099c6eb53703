-- Purpose: store the outcome of the work, once, and hand the resource on.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  head: the grant
-- ARGV[2]  outcome: c completed, f failed for good
-- ARGV[3]  retention: how long the result stays, ms
-- ARGV[4]  payload
-- ARGV[5]  attempt, 8 digits; fingerprint: 2 digits of length, then its bytes
-- ARGV[6]  end of the lease as last confirmed, ms by the server's clock
-- ARGV[7]  optional, 1: a repeat writes the record again, for WAIT
-- Replies: {OK, '', when it finished} · {RESTORED, '', now} the record had been lost and is written anew · {FINISHED, record} by this grant, but otherwise
--   {LOST} nothing there, and too late to write it · {STALE, header} released, or another's · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: in progress, lapsed → completed or failed; absent → the same, before the lease's end only.
-- Repeating: the same outcome and payload by the same grant succeeds and writes nothing.
local rec = redis.pcall('GET', KEYS[1])
if type(rec) == 'string' and find(rec, '^1[cf]') and sub(rec, 3, 50) == sub(ARGV[1], 3) and not broken(rec) then
  if sub(rec, 2, 2) ~= ARGV[2] or sub(rec, 75 + num(rec, 60, 61)) ~= ARGV[4] then return {FINISHED, rec} end
  if ARGV[7] and sub(rec, 51, 51) == '0' then redis.call('SET', KEYS[1], rec, 'KEEPTTL') end
  return {OK, '', num(rec, 62, 74)}
end
local fence, refusal
if rec or KEYS[2] then
  fence, refusal = hold(rec, ARGV[1], KEYS[2])
  if refusal then return refusal end
end

local now = millis(redis.call('TIME'))
if not rec and now >= tonumber(ARGV[6]) then return {LOST} end
redis.call('SET', KEYS[1],
  '1' .. ARGV[2] .. sub(ARGV[1], 3) .. '0' .. sub(ARGV[5], 1, 10) .. format('%013.0f', now) .. sub(ARGV[5], 11) .. ARGV[4],
  'PX', keep(ARGV[3], num(ARGV[1], 35), now))
if fence then clear(fence, KEYS[2], ARGV[3], now) end
if not rec then return {RESTORED, '', now} end
wake(rec, KEYS[1])
return {OK, '', now}
