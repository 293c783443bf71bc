#!lua flags=allow-oom
-- Deliver up to N jobs of a queue that has a limit, or of which some names are paused: as fetch.lua does, but no more
-- than may start now. What waits at the gate enters its stream only here, to be delivered in the same step: so a
-- blocking read never finds a job that may not start, and every delivery is counted where it happens.
-- KEYS: as in _keys.lua
-- ARGV: 1 consumer, 2 N
-- Returns {server time in ms, code, ms until it is worth to ask again, letter, entries, letter, entries ...}:
--   code 0 there are no rules any more: ask fetch.lua; 1 the queue is paused; 2 only names are paused: a blocking
--   read is right where nothing was delivered; 3 there is a gate, or more to put aside: a blocking read would find
--   nothing, or what may not start
-- Errors: NOGROUP where the queue was never joined, or was flushed.
-- include: _keys.lua
-- include: _waiting.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local LOOK, LOOKED_AT = 100, 200
local switches = redis.call('HMGET', meta, 'resuming_jobs', 'limit', 'rate', 'burst')
local gated, limit, rate = rules().gated, tonumber(switches[2] or ''), switches[3]
if rules().paused == '1' then return {now, 1, LOOK} end

-- Names that are being resumed pass: what stands in a stream was moved there.
local paused = rules().names
for name in string.gmatch(switches[1] or '', '[^\n]+') do
  local first, last = string.find(paused or '', '\n' .. name .. '\n', 1, true)
  if first then paused = string.sub(paused, 1, first) .. string.sub(paused, last + 1) end
end

local most, wait, looked = tonumber(ARGV[2]), LOOK, 0

-- The bucket: so many jobs per so many milliseconds, and never more than `burst` at once.
local tokens
local function fill()
  local jobs, period = string.match(rate, '^(%d+)/(%d+)$')
  local burst = tonumber(switches[4] or '') or 1
  local bucket = redis.call('HMGET', gate, 'tokens', 'at')
  local pace, past = jobs / period, math.max(0, now - (tonumber(bucket[2] or '') or now))
  tokens = math.min(burst, (tonumber(bucket[1] or '') or burst) + past * pace)
  most = math.min(most, math.floor(tokens))
  if tokens < 1 then wait = math.min(LOOK, math.max(1, math.ceil((1 - tokens) / pace))) end
end

if limit then
  for _, letter in ipairs(LETTERS) do limit = limit - (group_of(streams[letter]).pending or 0) end
  most = math.min(most, 1, limit) -- one at a time: what is delivered has its place, whether or not it runs yet
end
if rate then fill() end

local function read(letter, count)
  local found = redis.call('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', count, 'STREAMS', streams[letter], '>')
  return found and found[1][2] or {}
end

-- Of what was read, what may run; a job whose name is paused goes to its room.
local function sort_out(letter, entries, chosen)
  for _, entry in ipairs(entries) do
    local job = paused and job_at(letter .. entry[1])
    local name = job and job.id and job.env and name_among(paused, job.env)
    if name then
      set_aside(job, letter, name)
      redis.call('XACK', streams[letter], GROUP, entry[1])
      redis.call('XDEL', streams[letter], entry[1])
    else
      chosen[#chosen + 1] = entry
    end
    looked = looked + 1
  end
end

-- Let up to so many jobs of one band pass the gate, into their stream; returns whether any was there.
local function admit(letter, count)
  local first = RANKS[letter] * BAND
  local ids = redis.call('ZRANGE', rooms .. 'gate', first, '(' .. first + BAND, 'BYSCORE', 'LIMIT', 0, count)
  for _, id in ipairs(ids) do
    local job = job_of(id)
    local name = job and name_among(paused, job.env)
    if name then
      set_aside(job, letter, name)
    elseif job and job.room == 'gate' then
      enter(job, letter)
    end
    leave(id, 'gate')
    looked = looked + 1
  end
  return #ids > 0
end

local reply, delivered = {now, gated and 3 or 2, wait}, 0
for _, letter in ipairs(LETTERS) do
  local chosen, room = {}, math.min(letter == 'a' and 1 or most, most - delivered)
  while #chosen < room and looked < LOOKED_AT do
    local entries = read(letter, room - #chosen)
    if #entries == 0 and not (gated and admit(letter, room - #chosen)) then break end
    sort_out(letter, entries, chosen)
  end
  if #chosen > 0 then
    reply[#reply + 1] = letter
    reply[#reply + 1] = chosen
    delivered = delivered + #chosen
    if letter == 'a' or delivered >= most then break end
  end
end

if rate then redis.call('HSET', gate, 'tokens', tokens - delivered, 'at', now) end
if gated and not limit and not rate and redis.call('EXISTS', rooms .. 'gate') == 0 then
  redis.call('HDEL', meta, 'gated')
  redis.call('HDEL', gate, 'tokens', 'at')
  gated = nil
end
if not gated then reply[2] = rules().names and 2 or 0 end
if looked >= LOOKED_AT then reply[2], reply[3] = 3, 1 end -- there may be more of paused names behind
return reply
