#!lua flags=allow-oom
-- Remove these jobs and their records, each only if it waits: undelivered, held, in a room, or due.
-- KEYS: as in _keys.lua
-- ARGV: job ids
-- Returns one number per id: 1 there is no such job (any more); 0 it does not wait: nothing was done to it.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua

local function take_out(id, state, entry)
  if state == 'scheduled' or state == 'retrying' then return redis.call('ZREM', due, id) end
  if state ~= 'queued' then return 0 end
  local letter, entry_id = string.sub(entry, 1, 1), string.sub(entry, 2)
  if letter == PARKED then return walk_out(id) or 1 end
  if letter == 'x' then return redis.call('XDEL', held, entry_id) end
  local pending = redis.pcall('XPENDING', streams[letter], GROUP, entry_id, entry_id, 1)
  if not pending.err and #pending == 1 then return 0 end
  return redis.call('XDEL', streams[letter], entry_id)
end

local replies, removed = {}, 0
for i, id in ipairs(ARGV) do
  local fields = redis.call('HMGET', records .. id, 'state', 'entry')
  replies[i] = 1
  if fields[1] then
    replies[i] = take_out(id, fields[1], fields[2])
    if replies[i] == 1 then
      release(id)
      redis.call('DEL', records .. id)
      notify(id)
      removed = removed + 1
    end
  end
end
if removed > 0 then redis.call('HINCRBY', stats, 'purged', removed) end
return replies
