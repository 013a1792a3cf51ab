#!lua
-- Queues copies of what a function has handled in a span of time, all or none, in the order in which it was
-- handled. The same request again queues nothing. Refused when Redis is full, before the first write.
--
-- P: name, request, from (ms), to (ms), subject ('' for all), by, most (how many copies at a time), dry (1: only
--    say what would be queued), told_for (ms that the request is known), budgets
-- Returns {state, events}: 'queued', 'known' (that many were queued by the same request before), 'many', or 'full'
--    with the bytes that they would take, those of the function's queue and those of all queues.

local name = P.name
local request = of(name, 'replay:' .. P.request)
local before = call('GET', request)
if before then
  return cmsgpack.pack({ state = 'known', events = number(before) })
end
local copies, bytes = {}, 0
for _, id in ipairs(call('ZRANGEBYSCORE', of(name, 'history'), P.from, P.to)) do
  local past = fields('koren:history:' .. id, { 'subject', 'event', 'sequence', 'bytes' })
  if past.subject and past.event and (P.subject == '' or past.subject == P.subject)
      and call('HEXISTS', 'koren:event:' .. past.event, 'body') == 1 then
    past.size = math.max(0, number(past.bytes) - PAST_BYTES)
    bytes = bytes + past.size + INVOCATION_BYTES
    copies[#copies + 1] = past
  end
end
if #copies > P.most then
  return cmsgpack.pack({ state = 'many', events = #copies })
end
if #copies > 0 and not makes_room(name, bytes) then
  return cmsgpack.pack({ state = 'full', events = #copies, bytes = bytes, its = charged('queue:' .. name),
    all = charged('queue') })
end
if P.dry ~= 1 then
  for place, past in ipairs(copies) do
    local key = P.request .. '-' .. place
    local subject = string.sub(past.subject, 1, 2) == 's/' and past.subject or 'e/' .. key
    if put({ key = key, subject = subject, event = past.event, size = past.size, sequence = past.sequence or '',
        once = 0, call = 0, answer = 0, released = '', replayed = P.by },
        { name = name, trigger = '', opens = 0, closes = 0, delay = 0 }) then
      call('HINCRBY', 'koren:event:' .. past.event, 'refs', 1)
    end
  end
  call('SET', request, #copies, 'PX', P.told_for)
  if #copies > 0 then
    ring('f:' .. name)
  end
end
return cmsgpack.pack({ state = 'queued', events = #copies })
