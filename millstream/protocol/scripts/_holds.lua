-- Included after _keys.lua, before _moves.lua: what a job holds until its end, and how that is freed.
-- Each part is freed only where this very job holds it: to free twice, or after another has taken it, changes nothing.

-- The lock of a unique job.
local function release_unique(id, digest)
  if digest and redis.call('GET', uniques .. digest) == id then redis.call('DEL', uniques .. digest) end
end

-- The job has ended, or is about to lose its record: free all that it holds.
local function release(id)
  local fields = redis.call('HMGET', records .. id, 'unique')
  release_unique(id, fields[1])
end
