#!lua flags=allow-oom
-- Set how long dead jobs are kept, and how many; delete the oldest that are too old or too many, a bounded step per call.
-- KEYS: as in _keys.lua
-- ARGV: 1 TTL in ms, 2 how many are kept at most, 3 how many to look at
-- Returns {how many were taken off, 1 if there may be more}.
-- include: _keys.lua
redis.call('HSET', meta, 'dead_ttl', ARGV[1], 'dead_cap', ARGV[2])
local removed, excess = 0, redis.call('ZCARD', dead) - tonumber(ARGV[2])
local oldest = redis.call('ZRANGE', dead, 0, tonumber(ARGV[3]) - 1, 'WITHSCORES')
for i = 1, #oldest, 2 do
  local record = records .. oldest[i]
  local old = tonumber(oldest[i + 1]) < now - tonumber(ARGV[1])
  local is_dead = redis.call('HGET', record, 'state') == 'dead'
  if old or removed < excess or not is_dead then
    if is_dead then redis.call('DEL', record) end
    redis.call('ZREM', dead, oldest[i])
    removed = removed + 1
  end
end
return {removed, removed == tonumber(ARGV[3]) and 1 or 0}
