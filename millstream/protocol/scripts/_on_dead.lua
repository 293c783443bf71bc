-- Included after _moves.lua and _enqueued.lua by the scripts that make jobs dead. Where an application wants to be told
-- of a death, a small job comes into the queue in the same step; some worker of the queue runs it, and calls the hooks.
local TELLS = ',"h":1}' -- how the row of a run ends whose application wants to be told
local NOTICE = 'millstream.on_dead'

-- Its id is that of the death, so that a step that was done in part, and comes again, tells of it once.
local function tell(job, row)
  local name = name_of(job.env)
  if name == NOTICE then return end
  local id = 'on_dead:' .. redis.sha1hex(job.run .. ':' .. job.id)
  if redis.call('EXISTS', records .. id) == 1 then return end
  local queue = string.match(job.env, '^{"v":%d+,"n":"[%w_.%-]+","q":"([%w_.%-]+)"') or ''
  local env = '{"v":1,"n":"' .. NOTICE .. '","q":"' .. queue .. '","t":' .. now .. ',"a":[' .. cjson.encode(job.id) .. ','
    .. job.run .. ',"' .. name .. '",' .. row .. ']}'
  place({id = id, env = env, run = 1, attempt = 0, crashes = 0}, 'n')
  note_enqueued('immediate', env)
end

-- Bury a job, and tell of it where that is asked for: by the row, or by the caller.
local function die(job, ref, row, asked)
  bury(job, ref, row)
  if job.env and (asked or string.sub(row, -#TELLS) == TELLS) then tell(job, row) end
  return 'dead'
end
