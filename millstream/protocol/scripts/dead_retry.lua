#!lua flags=allow-oom
-- Enqueue dead jobs again, with fresh counters of attempts and crashes; what they did before is kept in their record.
-- KEYS: as in _keys.lua
-- ARGV: job ids
-- Returns one reply per id: 1 enqueued (held where the queue is paused); 0 it is not dead; 2 it has no payload that
-- could run (a malformed entry); a text: it stays dead, for the living job of this id holds its unique key.
-- A job that is not started after some time has forgotten that: whoever retries it wants it to run.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
-- include: _enqueued.lua

-- The row of the last run as `tries` keeps it: without its result.
local function without_result(row)
  if not row then return '' end
  if not string.find(row, '"r":', 1, true) then return row end
  local ok, run = pcall(cjson.decode, row)
  if not ok then return '' end
  run.r = nil
  return cjson.encode(run)
end

local function retry(id)
  local record = records .. id
  local fields = redis.call('HMGET', record, 'state', 'env', 'band', 'run', 'out')
  if fields[1] ~= 'dead' then
    redis.call('ZREM', dead, id)
    return 0
  end
  if not fields[2] then return 2 end
  local holder = retake(id)
  if holder then return holder end
  local band = fields[3]
  if not band or band == 'again' or not streams[letter_of(band)] then band = band_of(fields[2]) end
  remember(id, without_result(fields[5]))
  place({id = id, env = fields[2], band = band, run = (tonumber(fields[4]) or 1) + 1, attempt = 0, crashes = 0},
    letter_of(band))
  note_enqueued('retry', fields[2])
  redis.call('HDEL', record, 'out', 'started', 'unknown', 'settled', 'limit', 'tell', 'expires')
  redis.call('ZREM', dead, id)
  return 1
end

local replies = {}
for i, id in ipairs(ARGV) do replies[i] = redis.call('ZSCORE', dead, id) and retry(id) or 0 end
pcall(count_enqueued)
return replies
