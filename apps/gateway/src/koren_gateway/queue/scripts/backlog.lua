#!lua flags=no-writes
-- What a function has to do.
--
-- P: name
-- Returns {subjects due, subjects in hand, subjects due later, open incidents,
--          ms until any of these changes by itself, or -1,
--          ms that the first of the subjects due has been due}.

local after = '(' .. now
local ready, incidents = of(P.name, 'ready'), of(P.name, 'incidents')
local next_change = -1
for _, key in ipairs({ ready, incidents }) do
  local first = call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] and (next_change < 0 or first[2] - now < next_change) then
    next_change = first[2] - now
  end
end
local due = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
return {
  call('ZCOUNT', ready, '-inf', now),
  call('ZCARD', of(P.name, 'leased')),
  call('ZCOUNT', ready, after, '+inf'),
  call('ZCOUNT', incidents, after, '+inf'),
  next_change,
  math.max(0, now - (due[2] or now)),
}
