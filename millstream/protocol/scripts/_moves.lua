-- Included after _keys.lua and _holds.lua: the moves of one job that several transitions share.
-- A job here is a table {id, env, band, run, attempt, crashes, alone}, maybe with {timeouts, memory}: runs that were
-- counted apart. `cancelled` is set where it has ended instead of being moved.
-- Each move writes the new place first; the caller removes the old one last, so that an error in between
-- leaves the job where it was.
local DEAD_TTL = 7 * 24 * 3600 * 1000 -- where maintenance has not said otherwise
local CANCELLED_TTL = 24 * 3600 * 1000
local DEAD_CAP = 10000
local DEAD_STEP = 100 -- old ones that one burial deletes at most: should the cap have been lowered
local HISTORY_CAP = 1000
local TRIES_CAP = 262144

local function letter_of(band) return string.sub(band, 1, 1) end

local function band_of(env)
  local ok, envelope = pcall(cjson.decode, env)
  local band = ok and type(envelope) == 'table' and envelope.p
  if band == 'critical' or band == 'high' or band == 'low' then return band end
  return 'normal'
end

-- A counter of an entry: what is out of range, or no number, was not written by us.
local function counter(text, least)
  local number = tonumber(text)
  return number and number >= least and number < 2147483648 and math.floor(number) or least
end

-- A job whose fields are those of an entry, with its counters as numbers.
local function with_counters(job)
  job.run, job.attempt, job.crashes = counter(job.run, 1), counter(job.attempt, 0), counter(job.crashes, 0)
  for _, name in ipairs(APART) do job[name] = counter(job[name], 0) end
  return job
end

-- The job that stands at an entry, or nil where the entry is gone.
local function job_at(ref)
  local id = string.sub(ref, 2)
  local found = redis.call('XRANGE', streams[string.sub(ref, 1, 1)] or held, id, id)[1]
  if not found then return nil end
  local fields, job = found[2], {}
  for i = 1, #fields, 2 do job[fields[i]] = fields[i + 1] end
  return with_counters(job)
end

local function wake() redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'wake') end

-- Wake whoever waits for the end of this job.
local function notify(id)
  local count = tonumber(redis.call('HGET', waiting, id) or 0)
  if count <= 0 then return end
  for _ = 1, math.min(count, 1000) do redis.call('LPUSH', waits .. id, 1) end
  redis.call('PEXPIRE', waits .. id, 60000)
  redis.call('HDEL', waiting, id)
end

-- A cancellation was asked for while the job was delivered: it ends here, instead of running again.
local function cancelled(job)
  local record = records .. job.id
  if redis.call('HDEL', record, 'cancel') == 0 then return false end
  job.cancelled = true
  redis.call('HSET', record, 'state', 'cancelled', 'env', job.env, 'run', job.run)
  redis.call('HDEL', record, 'entry') -- whoever held it has not settled it
  redis.call('PEXPIRE', record, CANCELLED_TTL)
  redis.call('HINCRBY', stats, 'cancelled', 1)
  redis.call('LPUSH', history, job.id)
  redis.call('LTRIM', history, 0, HISTORY_CAP - 1)
  release(job.id)
  notify(job.id)
  return true
end

-- What an entry says of a job. A first delivery carries no counters.
local function fields_of(job)
  local entry = {'id', job.id, 'env', job.env}
  if job.run > 1 or job.attempt > 0 or job.crashes > 0 then
    for _, name in ipairs({'run', 'attempt', 'crashes'}) do
      entry[#entry + 1] = name
      entry[#entry + 1] = job[name]
    end
    for _, name in ipairs(APART) do
      if (job[name] or 0) > 0 then
        entry[#entry + 1] = name
        entry[#entry + 1] = job[name]
      end
    end
    if job.alone then
      entry[#entry + 1] = 'alone'
      entry[#entry + 1] = 1
    end
  end
  return entry
end

-- The record of a job that stands at an entry now.
local function stands_at(id, ref)
  redis.call('HSET', records .. id, 'state', 'queued', 'entry', ref)
  redis.call('HDEL', records .. id, 'env', 'band', 'run', 'attempt', 'crashes', 'due', 'room', 'alone',
    unpack(APART))
  redis.call('PERSIST', records .. id)
end

-- Into a stream (by its letter), whatever the rules of the queue say.
local function enter(job, letter)
  stands_at(job.id, letter .. redis.call('XADD', streams[letter], '*', unpack(fields_of(job))))
end

-- To where a job belongs that is ready to run: into a stream (by its letter), or where the queue's rules have it wait:
-- in a room, or in `held` while the queue is paused. `resumed`: its name is paused no more, whatever the rules say;
-- `waited`: it comes from the room of its key.
function place(job, letter, resumed, waited)
  if cancelled(job) then return end
  local rule = rules()
  local name = not resumed and name_among(rule.names, job.env)
  local key, most = key_of(job)
  if name then
    set_aside(job, letter, name)
  elseif key and not find_place(job.id, key, most, waited) then
    park(job, letter, 'key:' .. key)
  elseif rule.paused then
    local entry = fields_of(job)
    entry[#entry + 1] = 'band'
    entry[#entry + 1] = letter == 'a' and 'again' or job.band or band_of(job.env)
    stands_at(job.id, 'x' .. redis.call('XADD', held, '*', unpack(entry)))
  elseif rule.gated then
    park(job, letter, 'gate')
  else
    enter(job, letter)
  end
end

-- The job of a record that carries its envelope: of one that is due, or in a room; nil where it does not.
function job_of(id)
  local fields = redis.call('HMGET', records .. id, 'env', 'band', 'run', 'attempt', 'crashes', 'alone', 'room',
    unpack(APART))
  if not fields[1] then return nil end
  return {id = id, env = fields[1], band = fields[2] or band_of(fields[1]), run = counter(fields[3], 1),
    attempt = counter(fields[4], 0), crashes = counter(fields[5], 0), alone = fields[6], room = fields[7],
    timeouts = counter(fields[8], 0), memory = counter(fields[9], 0)}
end

-- Into `due`, to be promoted after `delay` milliseconds.
local function postpone(job, state, delay)
  if cancelled(job) then return end
  local at = now + delay
  redis.call('HSET', records .. job.id, 'state', state, 'env', job.env, 'band', job.band or band_of(job.env),
    'run', job.run, 'attempt', job.attempt, 'crashes', job.crashes, 'due', at)
  for _, name in ipairs(APART) do
    if (job[name] or 0) > 0 then redis.call('HSET', records .. job.id, name, job[name]) end
  end
  redis.call('HDEL', records .. job.id, 'entry')
  redis.call('PERSIST', records .. job.id)
  redis.call('ZADD', due, at, job.id)
  if redis.call('ZRANGE', due, 0, 0)[1] == job.id then wake() end
  step_aside(job)
end

-- Take an entry from whoever holds it. `requeue` puts its job elsewhere, by default into `again`, uncounted; what is
-- no job is delivered anew as it is, for a worker to bury. Returns whether it was a job.
local function take_back(letter, id, requeue)
  local stream, job = streams[letter], job_at(letter .. id)
  local is_job = job and job.id and job.env
  if is_job and requeue then
    requeue(letter .. id, job)
  elseif is_job then
    job.run = job.run + 1
    place(job, 'a')
  elseif job then
    local fields = redis.call('XRANGE', stream, id, id)[1][2]
    redis.call('XADD', stream, '*', unpack(fields, 1, math.min(#fields, 1000))) -- Lua cannot pass on any number
  end
  redis.call('XACK', stream, GROUP, id)
  redis.call('XDEL', stream, id)
  return is_job
end

-- The row of a run that was not the last: kept with the record, bounded.
local function remember(id, row)
  if row == '' then return end
  local tries = redis.call('HGET', records .. id, 'tries')
  if tries and #tries + #row < TRIES_CAP then row = tries .. ',' .. row end
  redis.call('HSET', records .. id, 'tries', row)
end

-- Into the dead letters, with all that a retry of it needs.
local function bury(job, ref, row)
  local record = records .. job.id
  redis.call('HSET', record, 'state', 'dead', 'entry', ref, 'out', row, 'run', job.run, 'attempt', job.attempt,
    'crashes', job.crashes)
  if job.env then redis.call('HSET', record, 'env', job.env, 'band', job.band or band_of(job.env)) end
  redis.call('HDEL', record, 'cancel')
  local limits = redis.call('HMGET', meta, 'dead_ttl', 'dead_cap')
  redis.call('PEXPIRE', record, tonumber(limits[1]) or DEAD_TTL)
  redis.call('ZADD', dead, now, job.id)
  for _ = 1, math.min(DEAD_STEP, redis.call('ZCARD', dead) - (tonumber(limits[2]) or DEAD_CAP)) do
    local oldest = records .. redis.call('ZPOPMIN', dead)[1]
    if redis.call('HGET', oldest, 'state') == 'dead' then redis.call('DEL', oldest) end
  end
  redis.call('LPUSH', history, job.id)
  redis.call('LTRIM', history, 0, HISTORY_CAP - 1)
  release(job.id)
  notify(job.id)
  return 'dead'
end
