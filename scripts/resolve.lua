-- Purpose: an operator settles a key whose lease lapsed with effects that are uncertain.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  owner and token, as they stood in the record that was read before; 16 zeros when there was none
-- ARGV[2]  what it becomes: r released, c completed, f failed for good
-- ARGV[3]  payload of the result; empty for r
-- ARGV[4]  retention of the result or the released record, ms
-- Replies: {OK} · {ABSENT} nothing there to settle, or released · {IN_PROGRESS, header, now} · {FINISHED, record} otherwise
--   {MOVED_ON} lapsed again since it was read · {SPENT} no token left below 2^53 · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: lapsed → released, completed, failed; the token is raised, so that the old holder is stale.
-- Repeating: a copy finds the asked outcome there and succeeds, or finds something newer and writes nothing.
local rec = redis.pcall('GET', KEYS[1])
if not rec then return {ABSENT} end
if broken(rec) then return refuse(rec, 1) end
local state, size = sub(rec, 2, 2), num(rec, 60, 61)
if state == 'r' then
  if ARGV[2] == 'r' then return {OK} end
  return {ABSENT}
end
if state ~= 'p' then
  if state == ARGV[2] and sub(rec, 75 + size) == ARGV[3] then return {OK} end
  return {FINISHED, rec}
end
local fence = KEYS[2] and redis.pcall('GET', KEYS[2])
if fence and broken(fence) then return refuse(fence, 2) end

local time = redis.call('TIME')
local now = millis(time)
if now < lease_end(rec, fence, now) then return {IN_PROGRESS, sub(rec, 1, 99), now} end
if sub(rec, 3, 50) ~= ARGV[1] then return {MOVED_ON} end
local token = mint(time, math.max(token_of(rec), token_of(fence)))
if token >= 9007199254740992 then return {SPENT} end
local settled = '1' .. ARGV[2] .. sub(rec, 3, 34) .. format('%016.0f', token) .. '0' .. sub(rec, 52, 61)
if ARGV[2] == 'r' then
  settled = settled .. sub(rec, 62)
else
  settled = settled .. format('%013.0f', now) .. sub(rec, 100, 99 + size) .. ARGV[3]
end
redis.call('SET', KEYS[1], settled, 'PX', keep(ARGV[4], token, now))
if fence and sub(fence, 2, 2) == 'p' and sub(fence, 110) == KEYS[1] then clear(fence, KEYS[2], ARGV[4], now) end
wake(rec, KEYS[1])
return {OK}
