#!lua flags=allow-oom
-- Deliver up to N jobs of one queue to one consumer: `again` first and alone, then the bands in strict order.
-- KEYS: 1 meta, 2-6 the streams again, critical, high, normal, low
-- ARGV: 1 consumer, 2 N
-- Returns {server time in ms, code, letter, entries, letter, entries ...}; entries as XREADGROUP has them; the code is 0,
-- 1 where the queue is paused, 2 where it has rules: take.lua delivers its jobs.
-- Errors: NOGROUP where the queue was never joined, or was flushed.
local clock = redis.call('TIME')
local reply = {clock[1] * 1000 + math.floor(clock[2] / 1000), 0}
local rules = redis.call('HMGET', KEYS[1], 'paused', 'gated', 'paused_jobs')
if rules[1] == '1' or rules[2] or rules[3] then
  reply[2] = rules[1] == '1' and 1 or 2
  return reply
end

local letters = {'a', 'c', 'h', 'n', 'l'}
local wanted = tonumber(ARGV[2])
for i, letter in ipairs(letters) do
  local count = letter == 'a' and 1 or wanted
  local found = redis.call('XREADGROUP', 'GROUP', 'millstream', ARGV[1], 'COUNT', count, 'STREAMS', KEYS[i + 1], '>')
  if found then
    reply[#reply + 1] = letter
    reply[#reply + 1] = found[1][2]
    wanted = wanted - #found[1][2]
    if letter == 'a' or wanted <= 0 then break end
  end
end
return reply
