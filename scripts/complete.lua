-- Purpose: store the outcome of the work, once, and hand the resource on.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  the record as it is to stand: c completed or f failed for good, the grant, mark 0, when it finished by the holder's reckoning of the server's clock
-- ARGV[2]  retention: how long the result stays, ms
-- ARGV[3]  end of the lease as last confirmed, ms by the server's clock
-- ARGV[4]  optional, flags: k the holder is within its lease, and the time that its key has left is long enough; w a repeat writes the record again, for WAIT
-- Replies: when it finished, a string alone, stored · {OK, '', when it finished} · {RESTORED, '', now} the record had been lost and is written anew · {FINISHED, record} by this grant, but otherwise
--   {LOST} nothing there, and too late to write it · {STALE, header} released, or another's · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: in progress, lapsed → completed or failed; absent → the same, before the lease's end only.
-- Repeating: the same outcome and payload by the same grant succeeds and writes nothing.
local rec = redis.pcall('GET', KEYS[1])

-- The grant's own record as the claim wrote it, nobody waiting, no resource, a holder within its lease: most completions,
-- and they do not pay for what the others need. The key keeps the time that claim or renewal gave it, the retention
-- counted from the lease's end, so that no clock has to be asked. Equality with what the holder sent, up to the
-- fingerprint's length, and digits from there prove the record to be whole.
if rec and not KEYS[2] and ARGV[4] and string.sub(ARGV[4], 1, 1) == 'k' and string.sub(rec, 3, 61) == string.sub(ARGV[1], 3, 61)
  and #rec == 99 + string.sub(rec, 60, 61) and string.find(rec, '^1p') then
  local _, digits = string.find(rec, '^%d*', 62)
  if digits >= 99 then
    redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
    return string.sub(ARGV[1], 62, 74)
  end
end
--[[COMMON]]
local stored = ARGV[1]
if type(rec) == 'string' and find(rec, '^1[cf]') and sub(rec, 3, 50) == sub(stored, 3, 50) and not broken(rec) then
  if sub(rec, 2, 2) ~= sub(stored, 2, 2) or sub(rec, 75 + num(rec, 60, 61)) ~= sub(stored, 75 + num(stored, 60, 61)) then
    return {FINISHED, rec}
  end
  if ARGV[4] and find(ARGV[4], 'w', 1, true) and sub(rec, 51, 51) == '0' then redis.call('SET', KEYS[1], rec, 'KEEPTTL') end
  return {OK, '', num(rec, 62, 74)}
end
local head, fence, refusal = '1p' .. sub(stored, 3, 50), nil, nil
if rec then
  fence, refusal = hold(rec, head, KEYS[2])
elseif KEYS[2] then -- the record is lost, but its fence may still be this grant's
  fence = redis.pcall('GET', KEYS[2])
  refusal = select(2, hold(fence, head, nil, 2))
end
if refusal then return refusal end

local now = millis(redis.call('TIME'))
if not rec and now >= tonumber(ARGV[3]) then return {LOST} end
redis.call('SET', KEYS[1], sub(stored, 1, 61) .. format('%013.0f', now) .. sub(stored, 75), 'PX', keep(ARGV[2], token_of(stored), now))
if fence then clear(fence, KEYS[2], ARGV[2], now) end
if not rec then return {RESTORED, '', now} end
wake(rec, KEYS[1])
return {OK, '', now}
