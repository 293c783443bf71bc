-- Included where `records` and `uniques` are known: what a job holds until its end, how it is taken, how it is freed.
-- Each part is freed only where this very job holds it: to free twice, or after another has taken it, changes nothing.
local LIVE = {scheduled = true, queued = true, retrying = true}

-- The id of the living job that holds the lock of a key, or nil. Who has ended, or has no record, holds nothing.
local function holder_of(digest)
  local holder = redis.pcall('GET', uniques .. digest)
  if type(holder) ~= 'string' then return nil end
  local state = redis.pcall('HGET', records .. holder, 'state')
  return type(state) == 'string' and LIVE[state] and holder or nil
end

-- Take a lock that no living job holds, for so many milliseconds; a lost end frees it then.
local function take_unique(id, digest, lifetime) redis.call('SET', uniques .. digest, id, 'PX', lifetime) end

local function release_unique(id, digest)
  if digest and redis.call('GET', uniques .. digest) == id then redis.call('DEL', uniques .. digest) end
end

-- A job that has ended is to run again: take its lock anew. Returns the id of the living job that holds it now, if any.
local function retake(id)
  local fields = redis.call('HMGET', records .. id, 'unique', 'unique_for')
  if not fields[1] then return nil end
  local holder = holder_of(fields[1])
  if not holder then take_unique(id, fields[1], tonumber(fields[2])) end
  return holder
end

-- The job has ended, or is about to lose its record: free all that it holds.
local function release(id)
  local fields = redis.call('HMGET', records .. id, 'unique', 'key')
  release_unique(id, fields[1])
  release_key(id, fields[2])
end
