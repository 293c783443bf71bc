#!lua
-- Enqueue jobs of one queue, each once. Refused as a whole when the server is at maxmemory.
-- KEYS: 1 records (a prefix), 2 due, 3 held, 4 control, 5 meta, 6-9 the streams critical, high, normal, low,
--       10 enqueued, 11 uniques (a prefix)
-- ARGV: per job 5: id, letter of its band, envelope, delay in ms ("" for now), nonce ("" for a generated id) or extras
--       (see _extras.lua)
-- Returns one reply per job:
--   1 created; 0 a job with this id exists already (or ended lately). With a nonce, 1 also where this very call
--   was executed before and its reply was lost; a text: the id of the living job that holds its unique key: nothing
--   was enqueued.
local records, due, held, control, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local streams = {c = KEYS[6], h = KEYS[7], n = KEYS[8], l = KEYS[9]}
local enqueued, uniques = KEYS[10], KEYS[11]
local bands = {c = 'critical', h = 'high', n = 'normal', l = 'low'}
local replies = {}
-- include: _enqueued.lua
-- include: _holds.lua
-- include: _extras.lua
local rule = redis.call('HMGET', meta, 'paused', 'gated', 'paused_jobs')
local paused, gated, names = rule[1], rule[2], rule[3]
local put_aside, room_for

local function postpone(record, id, letter, env, delay)
  local clock = redis.call('TIME')
  local at = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(delay)
  redis.call('HSET', record, 'state', 'scheduled', 'env', env, 'band', bands[letter], 'run', 1, 'attempt', 0,
    'crashes', 0, 'due', at)
  redis.call('ZADD', due, at, id)
  if redis.call('ZRANGE', due, 0, 0)[1] == id then
    redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'wake')
  end
end

local extras_of = read_extras()
if gated or names or next(extras_of) then -- else nobody has to wait in a room, and that costs nothing
-- include: _rooms.lua
  put_aside = park

  -- The room in which a job has to wait; nil where there is none for it.
  function room_for(id, env, extras)
    local name = name_among(names, env)
    if name then return 'job:' .. name end
    local key = extras and extras.key
    if key and not find_place(id, key, math.floor(extras.places)) then return 'key:' .. key end
    return gated and not paused and 'gate' or nil
  end
end

for i = 1, #ARGV, 5 do
  local id, letter, env, delay, nonce = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local record, extras = records .. id, extras_of[i + 4]
  if extras then nonce = extras.nonce end
  if redis.call('EXISTS', record) == 1 then
    replies[#replies + 1] = nonce ~= '' and redis.call('HGET', record, 'nonce') == nonce and 1 or 0
  elseif extras and extras.unique and holder_of(extras.unique) then
    replies[#replies + 1] = holder_of(extras.unique)
  else
    local room = room_for and delay == '' and room_for(id, env, extras)
    if delay ~= '' then
      postpone(record, id, letter, env, delay)
    elseif room then
      put_aside({id = id, env = env, run = 1, attempt = 0, crashes = 0}, letter, room)
    elseif paused then
      local entry = redis.call('XADD', held, '*', 'id', id, 'env', env, 'band', bands[letter])
      redis.call('HSET', record, 'state', 'queued', 'entry', 'x' .. entry)
    else
      local entry = redis.call('XADD', streams[letter], '*', 'id', id, 'env', env)
      redis.call('HSET', record, 'state', 'queued', 'entry', letter .. entry)
    end
    if nonce ~= '' then redis.call('HSET', record, 'nonce', nonce) end
    if extras then keep_extras(record, id, extras, delay) end
    note_enqueued(delay ~= '' and 'delayed' or 'immediate', env)
    replies[#replies + 1] = 1
  end
end
pcall(count_enqueued)
return replies
