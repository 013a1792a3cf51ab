#!lua
-- Takes a batch of events in, all or none: for each, drops it if it was seen, puts it into the queue
-- of every function that wants it, or holds it, or makes it a dead letter, and marks it seen. Refused
-- whole when Redis is full, before the first write.
--
-- P: budgets, hold_for (ms), keep_dismissed (ms), receipts_kept, events
-- Each of events: key, subject, received (ms), seen (16 bytes; '' when repeats do not count), meta, body,
--    trace ('' if none), size (bytes that its body, attributes, trace and subject take), once, call,
--    answer (ms that the answer is kept for who asks; 0: it is not), trigger (whose answer that is),
--    letter (dead letter that it takes the place of, or ''), reason ('' unless it is to be a dead letter itself), sequence ('' if none),
--    hold (1: it waits for a person), topic,
--    functions: a list of name, trigger, opens, closes, limit (ms), delay (ms)
-- Returns for each {outcome, ms}: 'new', 'held', 'dismissed', 'dead-lettered' (held events are full),
--    'full' (a call, or one with an answer, whose function's queue is full; or too many answers are still
--    to come), 'gone' (its dead letter is),
--    or 'seen' with the ms when it came last and, if it is held or dismissed now, that state.

local function hold(event, verdict)
  local key = 'koren:held:' .. event.key
  local state = call('HGET', key, 'state')
  if state == 'held' or state == 'dismissed' then
    return state -- a repeat of what is not remembered any more
  end
  local bytes = event.size + LETTER_BYTES
  while charged('held') + bytes > P.budgets.held do
    local oldest = call('ZRANGE', 'koren:dismissed', 0, 0)[1]
    if not oldest then
      break
    end
    forget_held(oldest)
    count_dropped('dismissed', 1)
  end
  if charged('held') + bytes > P.budgets.held then
    count_dropped('held-full', 1)
    bury(event.key, '', { reason = 'HeldFull: held events have reached their ' .. P.budgets.held
      .. ' bytes; release or dismiss some, then publish it again', meta = event.meta, attempts = 0,
      received = event.received }, nil, event.body, event.size)
    if event.seen ~= '' then
      call('ZREM', 'koren:seen', event.seen) -- published again it is to come in
    end
    return 'dead-lettered'
  end
  call('HSET', key, 'state', 'held', 'subject', event.subject, 'topic', event.topic,
    'meta', event.meta, 'body', event.body, 'received', event.received,
    'sequence', event.sequence, 'by', '', 'bytes', bytes, 'trace', event.trace)
  charge('held', '', bytes)
  if verdict then
    call('HSET', key, 'state', 'dismissed', 'by', verdict)
    call('ZADD', 'koren:dismissed', now + P.keep_dismissed, event.key)
    return 'dismissed'
  end
  call('ZADD', 'koren:held', now + P.hold_for, event.key)
  call('RPUSH', 'koren:holding:' .. event.subject, event.key)
  return 'held'
end

-- False when too many answers are still to come.
local function expect_answer(event)
  if not trim_answers(ANSWER_BYTES) then
    return false
  end
  call('HSET', 'koren:answer:' .. event.key, 'function', event.functions[1].name, 'trigger', event.trigger,
    'kept', event.answer, 'asked', event.seen, 'bytes', ANSWER_BYTES)
  call('ZADD', 'koren:answers', '+inf', event.key)
  charge('answers', '', ANSWER_BYTES)
  if event.seen ~= '' then
    call('SET', 'koren:asked:' .. event.seen, event.key)
  end
  return true
end

local function take_in(event)
  if event.seen ~= '' then
    local last = call('ZSCORE', 'koren:seen', event.seen)
    call('ZADD', 'koren:seen', now, event.seen)
    if last then
      local state = event.hold == 1 and call('HGET', 'koren:held:' .. event.key, 'state')
      return { 'seen', tonumber(last), state or '' }
    end
  end
  local work = { key = event.key, subject = event.subject, event = event.key, size = event.size,
    sequence = event.sequence, once = event.once, call = event.call, released = '',
    answer = event.answer > 0 and 1 or 0 }
  if event.letter ~= '' then
    local letter = fields('koren:dead:' .. event.letter, { 'event', 'body', 'meta', 'received', 'bytes', 'replayed' })
    if not letter.meta then
      return { 'gone', 0 }
    end
    work.size = math.max(0, number(letter.bytes) - LETTER_BYTES)
    work.replayed = letter.replayed
    if not letter.event then
      drop_letter(event.letter)
      spread(work, letter, event.functions)
      return { 'new', 0 }
    end
    -- The event itself stays where it is; only who has a reference changes. The letter makes room
    -- first: if its event is to be a dead letter again, others need not go.
    work.event = letter.event
    call('HINCRBY', 'koren:event:' .. letter.event, 'refs', 1)
    drop_letter(event.letter)
    spread(work, nil, event.functions)
    unref(letter.event)
    return { 'new', 0 }
  end
  if event.reason ~= '' then
    bury(event.key, '', { reason = event.reason, meta = event.meta, attempts = 0,
      received = event.received }, nil, event.body, event.size)
    return { 'new', 0 }
  end
  if event.hold == 1 then
    local verdict = call('GET', 'koren:verdict:' .. short(event.subject))
    local by = verdict and string.match(verdict, '^released\n(.*)$')
    if not by then
      return { hold(event, verdict and string.match(verdict, '^dismissed\n(.*)$')), 0 }
    end
    work.released = by
  end
  if work.answer == 1 and not expect_answer(event) then
    if event.seen ~= '' then
      call('ZREM', 'koren:seen', event.seen) -- it may come again
    end
    return { 'full', 0 }
  end
  if spread(work, event, event.functions) and (work.once == 1 or work.answer == 1) then
    if work.answer == 1 then
      give_up_answer(event.key)
    end
    return { 'full', 0 }
  end
  return { 'new', 0 }
end

local answers = {}
for place, event in ipairs(P.events) do
  answers[place] = take_in(event)
end
local over = call('ZCARD', 'koren:seen') - P.budgets.seen
if over > 0 then
  count_dropped('seen', call('ZREMRANGEBYRANK', 'koren:seen', 0, over - 1))
end
return cmsgpack.pack(answers)
