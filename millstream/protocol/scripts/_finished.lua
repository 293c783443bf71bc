-- Included after _keys.lua where runs end: the ids of the jobs of each name that ended last, beside the history of all.
-- The name is read off the beginning of the row of a run, where our rows have it. (What never ran has none: no list is
-- made for a name that somebody has just made up.)
local FINISHED_CAP = 100
local FINISHED_TTL = 30 * 24 * 3600 * 1000
local finished, begin, same = {}, nil, nil

local function note_finished(id, row)
  -- Most rows of a batch begin as the one before.
  if not begin or string.sub(row, 1, #begin) ~= begin then
    begin = string.match(row, '^{"n":"[%w_.%-]+"')
    if not begin then return end
    local name = string.sub(begin, 7, -2)
    same = finished[name] or {}
    finished[name] = same
  end
  same[#same + 1] = id
end

-- The last thing that a script does, and under pcall: no job fails for it.
local function keep_finished()
  for name, ids in pairs(finished) do
    local list = history .. ':' .. name
    redis.call('LPUSH', list, unpack(ids, math.max(1, #ids - FINISHED_CAP + 1)))
    redis.call('LTRIM', list, 0, FINISHED_CAP - 1)
    redis.call('PEXPIRE', list, FINISHED_TTL)
  end
end
