#!lua flags=allow-oom
-- A guarded job is about to start: whether it may, and what its start changes. To ask again changes nothing more.
-- KEYS: as in _keys.lua
-- ARGV: 1 ref, 2 consumer, 3 job id, 4 "1" where it runs alone: its start is noted, so that only a run that was really
--       on is counted if its owner's lease expires; 5 number of crashes with which it is dead then ("" where its owner's
--       group says so), 6 "1" where its application wants to be told of its death, else ""
-- Returns {code, ms of the epoch after which it is not started again (0 for never)}:
--   1 start it (a lock that is held until the start is free now); 0 the entry is no longer pending for this consumer;
--   2 its time is over: settle it as expired
-- include: _keys.lua
-- include: _holds.lua
local ref, consumer, id = ARGV[1], ARGV[2], ARGV[3]
local stream, entry = streams[string.sub(ref, 1, 1)], string.sub(ref, 2)
if #redis.call('XPENDING', stream, GROUP, entry, entry, 1, consumer) == 0 then return {0, 0} end
local record = redis.call('HMGET', records .. id, 'entry', 'expires', 'unique', 'unique_until')
local ours = record[1] == ref -- else the entry carries the id of a job that is elsewhere
local expires = ours and tonumber(record[2] or 0) or 0
if expires > 0 and now >= expires then return {2, expires} end
if ARGV[4] == '1' then
  redis.call('HSET', records .. id, 'started', ref)
  for i, name in ipairs({'limit', 'tell'}) do
    local value = ARGV[i + 4]
    if value ~= '' then redis.call('HSET', records .. id, name, value) else redis.call('HDEL', records .. id, name) end
  end
end
if ours and record[4] == 'started' then release_unique(id, record[3]) end
return {1, expires}
