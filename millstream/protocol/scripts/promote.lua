#!lua flags=allow-oom
-- Move the jobs whose time has come from `due` into their streams.
-- KEYS: as in _keys.lua
-- ARGV: 1 how many at most
-- Returns {how many were promoted, ms until the next is due (-1: there is none)}.
-- include: _keys.lua
-- include: _moves.lua
local promoted = 0
for _, id in ipairs(redis.call('ZRANGE', due, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local fields = redis.call('HMGET', records .. id, 'env', 'band', 'run', 'attempt', 'crashes')
  if fields[1] then
    local crashes = tonumber(fields[5]) or 0
    local job = {id = id, env = fields[1], band = fields[2], run = tonumber(fields[3]) or 1,
      attempt = tonumber(fields[4]) or 0, crashes = crashes, alone = crashes > 0}
    place(job, crashes > 0 and 'a' or letter_of(job.band))
    promoted = promoted + 1
  end
  redis.call('ZREM', due, id)
end
local next = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return {promoted, next[2] and math.max(0, tonumber(next[2]) - now) or -1}
