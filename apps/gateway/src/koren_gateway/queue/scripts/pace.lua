#!lua
-- Lets a request of an HTTP trigger pass, or says how long the next has to wait: one is on time each `every`,
-- and at most `burst` of them may come at once (GCRA).
--
-- P: name, every (µs), burst
-- Returns 0 when it may pass, else after how many ms the next may.

local key = 'koren:http-rate:' .. P.name
local micros = clock[1] * 1000000 + clock[2]
local due = math.max(number(call('GET', key)), micros)
if due > micros + P.every * P.burst then
  due = micros -- the host's clock was set back
end
local early = due - micros - P.every * (P.burst - 1)
if early > 0 then
  return math.ceil(early / 1000)
end
due = due + P.every
call('SET', key, string.format('%.0f', due), 'PX', math.ceil((due - micros) / 1000))
return 0
