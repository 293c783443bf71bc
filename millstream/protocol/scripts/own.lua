#!lua flags=allow-oom
-- What one consumer holds already: read before new jobs after the reply to a fetch was lost.
-- KEYS: 1 meta, 2-6 the streams again, critical, high, normal, low
-- ARGV: 1 consumer, 2 how many of each stream
-- Returns as fetch.lua does. An entry that was deleted while it was pending has no fields; it is acknowledged here.
local clock = redis.call('TIME')
local reply = {clock[1] * 1000 + math.floor(clock[2] / 1000), 0}
local rules = redis.call('HMGET', KEYS[1], 'paused', 'gated')
if rules[1] == '1' or rules[2] then reply[2] = 1 end -- what it holds is delivered all the same
for i, letter in ipairs({'a', 'c', 'h', 'n', 'l'}) do
  local found = redis.call('XREADGROUP', 'GROUP', 'millstream', ARGV[1], 'COUNT', ARGV[2], 'STREAMS', KEYS[i + 1], '0')
  local entries = {}
  for _, entry in ipairs(found and found[1][2] or {}) do
    if entry[2] then
      entries[#entries + 1] = entry
    else
      redis.call('XACK', KEYS[i + 1], 'millstream', entry[1])
    end
  end
  if #entries > 0 then
    reply[#reply + 1] = letter
    reply[#reply + 1] = entries
  end
end
return reply
