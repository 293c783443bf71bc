#!lua flags=allow-oom
-- Renew the lease of what a live process holds. JUSTID: the delivery count stays as it is.
-- An entry has one owner for its whole life (recovery writes a new one), so a pending one is still ours.
-- KEYS: 1-5 the streams again, critical, high, normal, low
-- ARGV: 1 consumer, then refs
-- Returns the refs that are pending no more: their lease is lost, or they were settled meanwhile.
local streams = {a = KEYS[1], c = KEYS[2], h = KEYS[3], n = KEYS[4], l = KEYS[5]}
local lost = {}
for i = 2, #ARGV do
  local ref = ARGV[i]
  local stream, id = streams[string.sub(ref, 1, 1)], string.sub(ref, 2)
  if #redis.call('XPENDING', stream, 'millstream', id, id, 1, ARGV[1]) == 0 then
    lost[#lost + 1] = ref
  else
    redis.call('XCLAIM', stream, 'millstream', ARGV[1], 0, id, 'JUSTID')
  end
end
return lost
