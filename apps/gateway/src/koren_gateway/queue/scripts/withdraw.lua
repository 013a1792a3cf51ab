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
local queue = of(P.name, 'queue:' .. has.subject)
local first = call('LINDEX', queue, 0) == P.key
call('LREM', queue, 1, P.key)
if first then
  call('ZREM', of(P.name, 'ready'), has.subject)
  call('ZREM', of(P.name, 'parked'), has.subject)
  if call('EXISTS', queue) == 1 then
    make_due(P.name, has.subject, now) -- it may have waited for this one's next attempt
  end
end
forget_invocation(P.name, P.key, has)
ring('f:' .. P.name)
return 1
