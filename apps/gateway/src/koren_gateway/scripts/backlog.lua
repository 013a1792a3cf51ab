#!lua flags=no-writes
-- What a function has to do.
--
-- KEYS: koren:fn:<fn>:ready  koren:fn:<fn>:leased  koren:fn:<fn>:incidents
-- Returns {subjects due, subjects in hand, subjects due later, open incidents,
--          ms until any of these changes by itself, or -1}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local after = '(' .. now
local next_change = -1
for _, key in ipairs({ KEYS[1], KEYS[3] }) do
  local first = redis.call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] and (next_change < 0 or first[2] - now < next_change) then
    next_change = first[2] - now
  end
end
return {
  redis.call('ZCOUNT', KEYS[1], '-inf', now),
  redis.call('ZCARD', KEYS[2]),
  redis.call('ZCOUNT', KEYS[1], after, '+inf'),
  redis.call('ZCOUNT', KEYS[3], after, '+inf'),
  next_change,
}
