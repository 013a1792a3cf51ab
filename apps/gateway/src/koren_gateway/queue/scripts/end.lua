#!lua flags=allow-oom
-- Ends an attempt: the invocation succeeded, or is a dead letter now (or, if someone waits for its
-- outcome, just failed), or its next attempt is due later. A batch succeeds as a whole with its first event; of
-- one that fails, each event has an end of its own.
--
-- P: name, key, delivery, only_expired (true: only when the lease ran out), counts (true: it is an
--    attempt though the handler was not entered), state ('succeeded', 'dead-lettered', 'failed'), told
--    (result or error for the receipt), answered (the same for who waits), delay (ms, of 'failed'),
--    done (ms when the handler was done; may be missing), history (ms that the event of one that succeeded is kept;
--    may be missing), budgets, outcome_kept (ms), seen_for (ms),
--    receipts_kept
-- Returns nil when this delivery has no lease (any more), else {attempt, meta, trace, phases, taken (ms), cold,
--    holder, released, delayed (ms), others (a list of the same with key and delivery, of the batch's other
--    events that succeeded with its first; missing when there are none)};
--    attempt is how often the handler was entered (or would not be): 0 of a delivery that was lost before.

local name = P.name

local function conclude(key, delivery, has)
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
    call('HDEL', invocation, 'holder', 'deadline', 'handler_entered', 'members')
    call('HDEL', 'koren:holders', has.holder)
    make_due(name, has.subject, now + P.delay)
    ring('f:' .. name)
  else
    finish(name, key, has, its, attempt, P)
    advance(name, has.subject, key)
  end
  return { key = key, delivery = delivery, attempt = attempt, meta = its.meta, trace = its.trace or '',
    taken = number(has.taken), cold = number(has.cold), holder = has.holder, released = has.released or '',
    delayed = number(has.delay), phases = {
    received = tonumber(its.received), activated = tonumber(its.activated),
    pod_started = tonumber(its.pod_started), handler_entered = tonumber(its.handler_entered),
    handler_done = P.done } }
end

local has = leased_invocation(name, P.key, P.delivery, P.only_expired)
if not has then
  return false
end
local others = {}
if P.state == 'succeeded' then
  for _, member in ipairs(members_of(P.key, has)) do
    local key, delivery = unpack(member)
    local its = leased_invocation(name, key, delivery, false)
    if its then
      others[#others + 1] = conclude(key, tonumber(delivery), its)
    end
  end
end
local answer = conclude(P.key, P.delivery, has)
if #others > 0 then
  answer.others = others
end
return cmsgpack.pack(answer)
