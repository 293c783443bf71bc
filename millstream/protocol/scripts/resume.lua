#!lua flags=allow-oom
-- Resume a paused queue, a bounded step per call: move what is held into the streams, in order. Until the last
-- step new jobs still go to the end of `held`, so that none overtakes an older one.
-- KEYS: as in _keys.lua
-- ARGV: 1 how many to move at most, 2 "1" to begin or go on, "0" only to go on with what somebody began
-- Returns {code, how many were moved}:
--   done    nothing is held any more, the queue is open
--   more    call again
--   open    it was not paused
--   paused  it is paused and nobody began to resume it (only with "0")
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local state, moved = redis.call('HGET', meta, 'paused'), 0
if not state then return {'open', 0} end
if state == '1' then
  if ARGV[2] ~= '1' then return {'paused', 0} end
  redis.call('HSET', meta, 'paused', 'resuming')
end

local function open_entry(ref, fields)
  local entry, job = {}, {}
  for i = 1, math.min(#fields, 1000), 2 do -- Lua cannot pass on any number
    job[fields[i]] = fields[i + 1]
    if fields[i] ~= 'band' then
      entry[#entry + 1] = fields[i]
      entry[#entry + 1] = fields[i + 1]
    end
  end
  if not job.id then return end
  local record = redis.call('HMGET', records .. job.id, 'state', 'entry')
  if record[1] and record[2] ~= ref then return end -- the job is elsewhere: this is what a lost step left behind
  local letter = letter_of(job.band or 'normal')
  if not streams[letter] then letter = 'n' end -- what anybody may have sent
  if job.env and (rules().gated or rules().names) then
    place(with_counters(job), letter)
  else
    stands_at(job.id, letter .. redis.call('XADD', streams[letter], '*', unpack(entry)))
  end
  moved = moved + 1
end

rules().paused = nil -- for what is moved; all else of this moment is behind us
for _, row in ipairs(redis.call('XRANGE', held, '-', '+', 'COUNT', ARGV[1])) do
  open_entry('x' .. row[1], row[2])
  redis.call('XDEL', held, row[1])
end
local done = redis.call('XLEN', held) == 0
if done then
  redis.call('HDEL', meta, 'paused')
  redis.call('DEL', held)
end
if done or state == '1' then redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 'kind', 'resume') end
return {done and 'done' or 'more', moved}
