#!lua
-- Releases the held events of a subject: each is queued as if it had just come.
--
-- P: subject, by, budgets, seen_for (ms), receipts_kept, events: a list of key and functions (name,
--    opens, closes, limit), which must be all that are held
-- Returns 1, or 0 when the subject's held events are not these any more.

local holding = 'koren:holding:' .. P.subject
local keys = redis.call('LRANGE', holding, 0, -1)
if #keys ~= #P.events then
  return 0
end
for place, key in ipairs(keys) do
  if key ~= P.events[place].key then
    return 0
  end
end
for _, event in ipairs(P.events) do
  local held = fields('koren:held:' .. event.key, { 'meta', 'body', 'sequence' })
  forget_held(event.key)
  if held.meta and held.body then
    held.received = now
    report('received', '', 0, held.meta, held)
    if #event.functions == 0 then
      report('no-function', '', 0, held.meta, held)
    end
    spread({ key = event.key, subject = P.subject, event = event.key, size = #held.body,
      sequence = held.sequence or '', once = 0, call = 0, released = P.by }, held, event.functions)
  end
end
redis.call('DEL', holding)
redis.call('SET', 'koren:verdict:' .. P.subject, 'released\n' .. P.by, 'PX', P.seen_for)
return 1
