-- Purpose: a waiter asks to be woken when the lease that it waits for ends.
-- KEYS[1]  the record, or the fence of the resource
-- ARGV[1]  how the waiter listens: 1 PUBLISH, 2 SPUBLISH
-- Replies: {IN_PROGRESS, header, now} marked · {MOVED_ON} nothing to wait for: look again · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: none, and the key's TTL stays.
-- Repeating: a mark is set once; where the lease has ended nothing is written.
local rec = redis.pcall('GET', KEYS[1])
if not rec then return {MOVED_ON} end
if broken(rec) then return refuse(rec, 1) end
if sub(rec, 2, 2) ~= 'p' then return {MOVED_ON} end
local now = millis(redis.call('TIME'))
if now >= end_of(rec, now) then return {MOVED_ON} end
local mark = sub(rec, 51, 51)
if mark ~= ARGV[1] and mark ~= '3' then
  mark = mark == '0' and ARGV[1] or '3'
  redis.call('SET', KEYS[1], sub(rec, 1, 50) .. mark .. sub(rec, 52), 'KEEPTTL')
end
return {IN_PROGRESS, sub(rec, 1, 99), now}
