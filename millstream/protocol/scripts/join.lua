#!lua flags=allow-oom
-- Make a queue ready to be consumed: its streams, its group (at 0, so that nothing enqueued before is skipped),
-- and the owner's lease. Idempotent; also the answer to NOGROUP.
-- KEYS: 1 owners, 2-6 the streams
-- ARGV: 1 instance, 2 its lease in ms
-- Returns how many groups were made: 5 for a new queue, 0 for a known one.
local made = 0
for i = 2, 6 do
  local reply = redis.pcall('XGROUP', 'CREATE', KEYS[i], 'millstream', '0', 'MKSTREAM')
  if not reply.err then
    made = made + 1
  elseif not string.find(reply.err, 'BUSYGROUP', 1, true) then
    return reply
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return made
