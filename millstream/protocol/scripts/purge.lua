#!lua flags=allow-oom
-- Remove waiting jobs and their records, a bounded step per call: those in rooms, undelivered entries, held ones,
-- optionally due ones.
-- What was delivered (pending: running) is never touched.
-- KEYS: as in _keys.lua
-- ARGV: 1 how many to remove at most, 2 "1" for the due jobs too, "0" to leave them
-- Returns {how many were removed, 1 if there may be more: call again}.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
-- include: _waiting.lua
local limit, removed = tonumber(ARGV[1]), 0

local function forget(id, ref)
  local record = records .. id
  local fields = redis.pcall('HMGET', record, 'state', 'entry')
  local waits = fields[1] == 'scheduled' or fields[1] == 'retrying'
  if ref and fields[2] ~= ref or not ref and not waits then return end -- its job is elsewhere
  release(id)
  redis.call('DEL', record)
  notify(id)
end

for _, id in ipairs(redis.call('ZRANGE', parked, 0, limit - 1)) do
  if redis.call('ZSCORE', parked, id) then -- else it has just got a place, and comes below
    walk_out(id)
    forget(id, PARKED)
    redis.call('ZREM', parked, id)
    removed = removed + 1
  end
end

-- A group that was rebuilt at an older id has entries after its last one that are pending nevertheless.
local function is_pending(stream, id)
  local rows = redis.pcall('XPENDING', stream, GROUP, id, id, 1)
  return not rows.err and #rows > 0
end

for _, letter in ipairs(LETTERS) do
  local stream, after = streams[letter], '(' .. last_delivered(streams[letter])
  local rows = removed < limit and redis.call('XRANGE', stream, after, '+', 'COUNT', limit - removed) or {}
  for _, row in ipairs(rows) do
    if not is_pending(stream, row[1]) then
      local id = id_of(row[2])
      if id then forget(id, letter .. row[1]) end
      redis.call('XDEL', stream, row[1])
      removed = removed + 1
    end
  end
end

for _, row in ipairs(removed < limit and redis.call('XRANGE', held, '-', '+', 'COUNT', limit - removed) or {}) do
  local id = id_of(row[2])
  if id then forget(id, 'x' .. row[1]) end
  redis.call('XDEL', held, row[1])
  removed = removed + 1
end

for _, id in ipairs(ARGV[2] == '1' and removed < limit and redis.call('ZRANGE', due, 0, limit - removed - 1) or {}) do
  forget(id)
  redis.call('ZREM', due, id)
  removed = removed + 1
end
if removed > 0 then redis.call('HINCRBY', stats, 'purged', removed) end
return {removed, removed >= limit and 1 or 0}
