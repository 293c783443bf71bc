#!lua flags=no-writes,allow-oom
-- The ids of the jobs in one place of a queue, a bounded page per call. Reads only.
-- KEYS: as in _keys.lua
-- ARGV: 1 place: running, queued (then held ones, then those in rooms), due, or dead, history, finished (newest first,
--       all three), 2 position ("" at first), 3 how many ids at most, 4 only of this name ("" for all; only where finished)
-- Returns {position to go on from ("" at the end), {ids}}.
-- include: _keys.lua
-- include: _waiting.lua
-- include: _rooms.lua
local place, position, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ids = {}

local function by_rank(read)
  local first = tonumber(position) or 0
  local found = read(first, first + count - 1)
  return {#found == count and tostring(first + count) or '', found}
end

if place == 'due' then
  return by_rank(function(first, last) return redis.call('ZRANGE', due, first, last) end)
elseif place == 'dead' then
  return by_rank(function(first, last) return redis.call('ZRANGE', dead, first, last, 'REV') end)
elseif place == 'history' then
  return by_rank(function(first, last) return redis.call('LRANGE', history, first, last) end)
elseif place == 'finished' then
  local list = ARGV[4] == '' and history or history .. ':' .. ARGV[4]
  return by_rank(function(first, last) return redis.call('LRANGE', list, first, last) end)
end

-- Up to `wanted` entries of a stream after an entry id: {entry id, job id or nil} each.
local function entries(letter, after, wanted)
  local stream, found = letter == 'x' and held or streams[letter], {}
  if letter == PARKED then
    local first = (tonumber(after) or -1) + 1
    for i, id in ipairs(redis.call('ZRANGE', parked, first, first + wanted - 1)) do found[i] = {first + i - 1, id} end
    return found
  end
  if place == 'running' then
    local rows = redis.pcall('XPENDING', stream, GROUP, after == '' and '-' or '(' .. after, '+', wanted)
    for i, row in ipairs(rows.err and {} or rows) do
      local entry = redis.call('XRANGE', stream, row[1], row[1])[1]
      found[i] = {row[1], entry and id_of(entry[2])}
    end
    return found
  end
  if after == '' then after = letter == 'x' and '0-0' or last_delivered(stream) end
  for i, row in ipairs(redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', wanted)) do
    found[i] = {row[1], id_of(row[2])}
  end
  return found
end

local from, seen = string.sub(position, 1, 1), 0
for _, letter in ipairs({'a', 'c', 'h', 'n', 'l', place == 'queued' and 'x' or nil, place == 'queued' and PARKED or nil}) do
  if from == '' or from == letter then
    local after = from == letter and string.sub(position, 2) or ''
    from = ''
    for _, found in ipairs(entries(letter, after, count - seen)) do
      seen = seen + 1
      if found[2] then ids[#ids + 1] = found[2] end
      if seen == count then return {letter .. found[1], ids} end
    end
  end
end
return {'', ids}
