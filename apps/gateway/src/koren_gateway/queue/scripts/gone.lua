#!lua flags=allow-oom
-- Clears up after functions that are no more: after a grace their events are dead letters that say why,
-- what they have handled is forgotten,
-- and a while later their state goes, too. At most some hundreds of events at a time.
--
-- P: known (a list of the functions that there are), grace (ms), state_for (ms), budgets,
--    outcome_kept (ms), seen_for (ms), receipts_kept
-- Returns the names of the functions whose events became dead letters now.

local known = {}
for _, name in ipairs(P.known) do
  known[name] = true
end

local function bury_subject(name, subject)
  for _, key in ipairs(call('LRANGE', of(name, 'queue:' .. subject), 0, 99)) do
    local has = fields(of(name, 'invocation:' .. key), INVOCATION)
    if has.subject then
      has.event = has.event or key
      local its = its_event(has)
      local why = 'FunctionGone: function ' .. name .. ' was deleted; deploy it, then redrive'
      finish(name, key, has, its, number(has.attempts),
        { state = 'dead-lettered', told = why,
          answered = cjson.encode({ type = 'FunctionGone', message = why, traceback = '' }) })
    else
      forget_invocation(name, key, has)
    end
    call('LPOP', of(name, 'queue:' .. subject))
  end
  call('ZREM', of(name, 'leased'), subject)
  if call('EXISTS', of(name, 'queue:' .. subject)) == 1 then
    call('ZADD', of(name, 'ready'), now, subject)
  else
    call('ZREM', of(name, 'ready'), subject)
  end
  call('ZREM', of(name, 'parked'), subject)
end

local buried = {}
for _, name in ipairs(call('SMEMBERS', 'koren:functions')) do
  local since = call('HGET', 'koren:gone', name)
  if known[name] then
    if since then
      call('HDEL', 'koren:gone', name)
    end
  elseif number(since) == 0 then
    call('HSET', 'koren:gone', name, now)
  elseif now - since >= P.grace then
    local subjects = call('ZRANGE', of(name, 'ready'), 0, 9)
    for _, part in ipairs({ 'leased', 'parked' }) do
      for _, subject in ipairs(call('ZRANGE', of(name, part), 0, 9)) do
        subjects[#subjects + 1] = subject
      end
    end
    for _, subject in ipairs(subjects) do
      bury_subject(name, subject)
    end
    if #subjects > 0 then
      buried[#buried + 1] = name
    else
      forget_history(name, '+inf', 1000)
      call('DEL', of(name, 'ready'), of(name, 'leased'), of(name, 'parked'), of(name, 'paused'), of(name, 'delayed'),
        of(name, 'starts'), of(name, 'incidents'), of(name, 'activated'), of(name, 'init-error'), of(name, 'log'))
      charge('queue', name, -charged('queue:' .. name))
      call('HDEL', 'koren:bytes', 'log:' .. name)
      if now - since >= P.state_for then
        for _, key in ipairs(call('ZRANGE', of(name, 'states'), 0, -1)) do
          call('DEL', of(name, 'state:' .. key))
        end
        charge('state', name, -charged('state:' .. name))
        call('DEL', of(name, 'states'), of(name, 'state-bytes'))
        call('HDEL', 'koren:gone', name)
        call('SREM', 'koren:functions', name)
      end
    end
  end
end
return buried
