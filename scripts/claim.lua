-- Purpose: one claimer gets the lease; the others learn what there is instead.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  what is asked for, in one piece, since each argument costs the server as much as a short command. By position:
--    1  32  owner: hex, the same in every copy of one claim
--   33  12  length: of the lease and its grace, ms; not over the lifetime
--   45  12  lifetime: from now to the maximum end, ms
--   57      fingerprint: 2 digits of length, then its bytes
-- ARGV[2]  how long the record stays, ms: the length, and the retention by which it outlives the lease
-- ARGV[3]  optional, from when on the key may be claimed, and until when if nothing is known of it, by when the client made it: ms since 1970, 13 digits each; empty: always
-- ARGV[4]  optional, flags: q a lapsed lease is answered UNCERTAIN, w an answer that rests on the record writes it again for WAIT
-- ARGV[5]  optional, token that the grant's must exceed; 0 none
-- Replies: the record alone: in progress, granted just now (now is its end less its length); or finished, as FINISHED
--   {OK, record, now, 1 or 0} granted, 1 by taking a lapsed lease over; or granted before to this owner · {OVER} this owner's grant has ended: draw a new one
--   {MISMATCH}, also where a record alone has another fingerprint, which the client sees · {FINISHED, record} · {IN_PROGRESS, header, now} · {BLOCKED, fence header, now, attempt} another key holds the resource
--   {UNCERTAIN} · {KEY_EXPIRED} · {AHEAD, n} ARGV[n] is too far ahead of the clock · {SPENT} no token left below 2^53 · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: absent, released, lapsed → in progress.
-- Repeating: the owner is kept in the record in every state, so a copy finds its own grant (unchanged) or finds it over.

-- Nothing there, no resource, no options but when the key was made: most claims, and they do not pay for what the others need. The key
-- stays for 10 s at least, so that keep() has nothing to add to a token that is the clock's. Numbers are put
-- together as text, which has them whole, since formatting them costs as much as one more command.
local name, asked, ttl, window, flags = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local rec = redis.pcall('GET', name)
if not rec and not flags and not KEYS[2] and #ttl > 4 then
  local sub, time = string.sub, redis.call('TIME')
  local secs, micros = time[1], sub('00000' .. time[2], -6)
  if #secs == 10 and secs < '9007199254' then -- from 2001 on, and the token below 2^53
    local now = secs .. sub(micros, 1, 3)
    if not window or now >= sub(window, 1, 13) and now <= sub(window, 14) then
      local length = sub(asked, 33, 44)
      rec = '1p' .. sub(asked, 1, 32) .. secs .. micros .. '000000001' .. sub(asked, 57, 58)
        .. now + tonumber(length) .. length .. now + tonumber(sub(asked, 45, 56)) .. sub(asked, 59)
      redis.call('SET', name, rec, 'PX', ttl)
      return rec
    end
  end
end

-- An outcome: nearly all other claims. The client finds out whether the record is whole, and is for its fingerprint.
if not flags and type(rec) == 'string' then
  local version, state = string.byte(rec, 1, 2)
  if version == 49 and (state == 99 or state == 102) then return rec end
end
--[[COMMON]]

-- An end that a stepped clock left too far away is cut to the lease's own length.
local function cut(there, key, now, stop, write)
  if stop < num(there, 62, 74) then
    there, write = with_end(there, now, stop), true
  end
  if write then redis.call('SET', key, there, 'KEEPTTL') end
  return there
end

-- The lease that stands is the answer. For WAIT it is written again.
local function stands(code, there, fence, now, write, whole)
  local stop = lease_end(there, fence, now)
  if fence and sub(fence, 1, 50) == sub(there, 1, 50) then
    cut(fence, KEYS[2], now, stop, write)
  elseif fence and sub(fence, 2, 2) == 'p' then
    cut(fence, KEYS[2], now, end_of(fence, now), write)
  end
  there = cut(there, name, now, stop, write)
  if whole then return {code, there, now} end
  return {code, sub(there, 1, 99), now}
end

local owner, print = sub(asked, 1, 32), sub(asked, 57)
flags = flags or ''
local rewrite = find(flags, 'w', 1, true)
local state, attempt, mark, checkpoint = nil, 1, '0', ''
if rec then
  if broken(rec) then return refuse(rec, 1) end
  state = sub(rec, 2, 2)
  local size, from = num(rec, 60, 61), 100
  if state == 'c' or state == 'f' then from = 75 end
  if size == 99 then
    size = 0
  elseif sub(rec, 60, 61) .. sub(rec, from, from - 1 + size) ~= print then
    return {MISMATCH}
  end
  if from == 75 then
    if rewrite and sub(rec, 51, 51) == '0' then redis.call('SET', name, rec, 'KEEPTTL') end
    return {FINISHED, rec}
  end
  attempt = math.min(num(rec, 52, 59) + 1, 99999999)
  mark, checkpoint = sub(rec, 51, 51), sub(rec, 100 + size)
end

local fence = KEYS[2] and redis.pcall('GET', KEYS[2])
if fence and broken(fence) then return refuse(fence, 2) end

local time = redis.call('TIME')
local now = millis(time)
if rec and sub(rec, 3, 34) == owner then
  local live = state == 'p' and now < lease_end(rec, fence, now)
  if live and (not KEYS[2] or fence and sub(fence, 1, 50) == sub(rec, 1, 50)) then
    return stands(OK, rec, fence, now, rewrite, true)
  end
  return {OVER}
end
if state == 'p' then
  if now < lease_end(rec, fence, now) then return stands(IN_PROGRESS, rec, fence, now) end
  if find(flags, 'q', 1, true) then return {UNCERTAIN} end
end
if fence and sub(fence, 2, 2) == 'p' and sub(fence, 3, 34) ~= owner then
  local stop = end_of(fence, now)
  if now < stop then
    fence = cut(fence, KEYS[2], now, stop)
    return {BLOCKED, sub(fence, 1, 99), now, rec and num(rec, 52, 59) or 0}
  end
end

local last = math.max(token_of(rec), token_of(fence))
local floor = tonumber(ARGV[5] or 0)
if floor > now * 1000 + 86400000000 then return {AHEAD, 5} end
if window and window ~= '' then
  if now < num(window, 1, 13) then return {AHEAD, 3} end
  -- The tombstone of a give back is no answer to whether the key has run.
  local unknown = not rec or state == 'r' and num(rec, 87, 99) == 1
  if unknown and now > num(window, 14, 26) then return {KEY_EXPIRED} end
end
last = math.max(last, floor)
local token = mint(time, last)
if token >= 9007199254740992 then return {SPENT} end

local lease = format('%013.0f%s%013.0f', now + num(asked, 33, 44), sub(asked, 33, 44), now + num(asked, 45, 56))
local head = format('1p%s%016.0f', owner, token)
ttl = keep(ttl, token, now)
rec = head .. mark .. format('%08.0f', attempt) .. sub(print, 1, 2) .. lease .. sub(print, 3) .. checkpoint
redis.call('SET', name, rec, 'PX', ttl)
if KEYS[2] then
  local waited = fence and sub(fence, 51, 51) or '0'
  redis.call('SET', KEYS[2], head .. waited .. '0000000000' .. lease .. '0000000000' .. name, 'PX', ttl)
end
return {OK, rec, now, state == 'p' and 1 or 0}
