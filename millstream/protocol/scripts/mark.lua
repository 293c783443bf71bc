#!lua flags=allow-oom
-- Note that a job which runs alone has really started, so that only this run is counted if its owner's lease expires.
-- KEYS: 1 record, 2 the stream of its entry
-- ARGV: 1 ref, 2 consumer, 3 number of crashes with which the job is dead ("" where its owner's group says so), 4 "1"
--       where its application wants to be told of its death, else ""
-- Returns 1, or 0 where the entry is no longer pending for this consumer: the job must not be started.
if #redis.call('XPENDING', KEYS[2], 'millstream', string.sub(ARGV[1], 2), string.sub(ARGV[1], 2), 1, ARGV[2]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'started', ARGV[1])
for i, name in ipairs({'limit', 'tell'}) do
  if ARGV[i + 2] ~= '' then redis.call('HSET', KEYS[1], name, ARGV[i + 2]) else redis.call('HDEL', KEYS[1], name) end
end
return 1
