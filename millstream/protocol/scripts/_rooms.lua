-- Included before _moves.lua, and by enqueue.lua: the rooms, where jobs wait that may not run now.
-- A room is a sorted set, in the order in which its jobs go on: "gate" (the queue has a limit), "job:<name>" (the name
-- is paused), "key:<key>" (all places of the key are taken). A job in a room is `queued`, its entry is "z", and its
-- record holds the room's name, its envelope, its counters and the stream that it is to go to.
-- A key's places are a set of the ids of the jobs that have one: in a stream, running, held, or at the gate.
-- Needs `records` and `meta`; `place` and `job_of` are in _moves.lua.
local base = string.sub(records, 1, -5) -- what all keys of the queue begin with: that of the records goes on with "job:"
local rooms, parked, crowded, gate = base .. 'room:', base .. 'parked', base .. 'rooms', base .. 'gate'
local places = base .. 'key:'
local place, job_of
local PARKED = 'z'
local RANKS = {a = 0, c = 1, h = 2, n = 3, l = 4}
local BAND = 2 ^ 40 -- numbers of one band in a room: a higher band goes first, whenever its jobs came
local APART = {'timeouts', 'memory'} -- counters that few jobs have: absent for 0
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
  for _, name in ipairs(APART) do
    if (job[name] or 0) > 0 then redis.call('HSET', record, name, job[name]) end
  end
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

-- The key of a job, and how many of that key may run at once; nil for a plain job, whose record is not looked at.
local function key_of(job)
  if not string.find(job.env, '"key":', 1, true) then return nil end
  local fields = redis.call('HMGET', records .. job.id, 'key', 'places')
  return fields[1] or nil, tonumber(fields[2] or '') or 1
end

-- Whether a job has a place among those of its key; it takes a free one, but before nobody who waits (`waited`: it did).
local function find_place(id, key, most, waited)
  if redis.call('SISMEMBER', places .. key, id) == 1 then return true end
  if not waited and redis.call('EXISTS', rooms .. 'key:' .. key) == 1 then return false end
  if redis.call('SCARD', places .. key) >= most then return false end
  redis.call('SADD', places .. key, id)
  return true
end

-- Let those go on who wait for a place of this key, as far as there are some; what is left is for maintenance.
local function fill_places(key)
  local room = 'key:' .. key
  for _ = 1, 100 do
    local id = redis.call('ZRANGE', rooms .. room, 0, 0)[1]
    local job = id and job_of(id)
    if not id then return end
    if job and job.room == room then
      local _, most = key_of(job)
      if redis.call('SCARD', places .. key) >= (most or 1) then return end -- nil: its envelope knows of no key
      place(job, string.sub(job.band, 1, 1), false, true)
    end
    leave(id, room)
  end
end

-- Give up the place that a job has, if it has one.
local function release_key(id, key)
  if key and redis.call('SREM', places .. key, id) == 1 then fill_places(key) end
end

-- The job cannot run for now: it keeps nobody from the places of its key.
local function step_aside(job)
  local key = key_of(job)
  if key then release_key(job.id, key) end
end

-- Into the room of its name, which is paused.
local function set_aside(job, letter, name)
  park(job, letter, 'job:' .. name)
  step_aside(job)
end
