-- Purpose: note that replicas hold a finished record, so that its replays need not write it again.
-- KEYS[1]  the record
-- ARGV[1]  its owner and token, as they stand in the record
-- Replies: {OK}
-- Moves: none, and the key's TTL stays.
-- Repeating: the note is made once, on that very record only.
local rec = redis.pcall('GET', KEYS[1])
if rec and not broken(rec) and find(rec, '^.[cf]') and sub(rec, 3, 51) == ARGV[1] .. '0' then
  redis.call('SET', KEYS[1], sub(rec, 1, 50) .. '1' .. sub(rec, 52), 'KEEPTTL')
end
return {OK}
