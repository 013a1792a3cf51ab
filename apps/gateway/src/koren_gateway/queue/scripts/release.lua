#!lua
-- Releases the held events of a subject: each is queued as if it had just come.
--
-- P: subject, by, budgets, seen_for (ms), receipts_kept, events (which must be all that are held)
-- Each of events: key, functions (a list of name, trigger, opens, closes, limit, delay)
-- Returns 1, or 0 when the subject's held events are not these any more.

local holding = 'koren:holding:' .. P.subject
local waiting = {}
for _, key in ipairs(call('LRANGE', holding, 0, -1)) do
  local held = fields('koren:held:' .. key, { 'subject', 'meta', 'body', 'sequence', 'bytes', 'trace' })
  if held.subject and held.meta then
    waiting[#waiting + 1] = { key = key, held = held }
  else
    call('LREM', holding, 0, key)
    forget_held(key)
    count_dropped('broken', 1)
  end
end
if #waiting ~= #P.events then
  return 0
end
for place, its in ipairs(waiting) do
  if its.key ~= P.events[place].key then
    return 0
  end
end
for place, its in ipairs(waiting) do
  local held, event = its.held, P.events[place]
  forget_held(event.key)
  if held.body then
    held.received = now
    report('received', '', 0, held.meta, held)
    if #event.functions == 0 then
      report('no-function', '', 0, held.meta, held)
    end
    spread({ key = event.key, subject = P.subject, event = event.key, size = math.max(0, number(held.bytes) - LETTER_BYTES),
      sequence = held.sequence or '', once = 0, call = 0, released = P.by }, held, event.functions)
  else
    count_dropped('broken', 1)
  end
end
call('DEL', holding)
mark('koren:verdict:' .. short(P.subject), 'released\n' .. P.by)
return 1
