#!lua flags=allow-oom
-- Cancel a job that waits; ask the supervisors to stop one that runs.
-- KEYS: as in _keys.lua
-- ARGV: 1 job id, 2 TTL of the record in ms
-- Returns {code, state}: "ok" cancelled; "running" a request was published; "ended" too late; "absent" unknown.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local id, record = ARGV[1], records .. ARGV[1]
local fields = redis.call('HMGET', record, 'state', 'entry')
local state, entry = fields[1], fields[2]
if not state then return {'absent', ''} end

if state == 'scheduled' or state == 'retrying' then
  redis.call('ZREM', due, id)
elseif state == 'queued' then
  local letter, entry_id = string.sub(entry, 1, 1), string.sub(entry, 2)
  local job
  if letter == 'x' then
    job = job_at(entry)
    redis.call('XDEL', held, entry_id)
  elseif letter == PARKED then
    walk_out(id)
  else
    local pending = redis.pcall('XPENDING', streams[letter], GROUP, entry_id, entry_id, 1)
    if not pending.err and #pending == 1 then
      redis.call('HSET', record, 'cancel', entry) -- should it be given back or retried before the request arrives
      redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'cancel', 'id', id, 'entry', entry)
      return {'running', 'running'}
    end
    job = job_at(entry)
    redis.call('XDEL', streams[letter], entry_id)
  end
  if job then redis.call('HSET', record, 'env', job.env, 'run', job.run) end
else
  return {'ended', state}
end
redis.call('HSET', record, 'state', 'cancelled')
redis.call('HDEL', record, 'due')
redis.call('PEXPIRE', record, ARGV[2])
redis.call('HINCRBY', stats, 'cancelled', 1)
redis.call('LPUSH', history, id)
redis.call('LTRIM', history, 0, HISTORY_CAP - 1)
release(id)
notify(id)
return {'ok', state}
