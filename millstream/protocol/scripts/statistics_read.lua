#!lua flags=no-writes,allow-oom
-- What was counted in one hour by minutes, or in one day by hours. Reads only.
-- KEYS: 1 prefix, as in statistics_add.lua
-- ARGV: 1 minutes or hours, 2 number of the hour or day since the Unix epoch, 3 job ("" for all)
-- Returns a flat list of fields and counts, as they are in the hash.
local key, job = KEYS[1] .. ARGV[1] .. ':' .. ARGV[2], ARGV[3]
if job == '' then return redis.call('HGETALL', key) end
local fields, found = {}, {}
for place = 0, ARGV[1] == 'minutes' and 59 or 23 do fields[#fields + 1] = place .. ':' .. job end
for i, counts in ipairs(redis.call('HMGET', key, unpack(fields))) do
  if counts then
    found[#found + 1] = fields[i]
    found[#found + 1] = counts
  end
end
return found
