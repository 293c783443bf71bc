#!lua flags=allow-oom
-- Wait for the end of a job: say that it is over, or mark that somebody waits (who then pops from the wait list).
-- KEYS: 1 record, 2 waiting
-- ARGV: 1 job id, 2 how much to add to the number of waiters: 1 to begin, 0 to look again, -1 to give up
-- Returns the job's state: a final one when it is over; "" where the job is unknown.
local state = redis.call('HGET', KEYS[1], 'state')
local waits = state == 'queued' or state == 'scheduled' or state == 'retrying'
if waits and ARGV[2] ~= '0' and redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[2]) <= 0 then
  redis.call('HDEL', KEYS[2], ARGV[1])
elseif waits and ARGV[2] == '0' and redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  redis.call('HSET', KEYS[2], ARGV[1], 1) -- the server forgot us: it was restarted without its last second
end
return state or ''
