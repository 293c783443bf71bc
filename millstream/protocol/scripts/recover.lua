#!lua flags=allow-oom
-- Give back what an owner has held for longer than its own lease without renewing it. Bounded; keeps a cursor.
-- An expired lease is not a crash: the job runs again uncounted, alone, and marks its start then; only if that
-- marked run's lease expires too does it count as a crash.
-- A lease that was renewed in the future begins now: the clock was set back since, and its owner may be dead.
-- KEYS: as in _keys.lua
-- ARGV: 1 letter of the stream, 2 cursor ("-" at first), 3 how many to look at, 4 lease in ms of an unknown owner,
--       5 instance that is known to be gone ("" for none: its entries need not wait), 6 crashes before a job is
--       dead that has no limit of its own, 7 delay in ms after its second crash, 8 row of the dead letter, 9 server time in ms after which this
--       call must do nothing: it was held up, and owners could not renew meanwhile; 10 only the gone instance (1)
-- Returns {next cursor ("" at the end), how many were recovered, how many became dead, {how each run that counted
-- ended (crashed: dead; crash: it runs again; cancelled), name of its job, id of the job, number of the run, ...}}.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
-- include: _enqueued.lua
-- include: _on_dead.lua
if now > tonumber(ARGV[9]) then return {'', 0, 0, {}} end
local letter, cursor, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local stream, recovered, died, ended = streams[letter], 0, 0, {}
local rows = redis.call('XPENDING', stream, GROUP, cursor, '+', count)

local function lease_of(consumer)
  local instance = string.match(consumer, '^[^:]*')
  if ARGV[5] ~= '' and instance == ARGV[5] then return 0 end
  if ARGV[10] == '1' then return math.huge end
  return tonumber(redis.call('HGET', owners, instance) or ARGV[4])
end

local function counted(kind, job)
  ended[#ended + 1] = kind
  ended[#ended + 1] = name_of(job.env)
  ended[#ended + 1] = job.id
  ended[#ended + 1] = job.run - 1
end

local function requeue(ref, job)
  job.run, job.alone = job.run + 1, true
  local marked = redis.call('HMGET', records .. job.id, 'started', 'limit', 'tell')
  if marked[1] ~= ref then return place(job, 'a') end
  job.crashes = job.crashes + 1
  if job.crashes >= tonumber(marked[2] or ARGV[6]) then
    died = died + 1
    die(job, ref, ARGV[8], marked[3])
    return counted('crashed', job)
  end
  if job.crashes == 1 then
    place(job, 'a')
  else
    postpone(job, 'retrying', tonumber(ARGV[7]) * 2 ^ (job.crashes - 2))
  end
  note_retry(job)
  counted(job.cancelled and 'cancelled' or 'crash', job)
end

for _, row in ipairs(rows) do
  local id, consumer, idle = row[1], row[2], row[3]
  if idle >= lease_of(consumer) then
    if take_back(letter, id, requeue) then recovered = recovered + 1 end
  elseif idle == 0 then
    redis.call('XCLAIM', stream, GROUP, consumer, 0, id, 'JUSTID')
  end
end
if recovered > 0 then redis.call('HINCRBY', stats, 'recovered', recovered) end
if died > 0 then redis.call('HINCRBY', stats, 'dead', died) end
pcall(count_enqueued)
return {#rows == count and '(' .. rows[#rows][1] or '', recovered, died, ended}
