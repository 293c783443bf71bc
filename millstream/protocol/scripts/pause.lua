#!lua flags=allow-oom
-- Pause a queue: nothing more is fetched, and what is enqueued or given back from now on waits in `held`.
-- KEYS: as in _keys.lua
-- ARGV: -
-- Returns 1 paused (also where a resume was under way); 0 it was paused already.
-- include: _keys.lua
if redis.call('HGET', meta, 'paused') == '1' then return 0 end
redis.call('HSET', meta, 'paused', '1')
redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'pause')
return 1
