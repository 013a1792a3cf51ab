#!lua flags=allow-oom
-- Takes an invocation that nobody waits for any more out of its queue, unless it is in hand;
-- then nobody is told how it ends.
--
-- P: name, key
-- Returns 1 when it was taken out, else 0.

local has = fields(of(P.name, 'invocation:' .. P.key), { 'subject', 'holder', 'event', 'bytes', 'once', 'answer' })
if not has.subject then
  return 0
end
if has.holder then
  if has.once == '1' then
    call('HSET', of(P.name, 'invocation:' .. P.key), 'once', 2)
  end
  return 0
end
local queue, ready = of(P.name, 'queue:' .. has.subject), of(P.name, 'ready')
if call('LINDEX', queue, 0) == P.key then
  call('ZADD', ready, 'XX', now, has.subject) -- it may have waited for this one's next attempt
end
call('LREM', queue, 1, P.key)
if call('EXISTS', queue) == 0 then
  call('ZREM', ready, has.subject)
end
forget_invocation(P.name, P.key, has)
ring('f:' .. P.name)
return 1
