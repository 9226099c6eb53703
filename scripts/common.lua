-- Shared by every script: this text is put in front of each verb when the scripts are embedded.
--
-- A record is one string. Positions count from 1; numbers are decimal and padded with zeros, so that
-- two of them compare as text.
--
--     1   1  version       '1'
--     2   1  state         p in progress (lapsed once its end has passed), r released, c completed, f failed
--     3  32  owner         lower-case hex, drawn for one claim
--    35  16  token
--    51   1  mark          p: how waiters listen, 0 nobody, 1 PUBLISH, 2 SPUBLISH, 3 both; c, f: 1 once replicas confirmed it
--    52   8  attempt
--    60   2  fingerprint   its length, 00 to 64; 99: bound to none yet
--    62  13  end           p, r: the lease's end; c, f: when it finished; ms by the server's clock
--    75  12  length        p, r: of the lease and its grace, ms
--    87  13  maximum       p, r: the end that no renewal passes, ms; in a tombstone 0, or 1 where a give back made it
--   100      p, r: the fingerprint, then nothing or a checkpoint: 10 digits of sequence number and its data
--    75      c, f: the fingerprint, then the result
--
-- The first 50 bytes of a record in progress (version, state, owner, token) are its head: the proof of a grant.
-- A resource's fence has the same form: attempt 0, no fingerprint, state p while somebody holds it and
-- r when nobody does; where a record has its checkpoint it has the name of the record that holds it.

-- luacheck: push ignore 211 431
-- What a script answers first. internal/protocol decodes it; a number never changes its meaning.
local OK, OVER, MISMATCH, IN_PROGRESS, FINISHED, UNCERTAIN, LOST, STALE = 0, 1, 2, 3, 4, 5, 6, 7
local ABSENT, CORRUPT, MOVED_ON, RESTORED, KEY_EXPIRED, AHEAD, SPENT, BLOCKED = 8, 9, 10, 11, 12, 13, 14, 15
local FAILED = 16

local sub, find, format = string.sub, string.find, string.format

-- A number out of a record. Arithmetic on the text itself would take its leading zeros for octal in miniredis.
local function num(rec, from, to) return tonumber(sub(rec, from, to)) end

-- A value that this version must not judge: another type, another program's, cut off, of a newer version.
local function broken(rec)
  if type(rec) == 'table' or #rec < 74 or not find(rec, '^1[cfpr]')
    or find(sub(rec, 3, 34), '[^0-9a-f]') or find(sub(rec, 35, 74), '%D') then
    return true
  end
  local print = num(rec, 60, 61)
  if print == 99 then print = 0 elseif print > 64 then return true end
  if find(rec, '^.[cf]') then return #rec < 74 + print end
  if #rec < 99 + print or find(sub(rec, 75, 99), '%D') then return true end
  local tail = sub(rec, 100 + print, 109 + print)
  return tail ~= '' and (#tail < 10 or find(tail, '%D') ~= nil)
end

-- The answer for such a value of KEYS[n]; GET's own error where it is not about the value.
local function refuse(rec, n)
  if type(rec) ~= 'table' then return {CORRUPT, sub(rec, 1, 99), n} end
  if find(rec.err, '^WRONGTYPE') then return {CORRUPT, 'WRONGTYPE', n} end
  return rec
end

-- The fence of a holder whose grant is current, none without a resource; or the answer where it is not.
local function hold(rec, head, name, n)
  if not rec then return nil, {LOST} end
  if broken(rec) then return nil, refuse(rec, n or 1) end
  if sub(rec, 1, 50) ~= head then return nil, {STALE, sub(rec, 1, 99)} end
  if not name then return nil end
  local fence = redis.pcall('GET', name)
  local _, refusal = hold(fence, head, nil, 2)
  return fence, refusal
end

local function millis(time)
  return time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
end

-- A token above `last` that is not below the clock, so that it rises also over a lost record.
local function mint(time, last)
  local token = time[1] * 1000000 + time[2]
  if last >= token then return last + 1 end
  return token
end

local function token_of(rec)
  if rec then return num(rec, 35, 50) end
  return 0
end

-- How long to keep a key, ms: as asked, but not less than until the clock has passed its token by a
-- second; were it gone before, the next token could be lower.
local function keep(ttl, token, now)
  local floor = (token - token % 1000) / 1000 + 1001 - now
  return math.max(floor, tonumber(ttl))
end

-- The end of a lease; where the clock was stepped back behind its beginning, the end that keeps its length.
local function end_of(rec, now)
  local stored, bound = num(rec, 62, 74), now + num(rec, 75, 86)
  if stored > bound then return bound end
  return stored
end

-- The same with a resource: its fence has an end too, and a claim of another key may have cut that one alone.
local function lease_end(rec, fence, now)
  local stop = end_of(rec, now)
  if fence and sub(fence, 1, 50) == sub(rec, 1, 50) then return math.min(stop, end_of(fence, now)) end
  return stop
end

local function with_end(rec, now, stop)
  return sub(rec, 1, 61) .. format('%013.0f%012.0f', stop, stop - now) .. sub(rec, 87)
end

-- Tell those who wait. Last in every script, and by pcall: no channel or permission can fail what was written.
local function wake(rec, channel)
  local mark = sub(rec, 51, 51)
  if mark == '1' or mark == '3' then redis.pcall('PUBLISH', channel, '') end
  if mark == '2' or mark == '3' then redis.pcall('SPUBLISH', channel, '') end
end

-- A record that nobody holds, with the token raised over everything granted before. Its maximum says who made it.
local function tombstone(owner, token, now, maximum)
  return format('1r%s%016.0f00000000099%013.0f%025d', owner, token, now, maximum)
end

-- Nobody holds the resource any more; its token stays.
local function clear(fence, name, ttl, now)
  redis.call('SET', name, '1r' .. sub(fence, 3, 50) .. '0' .. sub(fence, 52), 'PX', keep(ttl, token_of(fence), now))
  wake(fence, name)
end
-- luacheck: pop
