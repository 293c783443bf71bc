#!lua flags=allow-oom
-- Set how many jobs of a queue may run at once, on all hosts together, and how many may start in a time.
-- KEYS: as in _keys.lua
-- ARGV: 1 limit ("" for none), 2 rate as <jobs>/<ms> ("" for none), 3 burst: how many may start at once ("" where there
--       is no rate)
-- Returns 1 changed, 0 it was so already.
-- What stands in the streams stays there; from now on what comes waits at the gate. A gate without limits lasts until
-- nobody waits there any more (see take.lua): nobody overtakes.
-- include: _keys.lua
-- include: _rooms.lua
local names, changed = {'limit', 'rate', 'burst'}, 0
local before = redis.call('HMGET', meta, unpack(names))
for i, name in ipairs(names) do
  if (before[i] or '') ~= ARGV[i] then changed = 1 end
  if ARGV[i] == '' then redis.call('HDEL', meta, name) else redis.call('HSET', meta, name, ARGV[i]) end
end
if changed == 0 then return 0 end
if ARGV[1] ~= '' or ARGV[2] ~= '' then
  redis.call('HSET', meta, 'gated', '1')
elseif redis.call('EXISTS', rooms .. 'gate') == 0 then
  redis.call('HDEL', meta, 'gated')
end
if not before[2] then redis.call('HDEL', gate, 'tokens', 'at') end -- a new bucket is full; a changed one keeps what it has
redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'limit')
return 1
