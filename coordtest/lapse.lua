-- Purpose: move the end of a live lease into the past, as if its time had run out.
-- KEYS[1]  the record
-- KEYS[2]  the fence of the resource; none without a resource
-- Replies: 1 lapsed, 0 nobody holds a lease there
-- docs/protocol.md has the record's form: version and state, then owner and token up to 50, the end from 62 to 74.
local rec = redis.call('GET', KEYS[1])
if not rec or string.sub(rec, 1, 2) ~= '1p' then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
if tonumber(string.sub(rec, 62, 74)) <= now then return 0 end

local function lapse(name, text)
  redis.call('SET', name, string.sub(text, 1, 61) .. string.format('%013.0f', now - 1) .. string.sub(text, 75), 'KEEPTTL')
end
lapse(KEYS[1], rec)
local fence = KEYS[2] and redis.call('GET', KEYS[2])
if fence and string.sub(fence, 1, 50) == string.sub(rec, 1, 50) then lapse(KEYS[2], fence) end
return 1
