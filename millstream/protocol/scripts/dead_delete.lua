#!lua flags=allow-oom
-- Delete dead jobs and their records.
-- KEYS: as in _keys.lua
-- ARGV: job ids
-- Returns one number per id: 1 deleted; 0 it is not dead.
-- include: _keys.lua
local replies = {}
for i, id in ipairs(ARGV) do
  replies[i] = redis.call('ZREM', dead, id)
  if replies[i] == 1 and redis.call('HGET', records .. id, 'state') == 'dead' then redis.call('DEL', records .. id) end
end
return replies
