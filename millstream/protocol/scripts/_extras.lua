-- Included by enqueue.lua after _holds.lua: what a job may have beyond what every job has. In the place of its nonce stands
-- a JSON object then:
--   nonce       as it would stand there otherwise
--   unique      the key of its lock, 1 to 200 bytes; with `unique_for`, ms for which it is held at most, after the delay
--   until       "started": the lock is free once the job starts, else at its end
--   expires     ms from now after which the job is not started any more
--   key         its concurrency key, 1 to 200 bytes; with `places`: how many jobs of that key run at once
local LONGEST = 2 ^ 52

local function is_span(number) return type(number) == 'number' and number >= 1 and number < LONGEST end

local function is_name(text) return type(text) == 'string' and #text >= 1 and #text <= 200 end

-- The extras at this place of ARGV, nil where there are none. Raises an error where they cannot be what was meant.
local function extras_at(at)
  local text = ARGV[at]
  if string.sub(text, 1, 1) ~= '{' then return nil end
  local ok, extras = pcall(cjson.decode, text)
  if not ok then return nil end -- a nonce that looks like it
  local unique, key = extras.unique, extras.key
  local right = type(extras.nonce) == 'string' and (extras.expires == nil or is_span(extras.expires))
    and (unique == nil or is_name(unique) and is_span(extras.unique_for))
    and (key == nil or is_name(key) and is_span(extras.places))
  if not right then error({err = 'ERR the extras of job ' .. ARGV[at - 4] .. ' are not valid: nothing was enqueued'}) end
  return extras
end

-- All that can be wrong is found before the first job is written: there is no way back then.
local function read_extras()
  local found = {}
  for at = 5, #ARGV, 5 do
    if ARGV[at] ~= '' then found[at] = extras_at(at) end
  end
  return found
end

-- Note in a new job's record what it has, and take its lock.
local function keep_extras(record, id, extras, delay)
  if extras.key then redis.call('HSET', record, 'key', extras.key, 'places', math.floor(extras.places)) end
  if extras.expires then
    local clock = redis.call('TIME')
    redis.call('HSET', record, 'expires', clock[1] * 1000 + math.floor(clock[2] / 1000) + math.floor(extras.expires))
  end
  if extras.unique then
    local lifetime = math.floor(extras.unique_for)
    redis.call('HSET', record, 'unique', extras.unique, 'unique_for', lifetime)
    if extras['until'] == 'started' then redis.call('HSET', record, 'unique_until', 'started') end
    take_unique(id, extras.unique, lifetime + (tonumber(delay) or 0))
  end
end
