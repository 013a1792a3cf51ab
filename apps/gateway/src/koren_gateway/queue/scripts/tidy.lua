#!lua flags=allow-oom
-- Forgets what is too old or beyond its budget: dead letters, history, held events, state,
-- open incidents, answers, memory of what was seen.
-- At most some hundreds at a time.
--
-- P: budgets, history (function -> ms that what it has handled is kept, 0: not at all; of others it stays),
--    dead_for (ms), seen_for (ms), keep_dismissed (ms), receipts_kept
-- Returns how many events were dismissed because nobody released them.

local old = call('ZRANGEBYSCORE', 'koren:dead', '-inf', now - P.dead_for, 'LIMIT', 0, 200)
for _, id in ipairs(old) do
  drop_letter(id)
end
count_dropped('dead-letters-by-age', #old)
trim_kept('dead', '', P.budgets.dead, 'dead-letters')

for name, keep in pairs(P.history) do
  forget_history(name, keep > 0 and ago(keep) or '+inf', 1000)
end
trim_history()

call('ZREMRANGEBYSCORE', 'koren:seen', '-inf', now - P.seen_for)

local queues = 0
for _, name in ipairs(call('SMEMBERS', 'koren:functions')) do
  queues = queues + charged('queue:' .. name)
  forget_states(name)
  call('ZREMRANGEBYSCORE', of(name, 'incidents'), '-inf', now)
end
add_to('queue', queues - charged('queue')) -- after broken data: it would refuse every function's events
call('ZREMRANGEBYSCORE', 'koren:marks', '-inf', now)

for _, key in ipairs(call('ZRANGEBYSCORE', 'koren:answers', '-inf', now, 'LIMIT', 0, 200)) do
  forget_answer(key)
end

local late = 0
for _, key in ipairs(call('ZRANGEBYSCORE', 'koren:held', '-inf', now, 'LIMIT', 0, 50)) do
  local subject = call('HGET', 'koren:held:' .. key, 'subject')
  if subject then
    late = late + #dismiss(subject, '', P.keep_dismissed)
  else
    call('ZREM', 'koren:held', key)
  end
end
for _, key in ipairs(call('ZRANGEBYSCORE', 'koren:dismissed', '-inf', now, 'LIMIT', 0, 200)) do
  forget_held(key)
end
return late
