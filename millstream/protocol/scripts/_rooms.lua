-- Included before _moves.lua, and by enqueue.lua: the rooms, where jobs wait that may not run now.
-- A room is a sorted set, in the order in which its jobs go on: "gate" (the queue has a limit), "job:<name>" (the name
-- is paused), "key:<key>" (all places of the key are taken). A job in a room is `queued`, its entry is "z", and its
-- record holds the room's name, its envelope, its counters and the stream that it is to go to.
-- Needs `records` and `meta`.
local base = string.sub(records, 1, -5) -- what all keys of the queue begin with: that of the records goes on with "job:"
local rooms, parked, crowded, gate = base .. 'room:', base .. 'parked', base .. 'rooms', base .. 'gate'
local PARKED = 'z'
local RANKS = {a = 0, c = 1, h = 2, n = 3, l = 4}
local BAND = 2 ^ 40 -- numbers of one band in a room: a higher band goes first, whenever its jobs came
local NAMES = {a = 'again', c = 'critical', h = 'high', n = 'normal', l = 'low'}

local ruling
-- The switches of the queue, read once: paused, gated, and the names that are paused, each between two line ends.
local function rules()
  if not ruling then
    local found = redis.call('HMGET', meta, 'paused', 'gated', 'paused_jobs')
    ruling = {paused = found[1], gated = found[2], names = found[3]}
  end
  return ruling
end

-- The name of a job if it is among these; nil otherwise. Never raises.
local function name_among(names, env)
  if not names then return nil end
  local name = string.match(env, '^{"v":%d+,"n":"([%w_.%-]+)"')
  if not name then
    local ok, envelope = pcall(cjson.decode, env)
    name = ok and type(envelope) == 'table' and envelope.n
    if type(name) ~= 'string' or not string.match(name, '^[%w_.%-]+$') then return nil end
  end
  return string.find(names, '\n' .. name .. '\n', 1, true) and name or nil
end

-- Into a room, to go on to a stream (by its letter).
local function park(job, letter, room)
  local record, clock = records .. job.id, redis.call('TIME')
  redis.call('ZADD', rooms .. room, RANKS[letter] * BAND + redis.call('HINCRBY', gate, 'order', 1), job.id)
  redis.call('ZADD', parked, 'NX', clock[1] * 1000 + math.floor(clock[2] / 1000), job.id)
  redis.call('SADD', crowded, room)
  redis.call('HSET', record, 'state', 'queued', 'entry', PARKED, 'room', room, 'env', job.env, 'band', NAMES[letter],
    'run', job.run, 'attempt', job.attempt, 'crashes', job.crashes)
  if job.alone then redis.call('HSET', record, 'alone', 1) end
  redis.call('HDEL', record, 'due')
  redis.call('PERSIST', record)
end

-- Out of a room: the last step, once the job stands elsewhere, or has ended.
local function leave(id, room)
  local now_in = redis.call('HGET', records .. id, 'room')
  if now_in == room then return end
  redis.call('ZREM', rooms .. room, id)
  if not now_in then redis.call('ZREM', parked, id) end
  if redis.call('EXISTS', rooms .. room) == 0 then redis.call('SREM', crowded, room) end
end

-- A job that waits in a room ends there.
local function walk_out(id)
  local room = redis.call('HGET', records .. id, 'room')
  redis.call('HDEL', records .. id, 'room', 'alone')
  if room then leave(id, room) else redis.call('ZREM', parked, id) end
end
