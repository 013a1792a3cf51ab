#!lua
-- Writes one value of a function's state, if it is what the caller thinks it is.
--
-- KEYS: koren:fn:<fn>:state:<key>   hash: value, tag (changes with every write)
-- ARGV: value, expires after ms (0: never), condition ('' none, '*' must not exist, else the tag)
-- Returns the new tag, or nil when the condition does not hold.

local has = redis.call('HGET', KEYS[1], 'tag')
local condition = ARGV[3]
if (condition == '*' and has) or (condition ~= '' and condition ~= '*' and condition ~= has) then
  return false
end
-- The time goes on where an expired value's count would begin again.
local time = redis.call('TIME')
local tag = string.format('%x', time[1] * 1000000 + time[2])
if tag == has then
  tag = tag .. '+'
end
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'tag', tag)
if ARGV[2] == '0' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return tag
