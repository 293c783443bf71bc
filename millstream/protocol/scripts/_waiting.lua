-- Included after _keys.lua by the scripts that look at what waits: how far a stream was delivered, whose an entry is.

-- What the server knows of our group of a stream; an empty table where there is none.
local function group_of(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
    if fields.name == GROUP then return fields end
  end
  return {}
end

-- The id up to which a stream was delivered.
local function last_delivered(stream) return group_of(stream)['last-delivered-id'] or '0-0' end

-- The job's id among an entry's fields; nil where it has none.
local function id_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then return fields[i + 1] end
  end
end
