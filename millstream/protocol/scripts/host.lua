#!lua flags=allow-oom
-- A supervisor's name in the registry of hosts: claim it, keep it alive, or leave.
-- KEYS: 1 hosts
-- ARGV: 1 name, 2 instance, 3 what: claim | beat | leave, 4 heartbeat (JSON object without "at"), 5 instance that
--       is known to be gone ("" for none)
-- Returns "" when done, or the heartbeat of the live supervisor that holds the name.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local current = redis.call('HGET', KEYS[1], ARGV[1])
if current then
  local ok, holder = pcall(cjson.decode, current)
  if ok and holder.instance ~= ARGV[2] then
    local alive = now - holder.at < holder.lease * 1000
    if alive and holder.instance ~= ARGV[5] then
      if holder.at > now then -- the clock was set back since: if it is dead, its name is free a lease from now
        redis.call('HSET', KEYS[1], ARGV[1], (string.gsub(current, '^{"at":%d+', '{"at":' .. string.format('%d', now))))
      end
      return current
    end
    if ARGV[3] == 'leave' then return '' end
  end
end
if ARGV[3] == 'leave' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], '{"at":' .. string.format('%d', now) .. ',' .. string.sub(ARGV[4], 2))
end
return ''
