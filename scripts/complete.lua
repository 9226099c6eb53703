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
-- Replies: now, a number alone, stored · {OK, '', when it finished} · {RESTORED, '', now} the record had been lost and is written anew · {FINISHED, record} by this grant, but otherwise
--   {LOST} nothing there, and too late to write it · {STALE, header} released, or another's · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: in progress, lapsed → completed or failed; absent → the same, before the lease's end only.
-- Repeating: the same outcome and payload by the same grant succeeds and writes nothing.
local rec = redis.pcall('GET', KEYS[1])

-- The grant's own record as the claim wrote it, nobody waiting, no resource, a token not ahead of the clock: most
-- completions, and they do not pay for what the others need. Equality with what the holder sent proves every
-- field but the lease's numbers to be whole.
if rec and not KEYS[2] and #rec == 89 + #ARGV[5] and string.sub(rec, 1, 61) == ARGV[1] .. '0' .. string.sub(ARGV[5], 1, 10) then
  local _, digits = string.find(rec, '^%d*', 62)
  if digits >= 99 then
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    now = (now - now % 1000) / 1000
    local finished = string.format('%013d', now)
    if #ARGV[3] > 4 and string.sub(rec, 35, 47) <= finished then
      redis.call('SET', KEYS[1],
        '1' .. ARGV[2] .. string.sub(rec, 3, 61) .. finished .. string.sub(ARGV[5], 11) .. ARGV[4], 'PX', ARGV[3])
      return now
    end
  end
end
--[[COMMON]]
if type(rec) == 'string' and find(rec, '^1[cf]') and sub(rec, 3, 50) == sub(ARGV[1], 3) and not broken(rec) then
  if sub(rec, 2, 2) ~= ARGV[2] or sub(rec, 75 + num(rec, 60, 61)) ~= ARGV[4] then return {FINISHED, rec} end
  if ARGV[7] and sub(rec, 51, 51) == '0' then redis.call('SET', KEYS[1], rec, 'KEEPTTL') end
  return {OK, '', num(rec, 62, 74)}
end
local fence, refusal
if rec then
  fence, refusal = hold(rec, ARGV[1], KEYS[2])
elseif KEYS[2] then -- the record is lost, but its fence may still be this grant's
  fence = redis.pcall('GET', KEYS[2])
  refusal = select(2, hold(fence, ARGV[1], nil, 2))
end
if refusal then return refusal end

local now = millis(redis.call('TIME'))
if not rec and now >= tonumber(ARGV[6]) then return {LOST} end
redis.call('SET', KEYS[1],
  '1' .. ARGV[2] .. sub(ARGV[1], 3) .. '0' .. sub(ARGV[5], 1, 10) .. format('%013.0f', now) .. sub(ARGV[5], 11) .. ARGV[4],
  'PX', keep(ARGV[3], num(ARGV[1], 35), now))
if fence then clear(fence, KEYS[2], ARGV[3], now) end
if not rec then return {RESTORED, '', now} end
wake(rec, KEYS[1])
return {OK, '', now}
