-- Purpose: one data command, in the same script as the check that the grant is current.
-- KEYS[1]  the record, or the fence of the resource
-- KEYS[2]  the user's key, in the same slot
-- ARGV[1]  head: the grant
-- ARGV[2]  the command, from the wrapper's allow-list
-- ARGV[3…] its arguments behind the key
-- Replies: {OK, the command's reply} · {STALE, header, or nothing where there is no record} · {FAILED, error} the command's own, in an array, lest somebody on the way takes it for the server's and sends it again
-- Moves: none of ours.
-- Repeating: runs the command again, so the wrapper sends it once.
local current = redis.pcall('GET', KEYS[1])
if not current then return {STALE} end
if type(current) == 'table' or sub(current, 1, 50) ~= ARGV[1] then
  if broken(current) then return refuse(current, 1) end
  return {STALE, sub(current, 1, 99)}
end
local reply = redis.pcall(ARGV[2], KEYS[2], unpack(ARGV, 3))
if type(reply) == 'table' and reply.err then return {FAILED, reply.err} end
return {OK, reply}
