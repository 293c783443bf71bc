#!lua flags=allow-oom
-- Enqueue jobs again that ended without having done their work: cancelled and expired ones whose payload is kept.
-- Dead ones have dead_retry. Counters of attempts and crashes begin anew; what they did before stays.
-- KEYS: as in _keys.lua
-- ARGV: job ids
-- Returns one text per id: "queued" (held where the queue is paused), "absent", "no payload", or the state that the
-- job is in where that is none of these ("waiting": it is queued already, or runs); "held by <id>" where a living job
-- holds its unique key. A job that had a deadline has none any more: whoever retries it wants it to run.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
-- include: _enqueued.lua
local RETRIED = {cancelled = true, expired = true}

local function retry(id)
  local record = records .. id
  local fields = redis.call('HMGET', record, 'state', 'env', 'run')
  if not fields[1] then return 'absent' end
  if not RETRIED[fields[1]] then return fields[1] == 'queued' and 'waiting' or fields[1] end
  if not fields[2] then return 'no payload' end
  local holder = retake(id)
  if holder then return 'held by ' .. holder end
  local band = band_of(fields[2])
  redis.call('HDEL', record, 'cancel', 'out', 'started', 'unknown', 'expires', unpack(APART))
  place({id = id, env = fields[2], band = band, run = counter(fields[3], 1) + 1, attempt = 0, crashes = 0},
    letter_of(band))
  note_enqueued('retry', fields[2])
  return 'queued'
end

local replies = {}
for i, id in ipairs(ARGV) do replies[i] = retry(id) end
pcall(count_enqueued)
return replies
