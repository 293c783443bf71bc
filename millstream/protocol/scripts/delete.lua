#!lua flags=allow-oom
-- Delete the records of jobs that have ended; their ids are free again.
-- KEYS: as in _keys.lua
-- ARGV: job ids
-- Returns one text per id: "deleted", "absent", or the state of a job that has not ended.
-- include: _keys.lua
local OPEN = {scheduled = true, queued = true, retrying = true}
local replies = {}
for i, id in ipairs(ARGV) do
  local state = redis.call('HGET', records .. id, 'state')
  if not state then
    replies[i] = 'absent'
  elseif OPEN[state] then
    replies[i] = state
  else
    redis.call('ZREM', dead, id)
    redis.call('DEL', records .. id)
    replies[i] = 'deleted'
  end
end
return replies
