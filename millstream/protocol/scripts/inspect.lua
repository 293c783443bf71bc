#!lua flags=no-writes,allow-oom
-- All that is known of one job.
-- KEYS: 1 record, 2-6 the streams again, critical, high, normal, low, 7 held
-- ARGV: -
-- Returns {server time in ms, record (flat), fields of its entry (flat), consumer that runs it ("" for none),
-- ms since its delivery or renewal}; an empty record where the job is unknown.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local record = redis.call('HGETALL', KEYS[1])
local state, entry
for i = 1, #record, 2 do
  if record[i] == 'state' then state = record[i + 1] end
  if record[i] == 'entry' then entry = record[i + 1] end
end
if state ~= 'queued' or not entry or entry == 'z' then return {now, record, {}, '', 0} end -- "z": its record says all

local letter, id = string.sub(entry, 1, 1), string.sub(entry, 2)
local streams = {a = KEYS[2], c = KEYS[3], h = KEYS[4], n = KEYS[5], l = KEYS[6], x = KEYS[7]}
local found = redis.call('XRANGE', streams[letter], id, id)[1]
local pending = letter ~= 'x' and redis.pcall('XPENDING', streams[letter], 'millstream', id, id, 1) or {}
local holder = not pending.err and pending[1]
return {now, record, found and found[2] or {}, holder and holder[2] or '', holder and holder[3] or 0}
