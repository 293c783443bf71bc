#!lua flags=allow-oom
-- Delete the consumers of dead processes, each only if it holds nothing, and forget owners without consumers.
-- KEYS: as in _keys.lua
-- ARGV: 1 the caller's instance, 2 N, then N consumers of it that are alive, then other instances that are alive
-- Returns how many consumers were deleted.
-- include: _keys.lua
local own, alive, busy, deleted = {}, {}, {}, 0
for i = 3, #ARGV do
  if i <= 2 + tonumber(ARGV[2]) then own[ARGV[i]] = true else alive[ARGV[i]] = true end
end
busy[ARGV[1]] = true
for _, letter in ipairs(LETTERS) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', streams[letter], GROUP)
  for _, row in ipairs(consumers.err and {} or consumers) do
    local name, pending, idle = row[2], row[4], row[6]
    local instance = string.match(name, '^[^:]*')
    local lease = tonumber(redis.call('HGET', owners, instance) or 30000)
    local living = alive[instance] or own[name]
    if not living and pending == 0 and idle > lease then
      redis.call('XGROUP', 'DELCONSUMER', streams[letter], GROUP, name)
      deleted = deleted + 1
    else
      if not living and idle == 0 then -- seen in the future: the clock was set back; from now on it is seen now
        redis.call('XREADGROUP', 'GROUP', GROUP, name, 'COUNT', 1, 'STREAMS', streams[letter], '0')
      end
      busy[instance] = true
    end
  end
end
for _, instance in ipairs(redis.call('HKEYS', owners)) do
  if not busy[instance] and not alive[instance] then redis.call('HDEL', owners, instance) end
end
return deleted
