#!lua
-- Writes one value of a function's state, if it is what the caller thinks it is and there is room.
--
-- P: name, key, value, expires (ms; 0: never), condition ('' none, '*' must not exist, else the tag),
--    invocation, delivery (both missing: the write is no event's), budgets
-- Returns {outcome, tag}: 'written' with the new tag, 'changed' (the condition does not hold), 'full',
--    'lost' (that delivery has no lease any more).

if P.invocation and not leased_invocation(P.name, P.invocation, P.delivery, false) then
  return { 'lost', '' }
end
local key = of(P.name, 'state:' .. P.key)
local index, sizes = of(P.name, 'states'), of(P.name, 'state-bytes')
forget_states(P.name)
local tag = call('HGET', key, 'tag')
local condition = P.condition
if (condition == '*' and tag) or (condition ~= '' and condition ~= '*' and condition ~= tag) then
  return { 'changed', '' }
end
local bytes = #P.key + #P.value + 250
local more = bytes - number(call('HGET', sizes, P.key))
if more > 0 and (charged('state:' .. P.name) + more > P.budgets.state_function
    or charged('state') + more > P.budgets.state) then
  count_dropped('state-full', 1)
  return { 'full', '' }
end
-- The time goes on where an expired value's count would begin again.
local new = string.format('%x', clock[1] * 1000000 + clock[2])
if new == tag then
  new = new .. '+'
end
call('SADD', 'koren:functions', P.name)
call('HSET', key, 'value', P.value, 'tag', new)
call('HSET', sizes, P.key, bytes)
charge('state', P.name, more)
if P.expires == 0 then
  call('PERSIST', key)
  call('ZADD', index, '+inf', P.key)
else
  call('PEXPIRE', key, P.expires)
  call('ZADD', index, now + P.expires, P.key)
end
return { 'written', new }
