#!lua flags=allow-oom
-- Ends an attempt: the invocation succeeded, or is a dead letter now (or, if someone waits for its
-- outcome, just failed), or its next attempt is due later.
--
-- P: name, key, delivery, only_expired (true: only when the lease ran out), counts (true: it is an
--    attempt though the handler was not entered), state ('succeeded', 'dead-lettered', 'failed'), told
--    (result or error for the receipt), answered (the same for who waits), delay (ms, of 'failed'),
--    done (ms when the handler was done; may be missing), history (ms that the event of one that succeeded is kept;
--    may be missing), budgets, outcome_kept (ms), seen_for (ms),
--    receipts_kept
-- Returns nil when this delivery has no lease (any more), else {attempt, meta, trace, phases, taken (ms), cold,
--    holder, released, delayed (ms)};
--    attempt is how often the handler was entered (or would not be): 0 of a delivery that was lost before.

local name, key = P.name, P.key
local has = leased_invocation(name, key, P.delivery, P.only_expired)
if not has then
  return false
end
local its = its_event(has)
its.handler_done = P.done
local attempt = number(has.attempts)
if P.counts and not has.handler_entered then
  attempt = attempt + 1
end
call('ZREM', of(name, 'leased'), has.subject)
if P.state == 'failed' then
  local invocation = of(name, 'invocation:' .. key)
  if P.counts and not has.handler_entered then
    call('HSET', invocation, 'attempts', attempt)
  end
  report('failed', name, attempt, its.meta, its, { error = P.told })
  call('HDEL', invocation, 'holder', 'deadline', 'handler_entered')
  call('HDEL', 'koren:holders', has.holder)
  make_due(name, has.subject, now + P.delay)
  ring('f:' .. name)
else
  finish(name, key, has, its, attempt, P)
  advance(name, has.subject, key)
end
return cmsgpack.pack({ attempt = attempt, meta = its.meta, trace = its.trace or '', taken = number(has.taken),
  cold = number(has.cold), holder = has.holder, released = has.released or '', delayed = number(has.delay), phases = {
  received = tonumber(its.received), activated = tonumber(its.activated),
  pod_started = tonumber(its.pod_started), handler_entered = tonumber(its.handler_entered),
  handler_done = P.done } })
