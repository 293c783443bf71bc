#!lua flags=allow-oom
-- Pause one job name of a queue: no job of it starts any more; those that wait, or come, wait in a room of their own.
-- KEYS: as in _keys.lua
-- ARGV: 1 name
-- Returns 1 paused (also where a resume was under way); 0 it was paused already; -1 too many names are paused.
-- include: _keys.lua
local name = ARGV[1] .. '\n'
local found = redis.call('HMGET', meta, 'paused_jobs', 'resuming_jobs')
local names, resuming = found[1] or '\n', found[2] or '\n'
local first, last = string.find(resuming, '\n' .. name, 1, true)
if first then
  resuming = string.sub(resuming, 1, first) .. string.sub(resuming, last + 1)
  if resuming == '\n' then
    redis.call('HDEL', meta, 'resuming_jobs')
  else
    redis.call('HSET', meta, 'resuming_jobs', resuming)
  end
elseif string.find(names, '\n' .. name, 1, true) then
  return 0
elseif #names > 10000 then
  return -1
else
  redis.call('HSET', meta, 'paused_jobs', names .. name)
end
redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'pause')
return 1
