#!lua flags=no-writes,allow-oom
-- What dead jobs died of, newest first, a bounded page per call. Reads only.
-- KEYS: as in _keys.lua
-- ARGV: 1 position ("" at first), 2 how many at most, 3 the latest time of death in ms ("" for now)
-- Returns {server time in ms, how many are dead in all, position to go on from ("" at the end), and a flat list of 6 per
-- job: id, time of its death in ms, name, cause, type and message of its error}.
-- include: _keys.lua
-- include: _enqueued.lua
local MESSAGE = 500 -- bytes

-- Behind the job that a page ended with; where that one is gone, at the first one of its time: none is missed.
local score, after = string.match(ARGV[1], '^([^/]*)/(.*)$')
local rank = redis.call('ZREVRANK', dead, after or '')
if rank then
  rank = rank + 1
else
  rank = redis.call('ZCOUNT', dead, '(' .. (score or ARGV[3] ~= '' and ARGV[3] or now), '+inf')
end
local found = redis.call('ZRANGE', dead, rank, rank + ARGV[2] - 1, 'REV', 'WITHSCORES')

local function text(value) return type(value) == 'string' and value or '' end

local jobs = {}
for i = 1, #found, 2 do
  local id = found[i]
  local record = records .. id
  if redis.pcall('HGET', record, 'state') == 'dead' then
    local ok, row = pcall(cjson.decode, redis.call('HGET', record, 'out') or '')
    row = ok and type(row) == 'table' and row or {}
    local failed = type(row.e) == 'table' and row.e or {}
    local name = text(row.n)
    local env = name == '' and redis.call('HGET', record, 'env')
    if env then name = name_of(env) end
    for _, value in ipairs({id, found[i + 1], name, text(row.c), text(failed.type),
      string.sub(text(failed.message), 1, MESSAGE)}) do
      jobs[#jobs + 1] = value
    end
  end
end
local more = #found == 2 * tonumber(ARGV[2])
return {now, redis.call('ZCARD', dead), more and found[#found] .. '/' .. found[#found - 1] or '', jobs}
