-- Purpose: keep what the holder has done so far for the attempt that may follow it.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- ARGV[1]  head: the grant
-- ARGV[2]  sequence number, 10 digits, rising with every checkpoint of the key
-- ARGV[3]  data
-- Replies: {OK} · {LOST} nothing there · {STALE, header} ended, another's, or a later checkpoint is there · {CORRUPT, header, n} KEYS[n] is none of ours
-- Moves: none; in progress and lapsed keep their state.
-- Repeating: the same number with the same data is a copy and succeeds; an older one never overwrites a newer.
local rec = redis.pcall('GET', KEYS[1])
local _, refusal = hold(rec, ARGV[1], KEYS[2])
if refusal then return refusal end

local from = 100 + num(rec, 60, 61)
local there = sub(rec, from, from + 9)
if there == ARGV[2] and sub(rec, from + 10) == ARGV[3] then return {OK} end
if there >= ARGV[2] then return {STALE, sub(rec, 1, 99)} end
redis.call('SET', KEYS[1], sub(rec, 1, from - 1) .. ARGV[2] .. ARGV[3], 'KEEPTTL')
return {OK}
