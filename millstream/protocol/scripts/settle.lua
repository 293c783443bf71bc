#!lua flags=allow-oom
-- Record how a batch of runs ended, and take their entries out of the streams.
-- KEYS: as in _keys.lua
-- ARGV: 1 consumer, 2 grace for unknown jobs in ms, then per run 5: ref, job id, kind, number, row
--   kind       number            what becomes of the job
--   completed  TTL in ms         ended; the record lives on for the TTL with the row
--   discarded  TTL in ms         likewise
--   cancelled  TTL in ms         likewise
--   expired    TTL in ms         likewise
--   completed+, discarded+, cancelled+, expired+: the same, and what the job holds (see _holds.lua) is freed
--   dead       0                 dead letter with the row; 1 where the entry is no job: then no payload is kept;
--                                2 where it was refused: the payload and the counters are kept as they are;
--                                3 where the run was no attempt, but counted apart
--   crashed    -                 dead letter with the row, one crash more
--   retry      delay in ms       due again, one attempt more; dead with the row where its deadline would be over then
--   timeout    delay in ms       likewise, one timeout more (counted apart from attempts)
--   memory     delay in ms       likewise, one kill for its memory more
--   crash      delay in ms       due again (`again` where 0, alone), one crash more; or dead likewise
--   release    delay in ms       due again (`again` where 0), uncounted
--   unknown    delay in ms       due again, uncounted; dead with the row once the grace is over
-- The fence: a run counts only while its entry is pending for this consumer.
-- Returns what was not plainly ok, as a flat list of (position from 1, code):
--   2 already settled by this very delivery (a replay), 0 stale (the delivery was taken; nothing was changed),
--   or an error text (nothing was acknowledged, the run may be settled again).
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
-- include: _enqueued.lua
-- include: _finished.lua
-- include: _on_dead.lua
local consumer, grace = ARGV[1], tonumber(ARGV[2])
local AGAIN = {retry = 'attempt', timeout = 'timeouts', memory = 'memory'} -- and what counts such runs
local TERMINAL = {}
for _, state in ipairs({'completed', 'discarded', 'cancelled', 'expired'}) do
  TERMINAL[state], TERMINAL[state .. '+'] = state, state
end
local unusual, acks, counts, ended = {}, {}, {}, {}

local pending = {}
for i = 3, #ARGV, 5 do
  local letter = string.sub(ARGV[i], 1, 1)
  if not acks[letter] then
    acks[letter] = {}
    for _, row in ipairs(redis.call('XPENDING', streams[letter], GROUP, '-', '+', 2000, consumer)) do
      pending[letter .. row[1]] = true
    end
  end
end

-- Whether a job's deadline is over when it would run again after so many ms. One that was cancelled would not.
local function is_too_late(id, delay)
  local fields = redis.call('HMGET', records .. id, 'expires', 'cancel')
  return fields[1] and not fields[2] and now + delay >= tonumber(fields[1])
end

local function move(ref, id, kind, number, row)
  local job = job_at(ref)
  if not job then return end -- deleted while pending: only the acknowledgement is left to do
  job.id = id
  if kind == 'dead' then
    local owner = redis.call('HGET', records .. id, 'entry')
    if owner and owner ~= ref then job.id = id .. ':' .. ref end -- garbage that carries another job's id
    if number == 1 then
      job.env, job.run, job.crashes = nil, 1, 0
    elseif number == 0 then
      job.attempt = job.attempt + 1
    end
    return die(job, ref, row)
  elseif kind == 'crashed' or (kind == 'crash' and is_too_late(id, number)) then
    job.crashes = job.crashes + 1
    return die(job, ref, row)
  elseif AGAIN[kind] and is_too_late(id, number) then
    job[AGAIN[kind]] = job[AGAIN[kind]] + 1
    return die(job, ref, row)
  end
  -- The last few, because a replay may come after the next delivery has been settled too.
  local before = string.match(redis.call('HGET', records .. id, 'settled') or '', '^%S+ ?%S*')
  redis.call('HSET', records .. id, 'settled', before and ref .. ' ' .. before or ref)
  if kind ~= 'unknown' then redis.call('HDEL', records .. id, 'unknown') end
  job.run = job.run + 1
  if AGAIN[kind] then
    remember(id, row)
    job[AGAIN[kind]] = job[AGAIN[kind]] + 1
    postpone(job, 'retrying', number)
    note_retry(job)
    return 'retry'
  elseif kind == 'crash' then
    remember(id, row)
    job.crashes, job.alone = job.crashes + 1, true
    if number > 0 then postpone(job, 'retrying', number) else place(job, 'a') end
    return note_retry(job)
  elseif kind == 'release' then
    remember(id, row)
    if number > 0 then return postpone(job, 'scheduled', number) end
    return place(job, 'a')
  elseif kind == 'unknown' then
    redis.call('HSETNX', records .. id, 'unknown', now)
    if now - tonumber(redis.call('HGET', records .. id, 'unknown')) >= grace then return die(job, ref, row) end
    return postpone(job, 'scheduled', number)
  end
  error('unknown kind ' .. kind)
end

-- What a cancelled or expired job needs to be enqueued again. Never raises.
local function keep_payload(record, ref)
  local ok, job = pcall(job_at, ref)
  if ok and job and job.env then redis.pcall('HSET', record, 'env', job.env, 'run', job.run) end
end

local function code_of_absent(ref, id)
  local record = redis.call('HMGET', records .. id, 'state', 'entry', 'settled')
  local settled = ' ' .. (record[3] or '') .. ' '
  if string.find(settled, ' ' .. ref .. ' ', 1, true) or (record[2] == ref and record[1] ~= 'queued') then return 2 end
  return 0
end

local waited = redis.call('EXISTS', waiting) == 1
for i = 3, #ARGV, 5 do
  local ref, id, kind, number, row = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local code
  local state = TERMINAL[kind]
  if not pending[ref] then
    code = code_of_absent(ref, id)
  elseif state then
    local record = records .. id
    if state == 'cancelled' or state == 'expired' then keep_payload(record, ref) end
    local reply = redis.pcall('HSET', record, 'state', state, 'out', row) -- `entry` names this delivery already
    if type(reply) ~= 'table' then reply = redis.pcall('PEXPIRE', record, number) end
    if type(reply) == 'table' then
      code = reply.err
    else
      ended[#ended + 1] = id
      note_finished(id, row)
      if state ~= kind then
        pcall(release, id) -- what cannot be freed does not count any more: its holder has ended
        kind = state
      end
      if waited then notify(id) end
    end
  else
    local ok, result = pcall(move, ref, id, kind, tonumber(number) or 0, row)
    if ok then
      if kind == 'crashed' or kind == 'dead' and (number == '0' or number == '3') then note_finished(id, row) end
      kind = result or kind
    else
      code = type(result) == 'table' and result.err or tostring(result)
    end
  end
  if code then
    unusual[#unusual + 1] = (i + 2) / 5
    unusual[#unusual + 1] = code
    if code == 0 then counts.stale = (counts.stale or 0) + 1 end
  else
    local ids = acks[string.sub(ref, 1, 1)]
    ids[#ids + 1] = string.sub(ref, 2)
    counts[kind] = (counts[kind] or 0) + 1
  end
end

for letter, ids in pairs(acks) do
  if #ids > 0 then
    redis.call('XACK', streams[letter], GROUP, unpack(ids))
    redis.call('XDEL', streams[letter], unpack(ids))
  end
end
if #ended > 0 then
  redis.call('LPUSH', history, unpack(ended))
  redis.call('LTRIM', history, 0, HISTORY_CAP - 1)
end
for kind, count in pairs(counts) do redis.call('HINCRBY', stats, kind, count) end
pcall(keep_finished)
pcall(count_enqueued)
return unusual
