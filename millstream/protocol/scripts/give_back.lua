#!lua flags=allow-oom
-- Give single deliveries back, uncounted: fetched but not started, or handed back because their worker is busy.
-- KEYS: as in _keys.lua
-- ARGV: 1 consumer, then refs
-- Returns how many were still pending for this consumer and were given back.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local consumer, released = ARGV[1], 0
for i = 2, #ARGV do
  local ref = ARGV[i]
  local letter, id = string.sub(ref, 1, 1), string.sub(ref, 2)
  if #redis.call('XPENDING', streams[letter], GROUP, id, id, 1, consumer) == 1 then
    if take_back(letter, id) then released = released + 1 end
  end
end
if released > 0 then redis.call('HINCRBY', stats, 'release', released) end
return released
