-- Purpose: store the outcome of the work, once, and hand the resource on.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  the record as it is to stand: c completed or f failed for good, the grant, mark 0, when it finished by the holder's reckoning of the server's clock
-- ARGV[2]  in one piece, since each argument costs the server as much as a short command; by position:
--    1  13  end of the lease as last confirmed, ms by the server's clock
--   14   1  w: a repeat writes the record again, for WAIT; otherwise -
--   15      retention: how long the result stays, ms
-- ARGV[3]  optional, by a holder within its lease, and in its first sending only: the record as it stands there, as far as the holder knows.
--   The time that its key has left is long enough.
-- Replies: when it finished, a string alone, stored · {OK, '', when it finished} · {RESTORED, '', now} the record had been lost and is written anew · {FINISHED, record} by this grant, but otherwise
--   {LOST} nothing there, and too late to write it · {STALE, header} released, or another's · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: in progress, lapsed → completed or failed; absent → the same, before the lease's end only.
-- Repeating: the same outcome and payload by the same grant succeeds and writes nothing.
local rec = redis.pcall('GET', KEYS[1])

-- The record as claim and renewals wrote it, nobody waiting, no resource: most completions, and they do not pay for what the
-- others need; comparing two strings costs Lua nothing. The key keeps the time that claim or renewal gave it, the retention
-- counted from the lease's end, so that no clock has to be asked.
if rec == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
  return string.sub(ARGV[1], 62, 74)
end
--[[COMMON]]
local stored, retention = ARGV[1], sub(ARGV[2], 15)
if type(rec) == 'string' and find(rec, '^1[cf]') and sub(rec, 3, 50) == sub(stored, 3, 50) and not broken(rec) then
  if sub(rec, 2, 2) ~= sub(stored, 2, 2) or sub(rec, 75 + num(rec, 60, 61)) ~= sub(stored, 75 + num(stored, 60, 61)) then
    return {FINISHED, rec}
  end
  if sub(ARGV[2], 14, 14) == 'w' and sub(rec, 51, 51) == '0' then redis.call('SET', KEYS[1], rec, 'KEEPTTL') end
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
if not rec and now >= num(ARGV[2], 1, 13) then return {LOST} end
redis.call('SET', KEYS[1], sub(stored, 1, 61) .. format('%013.0f', now) .. sub(stored, 75), 'PX', keep(retention, token_of(stored), now))
if fence then clear(fence, KEYS[2], retention, now) end
if not rec then return {RESTORED, '', now} end
wake(rec, KEYS[1])
return {OK, '', now}
