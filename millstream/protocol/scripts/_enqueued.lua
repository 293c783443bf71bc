-- Included where jobs come into a queue: how many came, by kind and name, for metrics.
-- Needs `enqueued`: a hash, <kind>:<name of the job> -> count. A name is what anybody may have sent: beyond so many
-- fields, new ones are counted as unknown.
local ENQUEUED_FIELDS = 1000
local UNKNOWN = '(unknown)'
local came = {}

-- The name in an envelope. Never raises; what we encode ourselves is not parsed.
local function name_of(env)
  local name = string.match(env, '^{"v":%d+,"n":"([%w_.%-]+)"')
  if not name then
    local ok, envelope = pcall(cjson.decode, env)
    name = ok and type(envelope) == 'table' and envelope.n
    if type(name) ~= 'string' or not string.match(name, '^[%w_.%-]+$') then return UNKNOWN end
  end
  return #name <= 100 and name or UNKNOWN
end

-- A job is in its place: it came as "immediate", "delayed" or "retry".
local function note_enqueued(kind, env)
  local field = kind .. ':' .. name_of(env)
  came[field] = (came[field] or 0) + 1
end

-- A job was moved back after a run that counted, unless it ended instead (see _moves.lua).
local function note_retry(job)
  if not job.cancelled then note_enqueued('retry', job.env) end
end

-- Count what was noted, each field once. The last thing that a script does, and under pcall: no job fails for it.
local function count_enqueued()
  for field, count in pairs(came) do
    local total = redis.call('HINCRBY', enqueued, field, count)
    if total == count and redis.call('HLEN', enqueued) > ENQUEUED_FIELDS then
      local kind, name = string.match(field, '^(%a+):(.*)$')
      if name ~= UNKNOWN then
        redis.call('HDEL', enqueued, field)
        redis.call('HINCRBY', enqueued, kind .. ':' .. UNKNOWN, count)
      end
    end
  end
end
