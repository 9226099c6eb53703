-- Purpose: a user's script, in the same script as the check that the grant is current.
-- KEYS[1]  the record, or the fence of the resource
-- KEYS[2…] the user's keys, in the same slot; his text sees them as KEYS[1…]
-- ARGV[1]  head: the grant
-- ARGV[2…] the user's arguments; his text sees them as ARGV[1…]
-- Replies: {OK, the text's reply} · {STALE, header, or nothing where there is no record} · {FAILED, error} the text's own, in an array, lest somebody on the way takes it for the server's and sends it again
-- Moves: none of ours.
-- Repeating: runs the text again, so the wrapper sends it once.
local current = redis.pcall('GET', KEYS[1])
if not current then return {STALE} end
if type(current) == 'table' or sub(current, 1, 50) ~= ARGV[1] then
  if broken(current) then return refuse(current, 1) end
  return {STALE, sub(current, 1, 99)}
end
table.remove(KEYS, 1)
table.remove(ARGV, 1)
-- The wrapper puts the user's text in the place of the line below.
local function user(...) --[[TEXT]] end -- luacheck: ignore 212
local ran, reply = pcall(user)
if type(reply) == 'table' and reply.err then return {FAILED, reply.err} end
if not ran then return {FAILED, 'ERR ' .. reply} end
return {OK, reply}
