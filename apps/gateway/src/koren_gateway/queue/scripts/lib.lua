-- What every script begins with: its argument `P` (MessagePack, named fields; each script says which),
-- the time `now` in ms, and the steps that several scripts take.
--
-- What is kept, by key (<fn>: a function's name); what is of another type is set aside as
-- koren:broken:<ms>:<key> when it is met:
--   koren:seen                        sorted set: 16 bytes of an event's key, by ms when it last came
--   koren:event:<event>               hash of an event with work, dead letters or history left: body, meta
--                                     (JSON of its attributes), received (ms), refs (invocations, letters, history),
--                                     trace (traceparent and topic, a line each) if it has one
--   koren:functions                   set of the functions that have something here
--   koren:gone                        hash: function -> ms since when its Deployment is missed
--   koren:fn:<fn>:queue:<subject>     list of invocations' keys, in order
--   koren:fn:<fn>:ready               sorted set of subjects with work and no lease, by due ms
--   koren:fn:<fn>:leased              sorted set of subjects with work in hand, by lease's end in ms
--   koren:fn:<fn>:parked              sorted set of subjects whose first event came by a paused trigger, by due ms
--   koren:fn:<fn>:delayed             sorted set of keys of invocations that wait for their trigger's delay, by ms of
--                                     its end
--   koren:fn:<fn>:paused              set of the function's triggers that are paused
--   koren:fn:<fn>:starts              sorted set of deliveries of a function with a rate, by ms; expires
--   koren:fn:<fn>:invocation:<key>    hash: subject, event, trigger ('' of a call), delay (ms, if its trigger has
--                                     one), opens (ms, until it is handed out: limit of the incident that it opens
--                                     then), once (1: one attempt,
--                                     somebody waits; 2: nobody waits any more), call
--                                     (1: its result is for the caller alone; 2: for a client of an HTTP
--                                     trigger), answer (1: there is a
--                                     koren:answer of its key), closes, sequence, bytes,
--                                     released (by whom, if it was held), replayed (by whom, if it is a copy
--                                     of what was handled before), delivery (fences), attempts
--                                     (handlers entered), and while leased: holder, deadline,
--                                     taken (ms), cold (1: its pod's first event), activated,
--                                     pod_started, handler_entered, and of a batch's first event members (of
--                                     the others, '<key> <delivery>' a line; their holder is '<holder>/+')
--   koren:fn:<fn>:incidents           sorted set of open incidents (subjects, short), by their limit in ms
--   koren:fn:<fn>:closed:<subject>    string, sequence of the event that closed it (subject short); expires
--   koren:fn:<fn>:activated           string, ms when the autoscaler was last told 'active'
--   koren:fn:<fn>:init-error          hash: why its pods did not start; expires
--   koren:fn:<fn>:state:<key>         hash: value, tag; may expire
--   koren:fn:<fn>:states              sorted set of state's keys, by expiry in ms ('+inf': never)
--   koren:fn:<fn>:state-bytes         hash: state's key -> bytes
--   koren:fn:<fn>:log                 stream: pod, text, bytes
--   koren:fn:<fn>:dead                sorted set of its dead letters' ids, by ms
--   koren:fn:<fn>:history             sorted set of the ids of what it has handled, by ms, each in a ms of its own
--   koren:fn:<fn>:replay:<request>    string, how many events that request has queued; expires
--   koren:cron                        hash: trigger of kind cron -> ms of its last moment, expression and time
--                                     zone, a line each
--   koren:holders                     hash: holder (a pod, for its slot 0, or '<pod>/<slot>') ->
--                                     '<fn>\n<key>\n<delivery>', its one lease
--   koren:receipts                    stream of receipts not yet published
--   koren:dead                        sorted set of all dead letters' ids, by ms when each became one
--   koren:dead:<id>                   hash: function ('' when none took it), reason, meta, event or
--                                     body, attempts, received (ms), time (ms), bytes, replayed
--   koren:history                     sorted set of the ids of all that functions have handled, by ms
--   koren:history:<id>                hash: function, event, subject, sequence, attempts, bytes
--   koren:held                        sorted set of held events, by ms when each is dismissed
--   koren:dismissed                   sorted set of dismissed ones, by ms when each is forgotten
--   koren:held:<event>                hash: state, subject, topic, meta, body, received, sequence, by,
--                                     bytes, trace
--   koren:holding:<subject>           list of the subject's held events, in order
--   koren:verdict:<subject>           string: 'released\n<by>' or 'dismissed\n<by>' (subject short); expires
--   koren:marks                       sorted set: keys of 'closed' and 'verdict', by ms when each expires
--   koren:outcome:<key>               hash: state, result or error; expires
--   koren:answer:<key>                hash of an invocation whose answer can be asked for: function, trigger,
--                                     kept (ms, from its end), asked (16 bytes of the event's key, '' if repeats
--                                     do not count), bytes, and once ended: state, body (result or error)
--   koren:answers                     sorted set of their keys, by ms when each is forgotten ('+inf': not ended)
--   koren:asked:<16 bytes>            string: key of the answer to the event with this key
--   koren:http-rate:<trigger>         string, µs from when on its next request is on time; expires
--   koren:bytes                       hash: account -> bytes; accounts: dead, history, held, queue, state,
--                                     answers, and <account>:<fn>
--   koren:dropped                     hash: what -> how many were dropped for want of room or by age
--   koren:clock                       string, ms of the host's clock some seconds ago at most
--   koren:mqtt-recent                 list: number, hash and id of messages of sources, the last thousand
--   koren:mqtt-topics                 hash: sources' topic filter -> 1 once the broker has the subscription, else 0
--   koren:bell                        channel: 'f:<fn>' when its work changed, 'o:<key>' at an outcome,
--                                     'i:<fn>' when its pod does not start

local P = cmsgpack.unpack(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- What each takes in Redis beside its event's size (measured).
local LETTER_BYTES = 800
local PAST_BYTES = 800
local INVOCATION_BYTES = 1000
local ANSWER_BYTES = 800
local RESULT_BYTES = 512 -- a larger result is left out while many receipts wait
local QUEUE_OF_FREE = 4
local BROKEN_KEPT = 14 * 24 * 3600 * 1000

local function of(name, part)
  return 'koren:fn:' .. name .. ':' .. part
end

-- A subject as it is kept where only its being the same counts: never longer than a hash.
local function short(subject)
  return #subject <= 40 and subject or redis.sha1hex(subject)
end

-- A whole number as it is kept; 0 for whatever is none.
local function number(value)
  local is = tonumber(value)
  if is and is > -2 ^ 53 and is < 2 ^ 53 then
    return math.floor(is)
  end
  return 0
end

-- Finds a function's subjects again by their queues, after `ready` or `leased` was lost. What a pod
-- has in hand it keeps for as long as it may.
local function find_subjects(name)
  local prefix, cursor = of(name, 'queue:'), '0'
  repeat
    local answer = redis.call('SCAN', cursor, 'MATCH', prefix .. '*', 'COUNT', 1000, 'TYPE', 'list')
    cursor = answer[1]
    for _, queue in ipairs(answer[2]) do
      local subject = string.sub(queue, #prefix + 1)
      local first = of(name, 'invocation:' .. redis.call('LINDEX', queue, 0))
      local deadline = redis.pcall('HGET', first, 'holder') and redis.pcall('HGET', first, 'deadline')
      if type(deadline) == 'string' then
        redis.pcall('ZADD', of(name, 'leased'), 'NX', number(deadline), subject)
      else
        redis.pcall('ZADD', of(name, 'ready'), 'NX', now, subject)
      end
    end
  until cursor == '0'
end

-- Puts a key of a type that no script makes out of the way.
local function set_aside(key)
  local kept = 'koren:broken:' .. now .. ':' .. key
  redis.call('RENAME', key, kept)
  redis.call('PEXPIRE', kept, BROKEN_KEPT)
  if key ~= 'koren:dropped' then
    redis.pcall('HINCRBY', 'koren:dropped', 'broken', 1)
  end
  local name, part = string.match(key, '^koren:fn:([^:]+):(%a+)$')
  if part == 'ready' or part == 'leased' or part == 'parked' then
    find_subjects(name)
  end
end

-- Runs a command. What stands in its way is set aside (a key of another type) or forgotten (a count
-- that is no number): broken data stop nothing that they do not belong to, and no script half-way.
local function call(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then
    return answer
  end
  local command, key, field = ...
  if string.find(answer.err, 'WRONGTYPE', 1, true) then
    set_aside(key)
  elseif command == 'HINCRBY' then
    redis.call('HDEL', key, field)
  end
  return redis.call(...)
end

local rung = {}

-- Once a script: who is woken sees all that it did, and wakes the next when there is more.
local function ring(what)
  if not rung[what] then
    rung[what] = true
    call('PUBLISH', 'koren:bell', what)
  end
end

local function add_to(account, bytes)
  if bytes == 0 then
    return -- also -0, which Redis takes for no number
  end
  if call('HINCRBY', 'koren:bytes', account, bytes) <= 0 then
    call('HDEL', 'koren:bytes', account)
  end
end

local function charge(account, name, bytes)
  add_to(account, bytes)
  if name ~= '' then
    add_to(account .. ':' .. name, bytes)
  end
end

local function charged(account)
  return number(call('HGET', 'koren:bytes', account))
end

local function count_dropped(what, number)
  if number > 0 then
    call('HINCRBY', 'koren:dropped', what, number)
  end
end

-- Remembers something of a subject for as long as repeats of its events may come. Where that is too
-- much for the region, the oldest goes.
local function mark(key, value)
  call('SET', key, value, 'PX', P.seen_for)
  call('ZADD', 'koren:marks', now + P.seen_for, key)
  local over = call('ZCARD', 'koren:marks') - P.budgets.marks
  if over > 0 then
    for _, oldest in ipairs(call('ZRANGE', 'koren:marks', 0, over - 1)) do
      call('DEL', oldest)
      call('ZREM', 'koren:marks', oldest)
    end
    count_dropped('marks', over)
  end
end

-- A hash's fields as a table; what is missing is nil.
local function fields(key, names)
  local found = {}
  for place, value in ipairs(call('HMGET', key, unpack(names))) do
    if value then
      found[names[place]] = value
    end
  end
  return found
end

local function report(state, name, attempt, meta, its, more)
  local words = { 'koren:receipts', 'MAXLEN', '~', P.receipts_kept, '*', 'state', state,
    'function', name, 'attempt', attempt, 'time', now, 'meta', meta }
  for _, phase in ipairs({ 'received', 'activated', 'pod_started', 'handler_entered', 'handler_done' }) do
    words[#words + 1], words[#words + 2] = phase, its[phase] or ''
  end
  for field, value in pairs(more or {}) do
    if field == 'result' and #value > RESULT_BYTES
        and call('XLEN', 'koren:receipts') > P.receipts_kept / 10 then
      value = '' -- the broker is away: what waits for it must not fill Redis
    end
    words[#words + 1], words[#words + 2] = field, value
  end
  call('XADD', unpack(words))
end

local function unref(event, count)
  local key = 'koren:event:' .. event
  if call('HINCRBY', key, 'refs', -(count or 1)) <= 0 then
    call('DEL', key)
  end
end

-- Drops what is kept of an event after its end; `kind` is 'dead' for a dead letter, or 'history'.
local function drop_kept(kind, id)
  local key, index = 'koren:' .. kind .. ':' .. id, 'koren:' .. kind
  local has = fields(key, { 'function', 'event', 'bytes' })
  call('DEL', key)
  local there = call('ZREM', index, id)
  -- The name also begins the id, for when nothing else is left.
  local name = has['function'] or string.match(id, '^([^.]+)%.') or ''
  if name ~= '' then
    call('ZREM', of(name, kind), id)
  end
  charge(kind, name, -number(has.bytes))
  if has.event then
    unref(has.event)
  end
  return there
end

-- Drops the oldest of a kind until all, or those of one function (else ''), keep the limit.
local function trim_kept(kind, name, limit, what)
  local index, account, dropped = 'koren:' .. kind, kind, 0
  if name ~= '' then
    index, account = of(name, kind), kind .. ':' .. name
  end
  while charged(account) > limit do
    local oldest = call('ZRANGE', index, 0, 0)[1]
    if not oldest then
      call('HDEL', 'koren:bytes', account)
      break
    end
    drop_kept(kind, oldest)
    call('ZREM', index, oldest)
    dropped = dropped + 1
  end
  count_dropped(what, dropped)
end

local function drop_letter(id)
  return drop_kept('dead', id)
end

-- Drops the oldest history of all functions until it keeps its limit, and leaves what the others need.
local function trim_history()
  local others = 0
  for _, account in ipairs({ 'dead', 'state', 'held', 'answers', 'queue' }) do
    others = others + charged(account)
  end
  trim_kept('history', '', math.max(0, math.min(P.budgets.history, P.budgets.shared - others)), 'history')
end

-- Forgets what a function handled up to a time, some of it.
local function forget_history(name, time, most)
  for _, id in ipairs(call('ZRANGEBYSCORE', of(name, 'history'), '-inf', time, 'LIMIT', 0, most)) do
    drop_kept('history', id)
    call('ZREM', of(name, 'history'), id)
  end
end

-- The time so many ms ago. A clock that was just set forward makes nothing old before set_clock has seen it.
local function ago(keep)
  local noted = number(call('GET', 'koren:clock'))
  return (noted > 0 and math.min(now, noted + 60000) or now) - keep
end

-- Keeps an event that a function has handled for so many ms. What its invocation had of the event, its
-- reference, is the history's then.
local function remember(name, key, has, size, keep)
  local id, index = name .. '.' .. key, of(name, 'history')
  if call('EXISTS', 'koren:history:' .. id) == 1 then
    drop_kept('history', id)
  end
  -- What a function handles within a ms stays in order, too.
  local at = math.max(now, number(call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]) + 1)
  local bytes = size + PAST_BYTES
  call('HSET', 'koren:history:' .. id, 'function', name, 'event', has.event, 'subject', has.subject,
    'sequence', has.sequence or '', 'attempts', has.attempts, 'bytes', bytes)
  call('ZADD', 'koren:history', at, id)
  call('ZADD', index, at, id)
  charge('history', name, bytes)
  forget_history(name, ago(keep), 3) -- as fast as it grows
  trim_kept('history', name, P.budgets.history_function, 'history')
  trim_history()
end

-- Makes a dead letter. `body` is nil when it keeps the event that `event` names, of which it has a
-- reference already.
local function bury(id, name, letter, event, body, size)
  if call('EXISTS', 'koren:dead:' .. id) == 1 then
    drop_letter(id)
  end
  local bytes = size + LETTER_BYTES
  call('HSET', 'koren:dead:' .. id, 'function', name, 'reason', letter.reason, 'meta', letter.meta,
    'attempts', letter.attempts, 'received', letter.received, 'time', now, 'bytes', bytes)
  if event then
    call('HSET', 'koren:dead:' .. id, 'event', event)
  else
    call('HSET', 'koren:dead:' .. id, 'body', body)
  end
  if letter.replayed then
    call('HSET', 'koren:dead:' .. id, 'replayed', letter.replayed)
  end
  call('ZADD', 'koren:dead', now, id)
  charge('dead', name, bytes)
  if name ~= '' then
    call('ZADD', of(name, 'dead'), now, id)
    trim_kept('dead', name, P.budgets.dead_function, 'dead-letters')
  end
  trim_kept('dead', '', P.budgets.dead, 'dead-letters')
end

local INVOCATION = { 'subject', 'event', 'delay', 'once', 'call', 'answer', 'closes', 'sequence', 'bytes', 'released',
  'replayed', 'delivery', 'attempts', 'holder', 'deadline', 'taken', 'cold', 'activated', 'pod_started', 'handler_entered',
  'members' }

-- The invocation, if this delivery has its lease (and, if asked for, only when that ran out).
local function leased_invocation(name, key, delivery, only_expired)
  local has = fields(of(name, 'invocation:' .. key), INVOCATION)
  if has.delivery ~= tostring(delivery) or not has.holder or not has.subject then
    return nil
  end
  has.event = has.event or key
  if only_expired then
    local ends = call('ZSCORE', of(name, 'leased'), has.subject)
    if not ends or number(ends) > now then
      return nil
    end
  end
  return has
end

-- Keys and deliveries of a batch's other events, by the invocation of its first.
local function members_of(key, has)
  local found = {}
  for other, delivery in string.gmatch(has.members or '', '([%w%-]+) (%d+)') do
    if other ~= key then
      found[#found + 1] = { other, delivery }
    end
  end
  return found
end

-- Event and phases of an invocation, for receipts.
local function its_event(has)
  local its = fields('koren:event:' .. has.event, { 'received', 'meta', 'trace' })
  its.meta = its.meta or '{}'
  its.activated, its.pod_started = has.activated, has.pod_started
  its.handler_entered = has.handler_entered
  return its
end

local function forget_answer(key)
  local has = fields('koren:answer:' .. key, { 'asked', 'bytes' })
  if has.asked and has.asked ~= '' then
    call('DEL', 'koren:asked:' .. has.asked)
  end
  call('DEL', 'koren:answer:' .. key)
  call('ZREM', 'koren:answers', key)
  charge('answers', '', -number(has.bytes))
end

-- Forgets an answer that will not come, so that its event may come again.
local function give_up_answer(key)
  local asked = call('HGET', 'koren:answer:' .. key, 'asked')
  if asked and asked ~= '' then
    call('ZREM', 'koren:seen', asked)
  end
  forget_answer(key)
end

-- Drops the oldest answers until there is room for so many bytes more. False when those that are still to come
-- leave none.
local function trim_answers(bytes)
  while charged('answers') + bytes > P.budgets.answers do
    local oldest = call('ZRANGE', 'koren:answers', '-inf', '(+inf', 'BYSCORE', 'LIMIT', 0, 1)[1]
    if not oldest then
      return false
    end
    forget_answer(oldest)
    count_dropped('answers', 1)
  end
  return true
end

-- Keeps how an invocation ended, for who asks for it. Where there is no room the oldest answers go; of one that
-- is too large only the state stays.
local function keep_answer(key, state, body)
  local name = 'koren:answer:' .. key
  local has = fields(name, { 'kept' })
  if not has.kept then
    return
  end
  if #body > P.budgets.answers / 4 then
    call('HSET', name, 'state', state)
    body = ''
    count_dropped('answers', 1)
  else
    call('HSET', name, 'state', state, 'body', body)
  end
  call('HINCRBY', name, 'bytes', #body)
  charge('answers', '', #body)
  call('ZADD', 'koren:answers', now + number(has.kept), key)
  trim_answers(0)
end

-- Forgets an invocation and what belongs to it alone.
local function forget_invocation(name, key, has)
  call('DEL', of(name, 'invocation:' .. key))
  call('ZREM', of(name, 'delayed'), key)
  if has.answer then
    give_up_answer(key)
  end
  charge('queue', name, -number(has.bytes))
  if has.holder then
    call('HDEL', 'koren:holders', has.holder)
  end
  if has.event then
    unref(has.event)
  end
end

-- Whether the first event of a subject came by a trigger that is paused.
local function is_paused(name, subject)
  if call('EXISTS', of(name, 'paused')) == 0 then
    return false
  end
  local key = call('LINDEX', of(name, 'queue:' .. subject), 0)
  local trigger = key and call('HGET', of(name, 'invocation:' .. key), 'trigger')
  return trigger and call('SISMEMBER', of(name, 'paused'), trigger) == 1
end

-- From when on the first event of a subject may be handed out, by its trigger's delay.
local function not_before(name, subject)
  local key = call('LINDEX', of(name, 'queue:' .. subject), 0)
  return number(key and call('ZSCORE', of(name, 'delayed'), key))
end

-- Has a subject with work and no lease wait until it is due, its delay is over, and its trigger is resumed.
local function make_due(name, subject, due)
  due = math.max(due, not_before(name, subject))
  call('ZADD', of(name, is_paused(name, subject) and 'parked' or 'ready'), due, subject)
end

-- How many more events of a function may be handed out now, and when there is none the ms until its rate lets one
-- (-1: not by time).
local function room(name)
  local free = math.huge
  if P.most then
    free = P.most - call('ZCARD', of(name, 'leased'))
    if free <= 0 then
      return 0, -1
    end
  end
  if P.rate then
    local starts = of(name, 'starts')
    local left = P.rate - call('ZCOUNT', starts, '(' .. now - P.window, '+inf')
    if left <= 0 then
      return 0, call('ZRANGE', starts, -P.rate, -P.rate, 'WITHSCORES')[2] + P.window - now
    end
    free = math.min(free, left)
  end
  return free, -1
end

-- How many events make a full batch: more than the limits let be in hand never come together.
local function full_batch()
  return math.min(P.batch, P.most or P.batch, P.rate or P.batch)
end

-- Whether an event is handed out by itself: one that was tried before or lost several times, so that it fails alone if
-- it fails again, and one that somebody waits for.
local ALONE_BY = { 'attempts', 'once', 'call', 'delivery' }
local function is_alone(has)
  return number(has.attempts) > 0 or number(has.delivery) >= 3 or number(has.once) > 0 or number(has.call) > 0
end

-- How many of the subjects that are due wait for a full batch (0: what there is may be handed out), and the ms until
-- the first of them has waited for the window, from its arrival on, and since when the first has been due that does not
-- wait, if there is one. It writes nothing: what is broken waits for nothing.
local function waiting_for_batch(name, due)
  if not P.batch or due == 0 or due >= full_batch() then
    return 0
  end
  local waits, least, others_due = 0, math.huge, nil
  local subjects = call('ZRANGE', of(name, 'ready'), 0, due - 1, 'WITHSCORES')
  for place = 1, #subjects, 2 do
    local subject = subjects[place]
    local key = redis.pcall('LINDEX', of(name, 'queue:' .. subject), 0)
    local found = type(key) == 'string' and redis.pcall('HMGET', of(name, 'invocation:' .. key), 'event', 'delay',
      unpack(ALONE_BY))
    if type(found) ~= 'table' or found.err then
      return 0
    end
    local has = { attempts = found[3], once = found[4], call = found[5], delivery = found[6] }
    if is_alone(has) then
      others_due = others_due or tonumber(subjects[place + 1])
    else
      local received = redis.pcall('HGET', 'koren:event:' .. (found[1] or key), 'received')
      local left = number(type(received) == 'string' and received) + number(found[2]) + P.batch_window - now
      if left <= 0 then
        return 0
      end
      waits, least = waits + 1, math.min(least, left)
    end
  end
  return waits, least, others_due
end

-- Takes an event out of its subject's queue; the next one is due now.
local function advance(name, subject, key)
  local queue = of(name, 'queue:' .. subject)
  call('LREM', queue, 1, key)
  if call('EXISTS', queue) == 1 then
    make_due(name, subject, now)
  end
end

-- Ends an invocation for good. `its` are its event's fields, `verdict` has state, told, answered, and of one that
-- succeeded history (ms that its event is kept).
local function finish(name, key, has, its, attempt, verdict)
  local field = verdict.state == 'succeeded' and 'result' or 'error'
  local keeps = false
  if has.once == '1' then
    local outcome = 'koren:outcome:' .. key
    call('HSET', outcome, 'state', verdict.state, field, verdict.answered)
    call('PEXPIRE', outcome, P.outcome_kept)
    ring('o:' .. key)
  elseif verdict.state == 'dead-lettered' and has.once ~= '2' then
    keeps = true
  end
  if has.answer then
    keep_answer(key, verdict.state, verdict.answered)
  end
  local told = verdict.told
  if number(has.call) > 0 and verdict.state == 'succeeded' then
    told = '' -- whoever reads receipts need not be who called
  end
  report(verdict.state, name, attempt, its.meta, its, { [field] = told })
  if has.closes == '1' then
    call('ZREM', of(name, 'incidents'), short(has.subject))
    mark(of(name, 'closed:' .. short(has.subject)), has.sequence or '')
  end
  call('DEL', of(name, 'invocation:' .. key))
  call('ZREM', of(name, 'delayed'), key)
  if has.holder then
    call('HDEL', 'koren:holders', has.holder)
  end
  local bytes = number(has.bytes)
  charge('queue', name, -bytes)
  if keeps then
    bury(name .. '.' .. key, name,
      { reason = verdict.told, meta = its.meta, attempts = attempt, received = its.received or '',
        replayed = has.replayed },
      has.event, nil, math.max(0, bytes - INVOCATION_BYTES))
  elseif verdict.state == 'succeeded' and number(verdict.history) > 0 and has.call ~= '1' and not has.replayed then
    has.attempts = attempt
    remember(name, key, has, math.max(0, bytes - INVOCATION_BYTES), verdict.history)
  else
    unref(has.event)
  end
  ring('f:' .. name)
end

-- Whether a function's queue may take so many bytes more. It may hold its own limit, and at most so many
-- times what all queues leave free: of several that fill up, the largest is refused first, and one that is
-- empty has room still.
local function has_room(name, bytes)
  local its = charged('queue:' .. name) + bytes
  local free = P.budgets.queue - charged('queue') - bytes
  return its <= P.budgets.queue_function and its <= QUEUE_OF_FREE * free
end

-- The same, after what broken data have left of an empty queue's account is cleared.
local function makes_room(name, bytes)
  if has_room(name, bytes) then
    return true
  end
  if call('EXISTS', of(name, 'ready'), of(name, 'leased'), of(name, 'parked')) == 0 then
    charge('queue', name, -charged('queue:' .. name))
  end
  return has_room(name, bytes)
end

local met = {}

-- Has a function that gets something known, once a script.
local function meet(name)
  if not met[name] then
    met[name] = true
    call('SADD', 'koren:functions', name)
    call('ZREMRANGEBYSCORE', of(name, 'incidents'), '-inf', now)
  end
end

-- Opens a subject's incident, which keeps the function running for `limit` ms at most.
local function open_incident(name, subject, sequence, limit)
  -- An opening that comes after its own incident's end (a repeat that was held up) is work, but
  -- opens nothing.
  local closed = call('GET', of(name, 'closed:' .. short(subject)))
  if closed and number(sequence) <= number(closed) then
    return
  end
  if call('ZCARD', of(name, 'incidents')) < P.budgets.incidents_function then
    call('ZADD', of(name, 'incidents'), 'NX', now + limit, short(subject))
  else
    count_dropped('incidents', 1) -- its events are handled; nothing keeps the function running
  end
end

-- Puts an event into a function's queue. `work`: key, subject, event, size (bytes of body and
-- attributes), sequence, once, call, answer, released, replayed (may be missing); `wish`: name, trigger, opens, closes, limit,
-- delay. False when the function's queue is full, or the invocation is there already.
local function put(work, wish)
  local name, subject = wish.name, work.subject
  local invocation = of(name, 'invocation:' .. work.key)
  if call('EXISTS', invocation) == 1 then
    return false, 'twice'
  end
  local bytes = work.size + INVOCATION_BYTES
  if not makes_room(name, bytes) then
    return false, 'full'
  end
  meet(name)
  call('HSET', invocation, 'subject', subject, 'event', work.event, 'trigger', wish.trigger, 'once', work.once,
    'call', work.call, 'closes', wish.closes, 'sequence', work.sequence, 'bytes', bytes,
    'released', work.released, 'delivery', 0, 'attempts', 0)
  if work.answer == 1 then
    call('HSET', invocation, 'answer', 1)
  end
  if work.replayed then
    call('HSET', invocation, 'replayed', work.replayed, 'closes', 0)
  end
  if wish.delay > 0 then
    call('HSET', invocation, 'delay', wish.delay)
    call('ZADD', of(name, 'delayed'), now + wish.delay, work.key)
  end
  charge('queue', name, bytes)
  if call('RPUSH', of(name, 'queue:' .. subject), work.key) == 1 then
    make_due(name, subject, now)
  end
  if wish.opens == 1 and not work.replayed then
    if wish.delay > 0 then
      call('HSET', invocation, 'opens', wish.limit) -- what only waits keeps nothing running
    else
      open_incident(name, subject, work.sequence, wish.limit)
    end
  end
  return true
end

-- Puts an event into the queue of each function that wants it; a full function's becomes its dead
-- letter. `event`: body, meta, received, trace. Returns whether one was refused.
local function spread(work, event, wishes)
  local key = 'koren:event:' .. work.event
  local refused, unused = false, 0
  if #wishes == 0 then
    return false
  end
  if event then
    call('HSET', key, 'body', event.body, 'meta', event.meta, 'received', event.received)
    if event.trace and event.trace ~= '' then
      call('HSET', key, 'trace', event.trace)
    end
  end
  call('HINCRBY', key, 'refs', #wishes)
  for _, wish in ipairs(wishes) do
    local put_in, why = put(work, wish)
    if put_in then
      ring('f:' .. wish.name)
    elseif why == 'full' then
      refused = true
      count_dropped('queue-full', 1)
      if work.once == 1 or work.answer == 1 then
        unused = unused + 1
      else
        local its = fields(key, { 'meta', 'received' })
        local reason = 'QueueFull: the queue of ' .. wish.name .. ' has ' .. charged('queue:' .. wish.name)
          .. ' bytes of at most ' .. P.budgets.queue_function .. ', all queues of the region have '
          .. charged('queue') .. ' of at most ' .. P.budgets.queue
          .. '; mend or scale the functions that are behind, then redrive'
        meet(wish.name)
        bury(wish.name .. '.' .. work.key, wish.name,
          { reason = reason, meta = its.meta, attempts = 0, received = its.received, replayed = work.replayed },
          work.event, nil, work.size)
        report('dead-lettered', wish.name, 0, its.meta, its, { error = reason })
      end
    else
      unused = unused + 1
    end
  end
  if unused > 0 then
    unref(work.event, unused)
  end
  return refused
end

local function forget_held(key)
  local bytes = number(call('HGET', 'koren:held:' .. key, 'bytes'))
  call('DEL', 'koren:held:' .. key)
  call('ZREM', 'koren:dismissed', key)
  call('ZREM', 'koren:held', key)
  charge('held', '', -bytes)
end

local function dismiss(subject, by, keep_for)
  local keys = call('LRANGE', 'koren:holding:' .. subject, 0, -1)
  local ids = {}
  for _, key in ipairs(keys) do
    local held = fields('koren:held:' .. key, { 'meta', 'received' })
    call('ZREM', 'koren:held', key)
    if held.meta then
      call('HSET', 'koren:held:' .. key, 'state', 'dismissed', 'by', by)
      call('ZADD', 'koren:dismissed', now + keep_for, key)
      report('dismissed', '', 0, held.meta, held)
      ids[#ids + 1] = held.meta
    else
      forget_held(key)
    end
  end
  if #keys == 0 then
    return ids -- somebody else was faster: what they said stands
  end
  call('DEL', 'koren:holding:' .. subject)
  mark('koren:verdict:' .. short(subject), 'dismissed\n' .. by)
  return ids
end

-- Forgets a function's state that has expired, some of it.
local function forget_states(name)
  local index, sizes = of(name, 'states'), of(name, 'state-bytes')
  for _, old in ipairs(call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, 100)) do
    charge('state', name, -number(call('HGET', sizes, old)))
    call('HDEL', sizes, old)
    call('ZREM', index, old)
    call('DEL', of(name, 'state:' .. old))
  end
end
