#!lua flags=allow-oom
-- Resume a job name that is paused, a bounded step per call: its jobs leave their room, in order. Until the last step
-- new ones still go to the end of the room, so that none overtakes an older one.
-- KEYS: as in _keys.lua
-- ARGV: 1 name ("" for any that somebody began to resume), 2 how many to move at most
-- Returns {code, how many were moved}:
--   done  none waits in the room any more
--   more  call again
--   open  it was not paused, or (where no name is given) none is being resumed
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local lists = redis.call('HMGET', meta, 'paused_jobs', 'resuming_jobs')
local name, moved = ARGV[1], 0
if name == '' then name = string.match(lists[2] or '', '[^\n]+') end

-- Change one of the lists of names; without names there is no field.
local function save(field, list)
  if list == '\n' then redis.call('HDEL', meta, field) else redis.call('HSET', meta, field, list) end
end

local function without(list)
  local first, last = string.find(list, '\n' .. name .. '\n', 1, true)
  return first and string.sub(list, 1, first) .. string.sub(list, last + 1) or list
end

if not name or not string.find(lists[1] or '', '\n' .. name .. '\n', 1, true) then
  if name and lists[2] then save('resuming_jobs', without(lists[2])) end
  return {'open', 0}
end
if not string.find(lists[2] or '', '\n' .. name .. '\n', 1, true) then
  lists[2] = (lists[2] or '\n') .. name .. '\n'
  save('resuming_jobs', lists[2])
  redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'resume')
end

local room = 'job:' .. name
for _, id in ipairs(redis.call('ZRANGE', rooms .. room, 0, tonumber(ARGV[2]) - 1)) do
  local job = job_of(id)
  if job and job.room == room then
    place(job, streams[letter_of(job.band)] and letter_of(job.band) or 'n', true)
    moved = moved + 1
  end
  leave(id, room)
end
if redis.call('EXISTS', rooms .. room) == 1 then return {'more', moved} end
save('resuming_jobs', without(lists[2]))
save('paused_jobs', without(lists[1]))
return {'done', moved}
