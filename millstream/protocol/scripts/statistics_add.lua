#!lua flags=allow-oom
-- Add what one supervisor has counted to the statistics of a queue: once, however often the call is sent.
-- KEYS: 1 a prefix, followed by
--   minutes:<hour>     hash: <minute of the hour>:<job> -> counts (a JSON object of numbers)
--   hours:<day>        hash: <hour of the day>:<job> -> counts
--   names              hash: job -> the hour in which it was counted last
--   added:<instance>   string: the number of its last batch
--   Hours and days are those of the Unix epoch, by the server's clock.
-- ARGV: 1 instance, 2 number of the batch (from 1), then per job 2: name, counts
-- Returns {number of the last batch of the instance, whether this call has added it (1) or nothing (0)}.
-- A number above ARGV 2 means that the caller has forgotten how far it was: what it sent was counted before.
local prefix, number = KEYS[1], tonumber(ARGV[2])
local NAMES = 500
local UNKNOWN = '(unknown)'
local HOUR, DAY = 3600, 86400
local MINUTES_TTL, HOURS_TTL = 26 * HOUR * 1000, 32 * DAY * 1000 -- a little more than is read: 24 hours, 30 days
local NAMES_KEPT = 32 * 24 -- hours

local added = prefix .. 'added:' .. ARGV[1]
local last = tonumber(redis.call('GET', added)) or 0
if last >= number then return {last, 0} end

local now = tonumber(redis.call('TIME')[1])
local hour = math.floor(now / HOUR)
local names, known, room = prefix .. 'names', {}, NAMES
local flat = redis.call('HGETALL', names)
for i = 1, #flat, 2 do
  if hour - (tonumber(flat[i + 1]) or 0) > NAMES_KEPT then
    redis.call('HDEL', names, flat[i])
  else
    known[flat[i]], room = flat[i + 1], room - 1
  end
end

-- Beyond so many names, new ones are counted as unknown.
local function name_of(job)
  if known[job] or job == UNKNOWN then return job end
  if room <= 0 then return UNKNOWN end
  room = room - 1
  return job
end

local function sum(counts, more)
  for what, count in pairs(more) do counts[what] = (tonumber(counts[what]) or 0) + count end
  return counts
end

local came = {}
for i = 3, #ARGV, 2 do
  local job = name_of(ARGV[i])
  came[job] = sum(came[job] or {}, cjson.decode(ARGV[i + 1]))
  known[job] = known[job] or ''
end

local function decoded(text)
  local ok, counts = pcall(cjson.decode, text or '{}')
  return ok and type(counts) == 'table' and counts or {}
end

-- The fields of one hash as they will be. Everything is read before anything is written: an error changes nothing.
local function fields_of(key, place)
  local fields, values = {}, {}
  for job in pairs(came) do fields[#fields + 1] = place .. ':' .. job end
  for i, text in ipairs(redis.call('HMGET', key, unpack(fields))) do
    local job = string.sub(fields[i], #tostring(place) + 2)
    values[#values + 1] = fields[i]
    values[#values + 1] = cjson.encode(sum(decoded(text), came[job]))
  end
  return values
end

local minutes, hours = prefix .. 'minutes:' .. hour, prefix .. 'hours:' .. math.floor(now / DAY)
local of_minute = fields_of(minutes, math.floor(now % HOUR / 60))
local of_hour = fields_of(hours, hour % 24)
redis.call('HSET', minutes, unpack(of_minute))
redis.call('PEXPIRE', minutes, MINUTES_TTL)
redis.call('HSET', hours, unpack(of_hour))
redis.call('PEXPIRE', hours, HOURS_TTL)
for job in pairs(came) do
  if job ~= UNKNOWN and known[job] ~= tostring(hour) then redis.call('HSET', names, job, hour) end
end
redis.call('PEXPIRE', names, HOURS_TTL)
redis.call('SET', added, number, 'PX', HOURS_TTL)
return {number, 1}
