#!lua flags=allow-oom
-- Move the jobs whose time has come from `due` into their streams.
-- KEYS: as in _keys.lua
-- ARGV: 1 how many at most
-- Returns {how many were promoted, ms until the next is due (-1: there is none), how many were no jobs: forgotten}.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local promoted, broken = 0, 0

local function promote(id)
  local fields = redis.call('HMGET', records .. id, 'env', 'band', 'run', 'attempt', 'crashes', 'state', unpack(APART))
  if not fields[1] or fields[6] ~= 'scheduled' and fields[6] ~= 'retrying' then return end -- it waits no more
  local crashes = counter(fields[5], 0)
  local job = {id = id, env = fields[1], band = fields[2] or band_of(fields[1]), run = counter(fields[3], 1),
    attempt = counter(fields[4], 0), crashes = crashes, alone = crashes > 0,
    timeouts = counter(fields[7], 0), memory = counter(fields[8], 0)}
  place(job, crashes > 0 and 'a' or streams[letter_of(job.band)] and letter_of(job.band) or 'n')
  promoted = promoted + 1
end

for _, id in ipairs(redis.call('ZRANGE', due, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  if not pcall(promote, id) then broken = broken + 1 end -- not ours: it must not keep the others from their time
  redis.call('ZREM', due, id)
end
local next = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return {promoted, next[2] and math.max(0, tonumber(next[2]) - now) or -1, broken}
