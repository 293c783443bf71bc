#!lua flags=allow-oom
-- Look after the rooms of keys, some at a time: a place whose job has ended, or is not about to run, is free; and who
-- waits for a free place goes on. Nothing is to be done here unless somebody wrote the keys who did not know of places.
-- KEYS: as in _keys.lua
-- ARGV: 1 cursor ("0" at first), 2 about how many rooms
-- Returns {cursor to go on from ("0" at the end), how many places were freed, 1 where names are being resumed}.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local LOOKED_AT = 200
local freed = 0

-- Whether a job has a right to its place: it stands in a stream, is held, or waits at the gate.
local function is_about(id)
  local fields = redis.call('HMGET', records .. id, 'state', 'entry', 'room')
  return fields[1] == 'queued' and (fields[2] ~= PARKED or fields[3] == 'gate')
end

local function look_after(key)
  for _, id in ipairs(redis.call('SRANDMEMBER', places .. key, LOOKED_AT)) do
    if not is_about(id) then freed = freed + redis.call('SREM', places .. key, id) end
  end
  fill_places(key)
end

local found = redis.call('SSCAN', crowded, ARGV[1], 'COUNT', ARGV[2])
for _, room in ipairs(found[2]) do
  local key = string.match(room, '^key:(.*)$')
  if key then look_after(key) end
  if redis.call('EXISTS', rooms .. room) == 0 then redis.call('SREM', crowded, room) end
end
return {found[1], freed, redis.call('HEXISTS', meta, 'resuming_jobs')}
