#!lua flags=allow-oom
-- Leases the first due event of a function to a holder (a pod's slot), or the first few as a batch. What is missing
-- behind a subject is passed over.
--
-- P: name, holder, budgets, lease (ms), timeout (ms), grace (ms: a lease ends at most so long after the
--    deadline), started (ms when the pod's process started; may be missing), cold (1: the pod has had no event),
--    most (in hand at a time; may be missing), rate (handed out in any window; may be missing), window (ms),
--    batch (how many events make a full batch; may be missing), batch_window (ms that an event waits for a full one)
-- Returns {state}: 'kept' with kept ('<fn>\n<key>\n<delivery>', the lease that the holder has still),
--    'none' with due (ms until the next is due, or -1), 'taken' with key, delivery, deadline (ms),
--    body, meta, trace, phases, released, replayed, delayed (ms), due (ms since when it was), more (subjects that may be
--    taken still), others (a list of the same, without more, of the batch's other events; missing when there are none).

local BATCH_BYTES = 2 * 2 ^ 20
local PASSED_OVER = 100

local name = P.name
local ready = of(name, 'ready')

local function lease(subject, key, has, event, due, holder)
  local invocation = of(name, 'invocation:' .. key)
  local delivery = call('HINCRBY', invocation, 'delivery', 1)
  local deadline = now + P.timeout
  -- Only what this event brought about is a phase of it, not how a pod that was there came to be.
  local phases = {}
  local received = tonumber(event.received)
  phases.received = received
  call('HSET', invocation, 'holder', holder, 'deadline', deadline, 'taken', now, 'cold', P.cold)
  call('ZREM', of(name, 'delayed'), key)
  if has.opens then
    call('HDEL', invocation, 'opens')
    open_incident(name, subject, has.sequence, number(has.opens))
  end
  for phase, ms in pairs({
    activated = number(call('GET', of(name, 'activated'))),
    pod_started = P.started or 0,
  }) do
    if received and ms >= received then
      call('HSET', invocation, phase, ms)
      phases[phase] = ms
    end
  end
  call('ZADD', of(name, 'leased'), math.min(now + P.lease, deadline + P.grace), subject)
  if P.rate then
    local starts = of(name, 'starts')
    call('ZREMRANGEBYSCORE', starts, '-inf', now - P.window)
    call('ZADD', starts, now, key .. '.' .. delivery)
    call('PEXPIRE', starts, P.window)
  end
  return {
    key = key, delivery = delivery, deadline = deadline, body = event.body,
    meta = event.meta, trace = event.trace or '', phases = phases, released = has.released or '',
    replayed = has.replayed or '', delayed = number(has.delay), due = due,
  }
end

call('DEL', of(name, 'init-error'))
local kept = call('HGET', 'koren:holders', P.holder)
if kept then
  local its_name, its_key, delivery = string.match(kept, '^([%w%-]+)\n([%w%-]+)\n(%d+)$')
  local has = its_name and leased_invocation(its_name, its_key, delivery, false)
  if not has or has.holder ~= P.holder then
    -- Nothing would ever end it.
    call('HDEL', 'koren:holders', P.holder)
    count_dropped('broken', 1)
    kept = nil
  end
end
if kept then
  return cmsgpack.pack({ state = 'kept', kept = kept })
end
local free, wait = room(name)
if free <= 0 then
  return cmsgpack.pack({ state = 'none', due = wait })
end
local most = 1
local waits, next_due = 0, -1
if P.batch then
  most = math.min(P.batch, free)
  waits, next_due = waiting_for_batch(name, call('ZCOUNT', ready, '-inf', now))
  next_due = waits > 0 and next_due or -1
end
local taken, bytes, passed = {}, 0, 0

-- Whether an event that is due may be handed out now, with those that are taken.
local function may_join(has, event)
  if not P.batch then
    return true
  end
  if is_alone(has) then
    return #taken == 0
  end
  return waits == 0 and (#taken == 0 or bytes + #event.body <= BATCH_BYTES)
end

while #taken < most and passed < PASSED_OVER do
  local first = call('ZRANGE', ready, passed, passed, 'WITHSCORES')
  local due = tonumber(first[2])
  if not due or due > now then
    if due then
      next_due = next_due < 0 and due - now or math.min(next_due, due - now)
    end
    break
  end
  local subject = first[1]
  local key = call('LINDEX', of(name, 'queue:' .. subject), 0)
  local is_early = key and (is_paused(name, subject) or not_before(name, subject) > now)
  local has, event
  if key and not is_early then
    has = fields(of(name, 'invocation:' .. key), { 'subject', 'event', 'released', 'replayed', 'bytes', 'holder',
      'answer', 'delay', 'opens', 'sequence', unpack(ALONE_BY) })
    event = fields('koren:event:' .. (has.event or key), { 'body', 'meta', 'received', 'trace' })
  end
  local is_whole = has and has.subject and event.body and event.meta
  if is_whole and not may_join(has, event) then
    passed = passed + 1
  else
    call('ZREM', ready, subject)
    if is_whole then
      taken[#taken + 1] = lease(subject, key, has, event, due, P.holder .. (#taken > 0 and '/+' or ''))
      bytes = bytes + #event.body
      if is_alone(has) then
        break
      end
    elseif is_early then
      make_due(name, subject, due)
    elseif key then
      forget_invocation(name, key, has)
      count_dropped('broken', 1)
      advance(name, subject, key)
    end
  end
end
local first = table.remove(taken, 1)
if not first then
  return cmsgpack.pack({ state = 'none', due = next_due })
end
call('HSET', 'koren:holders', P.holder, name .. '\n' .. first.key .. '\n' .. first.delivery)
if #taken > 0 then
  local members = {}
  for place, other in ipairs(taken) do
    members[place] = other.key .. ' ' .. other.delivery
  end
  call('HSET', of(name, 'invocation:' .. first.key), 'members', table.concat(members, '\n'))
  first.others = taken
end
first.state = 'taken'
first.more = math.min(call('ZCOUNT', ready, '-inf', now), free - 1 - #taken)
return cmsgpack.pack(first)
