#!lua flags=allow-oom
-- Leases the first due event of a function to a holder (a pod's slot). What is missing behind a subject is
-- passed over.
--
-- P: name, holder, budgets, lease (ms), timeout (ms), grace (ms: a lease ends at most so long after the
--    deadline), started (ms when the pod's process started; may be missing), cold (1: the pod has had no event),
--    most (in hand at a time; may be missing), rate (handed out in any window; may be missing), window (ms)
-- Returns {state}: 'kept' with kept ('<fn>\n<key>\n<delivery>', the lease that the holder has still),
--    'none' with due (ms until the next is due, or -1), 'taken' with key, delivery, deadline (ms),
--    body, meta, trace, phases, released, replayed, delayed (ms), due (ms since when it was), more (subjects that may be
--    taken still).

local name = P.name
local ready = of(name, 'ready')

local function lease(subject, key, has, event, due, free)
  local invocation = of(name, 'invocation:' .. key)
  local delivery = call('HINCRBY', invocation, 'delivery', 1)
  local deadline = now + P.timeout
  -- Only what this event brought about is a phase of it, not how a pod that was there came to be.
  local phases = {}
  local received = tonumber(event.received)
  phases.received = received
  call('HSET', invocation, 'holder', P.holder, 'deadline', deadline, 'taken', now, 'cold', P.cold)
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
  call('HSET', 'koren:holders', P.holder, name .. '\n' .. key .. '\n' .. delivery)
  return cmsgpack.pack({
    state = 'taken', key = key, delivery = delivery, deadline = deadline, body = event.body,
    meta = event.meta, trace = event.trace or '', phases = phases, released = has.released or '',
    replayed = has.replayed or '', delayed = number(has.delay), due = due,
    more = math.min(call('ZCOUNT', ready, '-inf', now), free - 1),
  })
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
while true do
  local first = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  if not first[1] then
    return cmsgpack.pack({ state = 'none', due = -1 })
  end
  local due = tonumber(first[2])
  if due > now then
    return cmsgpack.pack({ state = 'none', due = due - now })
  end
  local subject = first[1]
  call('ZREM', ready, subject)
  local key = call('LINDEX', of(name, 'queue:' .. subject), 0)
  if key and (is_paused(name, subject) or not_before(name, subject) > now) then
    make_due(name, subject, due)
  elseif key then
    local has = fields(of(name, 'invocation:' .. key),
      { 'subject', 'event', 'released', 'replayed', 'bytes', 'holder', 'answer', 'delay', 'opens', 'sequence' })
    local event = fields('koren:event:' .. (has.event or key), { 'body', 'meta', 'received', 'trace' })
    if has.subject and event.body and event.meta then
      return lease(subject, key, has, event, due, free)
    end
    forget_invocation(name, key, has)
    count_dropped('broken', 1)
    advance(name, subject, key)
  end
end
