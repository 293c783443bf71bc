#!lua flags=allow-oom
-- Take back, uncounted, what a dead process still holds; then delete its consumer, if that is asked and it is empty.
-- KEYS: as in _keys.lua
-- ARGV: 1 consumer, 2 delete it (1) or only empty it (0), then refs to leave alone (they are settled otherwise)
-- Returns {how many were given back, how many are still pending}.
-- include: _keys.lua
-- include: _rooms.lua
-- include: _holds.lua
-- include: _moves.lua
local consumer, spared, released, left = ARGV[1], {}, 0, 0
for i = 3, #ARGV do spared[ARGV[i]] = true end
for _, letter in ipairs(LETTERS) do
  for _, row in ipairs(redis.call('XPENDING', streams[letter], GROUP, '-', '+', 1000, consumer)) do
    if spared[letter .. row[1]] then
      left = left + 1
    elseif take_back(letter, row[1]) then
      released = released + 1
    end
  end
  left = left + #redis.call('XPENDING', streams[letter], GROUP, '-', '+', 1, consumer)
end
if released > 0 then redis.call('HINCRBY', stats, 'release', released) end
if ARGV[2] == '1' and left == 0 then
  for _, letter in ipairs(LETTERS) do redis.call('XGROUP', 'DELCONSUMER', streams[letter], GROUP, consumer) end
end
return {released, left}
