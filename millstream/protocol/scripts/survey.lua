#!lua flags=no-writes,allow-oom
-- How many jobs of one queue are where. Reads only.
-- KEYS: as in _keys.lua
-- ARGV: -
-- Returns {server time in ms, paused ("", "1" or "resuming"), {length of each stream}, {pending of each stream}, held,
-- due, dead, ms of the oldest waiting entry (-1: none waits), ms of the next due time (-1: none), counters (flat),
-- {how many are in rooms, how many of them at the gate}, {limit, rate, burst, paused names, names being resumed: nil or text}}.
-- include: _keys.lua
-- include: _waiting.lua
-- include: _rooms.lua
local lengths, pendings, oldest = {}, {}, -1

local function see(entries)
  if not entries[1] then return end
  local at = tonumber(string.match(entries[1][1], '^%d+'))
  if oldest < 0 or at < oldest then oldest = at end
end

for i, letter in ipairs(LETTERS) do
  local stream = streams[letter]
  local group = group_of(stream)
  lengths[i], pendings[i] = redis.call('XLEN', stream), group.pending or 0
  see(redis.call('XRANGE', stream, '(' .. (group['last-delivered-id'] or '0-0'), '+', 'COUNT', 1))
end
see(redis.call('XRANGE', held, '-', '+', 'COUNT', 1))

local first_parked = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')[2]
if first_parked and (oldest < 0 or tonumber(first_parked) < oldest) then oldest = tonumber(first_parked) end

local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
return {now, redis.call('HGET', meta, 'paused') or '', lengths, pendings, redis.call('XLEN', held),
  redis.call('ZCARD', due), redis.call('ZCARD', dead), oldest, next_due and tonumber(next_due) or -1,
  redis.call('HGETALL', stats), {redis.call('ZCARD', parked), redis.call('ZCARD', rooms .. 'gate')},
  redis.call('HMGET', meta, 'limit', 'rate', 'burst', 'paused_jobs', 'resuming_jobs')}
