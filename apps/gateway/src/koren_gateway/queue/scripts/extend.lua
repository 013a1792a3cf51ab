#!lua flags=allow-oom
-- Keeps a lease, and notes when the handler was entered: that is what counts an attempt.
--
-- P: name, key, delivery, lease (ms), grace (ms), entered (ms; missing for a heartbeat), receipts_kept
-- Returns nil when this delivery has no lease (any more), else {attempt, and for the first 'entered'
--    meta, phases, released, delayed (ms)}.

local has = leased_invocation(P.name, P.key, P.delivery, false)
if not has then
  return false
end
local limit = number(has.deadline) + P.grace
if now > limit then
  return false
end
call('ZADD', of(P.name, 'leased'), 'XX', math.min(now + P.lease, limit), has.subject)

local invocation = of(P.name, 'invocation:' .. P.key)
local answer = { attempt = number(has.attempts) }
-- The word may come again when its answer was lost.
if P.entered and not has.handler_entered then
  call('HSET', invocation, 'handler_entered', P.entered)
  answer.attempt = call('HINCRBY', invocation, 'attempts', 1)
  local its = its_event(has)
  its.handler_entered = P.entered
  report('started', P.name, answer.attempt, its.meta, its)
  answer.meta, answer.released, answer.delayed = its.meta, has.released or '', number(has.delay)
  answer.phases = { received = tonumber(its.received), activated = tonumber(its.activated),
    pod_started = tonumber(its.pod_started), handler_entered = P.entered }
end
return cmsgpack.pack(answer)
