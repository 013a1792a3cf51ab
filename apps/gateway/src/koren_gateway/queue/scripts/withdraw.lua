#!lua flags=allow-oom
-- Takes an invocation that nobody waits for any more out of its queue, unless it is in hand.
--
-- P: name, key
-- Returns 1 when it was taken out, else 0.

local has = fields(of(P.name, 'invocation:' .. P.key), { 'subject', 'holder', 'event', 'bytes' })
if not has.subject or has.holder then
  return 0
end
local queue = of(P.name, 'queue:' .. has.subject)
redis.call('LREM', queue, 1, P.key)
if redis.call('EXISTS', queue) == 0 then
  redis.call('ZREM', of(P.name, 'ready'), has.subject)
end
redis.call('DEL', of(P.name, 'invocation:' .. P.key))
charge('queue', P.name, -tonumber(has.bytes or 0))
unref(has.event or P.key)
ring('f:' .. P.name)
return 1
