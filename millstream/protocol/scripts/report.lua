#!lua flags=allow-oom
-- Note what a run tells of itself: how far it is, and lines of its log.
-- KEYS: 1 record
-- ARGV: 1 ref, 2 progress as JSON [ref, percent, message] ("" for none), 3 number of the run, 4 bytes of the log that
--       are kept, 5 name of this batch of lines, then per line 2: its age in ms, the line as a JSON string
-- The fence: progress counts only while the record names this entry, lines also of a run that was settled lately. A
-- batch that came last time too was sent again, since its reply was lost.
-- The log keeps its newest lines, one JSON array [time in ms, run, line] each, with line feeds between them.
-- Returns 1 noted; 0 the delivery was taken from that run: nothing was changed.
local ref, progress, run, room, batch = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local fields = redis.call('HMGET', KEYS[1], 'entry', 'settled', 'log', 'logged')
local current = fields[1] == ref
if not current and not string.find(' ' .. (fields[2] or '') .. ' ', ' ' .. ref .. ' ', 1, true) then return 0 end
if current and progress ~= '' then redis.call('HSET', KEYS[1], 'progress', progress) end
if #ARGV == 5 or fields[4] == batch then return 1 end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local rows = {fields[3] or nil}
for i = 6, #ARGV, 2 do
  rows[#rows + 1] = string.format('[%.0f,%d,%s]', now - tonumber(ARGV[i]), run, ARGV[i + 1])
end
local log = table.concat(rows, '\n')
if #log > room then
  local cut = string.find(log, '\n', #log - room, true)
  log = cut and string.sub(log, cut + 1) or ''
end
redis.call('HSET', KEYS[1], 'log', log, 'logged', batch)
return 1
