-- Included by the scripts that touch a whole queue: its keys by name, and the server's clock.
-- KEYS: 1-5 the streams again, critical, high, normal, low; 6 records (a prefix); 7 due; 8 dead; 9 held;
--       10 events; 11 control; 12 meta; 13 stats; 14 history; 15 owners; 16 waiting; 17 waits (a prefix);
--       18 enqueued; 19 uniques (a prefix)
local GROUP = 'millstream'
local LETTERS = {'a', 'c', 'h', 'n', 'l'}
local streams = {a = KEYS[1], c = KEYS[2], h = KEYS[3], n = KEYS[4], l = KEYS[5]}
local records, due, dead, held = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local control, meta, stats, history = KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local owners, waiting, waits, enqueued = KEYS[15], KEYS[16], KEYS[17], KEYS[18]
local uniques = KEYS[19]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
