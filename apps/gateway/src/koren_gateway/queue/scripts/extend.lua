#!lua flags=allow-oom
-- Keeps a lease (and those of a batch's other events with that of its first), and notes when the handler was
-- entered: that is what counts an attempt.
--
-- P: name, key, delivery, lease (ms), grace (ms), entered (ms; missing for a heartbeat), receipts_kept
-- Returns nil when this delivery has no lease (any more), else {attempt, and for the first 'entered'
--    meta, phases, released, delayed (ms), others (a list of the same with key, of the batch's other events;
--    missing when there are none)}.

local function its_lease(key, delivery)
  local has = leased_invocation(P.name, key, delivery, false)
  if has and now <= number(has.deadline) + P.grace then
    return has
  end
end

local function keep(key, has)
  local limit = number(has.deadline) + P.grace
  call('ZADD', of(P.name, 'leased'), 'XX', math.min(now + P.lease, limit), has.subject)

  local invocation = of(P.name, 'invocation:' .. key)
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
  return answer
end

local has = its_lease(P.key, P.delivery)
if not has then
  return false
end
local members = {}
for _, member in ipairs(members_of(P.key, has)) do
  local its = its_lease(unpack(member))
  if not its then
    return false -- another pod may be at this event by now
  end
  members[#members + 1] = { member[1], its }
end
local answer, others = keep(P.key, has), {}
for _, member in ipairs(members) do
  local its = keep(unpack(member))
  if its.meta then
    its.key = member[1]
    others[#others + 1] = its
  end
end
if #others > 0 then
  answer.others = others
end
return cmsgpack.pack(answer)
