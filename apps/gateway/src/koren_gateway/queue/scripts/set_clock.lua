#!lua flags=allow-oom
-- Notices that the host's clock was set by more than half a minute, and moves the times of what waits
-- and of what is in hand by as much. Else events would wait for hours after a clock that was ahead is
-- set back, and pods would lose what they have in hand when it is set forward.
--
-- P: ran (ms since the caller last ran this, by a clock that nobody sets; may be missing)
-- Returns by how many ms the clock was set, 0 if it was not.

local STEP = 30000
local NOTED_EVERY = 10000

local noted = number(call('GET', 'koren:clock'))
local step = 0
if noted > 0 and now < noted - STEP then
  step = now - noted
elseif noted > 0 and P.ran and now - noted - P.ran > STEP + NOTED_EVERY then
  step = now - noted - P.ran
end
if step ~= 0 or now < noted or now - noted >= NOTED_EVERY then
  call('SET', 'koren:clock', now)
end
if step == 0 then
  return 0
end

-- Times that were noted by the clock as it was. What came since then is dated by the new one.
local from, to = now + STEP, '+inf'
if step > 0 then
  from, to = noted - STEP, now - STEP
end

local function moved(key)
  local found = call('ZRANGEBYSCORE', key, from, to, 'WITHSCORES')
  for place = 1, #found, 2 do
    call('ZADD', key, found[place + 1] + step, found[place])
  end
  return found
end

-- Events whose trigger has a delay are known to be of the time before or after by when they came: one may be due long
-- after the clock's new time, and its whole delay is to pass.
local function move_delayed(name)
  local found = call('ZRANGE', of(name, 'delayed'), 0, -1, 'WITHSCORES')
  for place = 1, #found, 2 do
    local key, due = found[place], number(found[place + 1])
    local has = fields(of(name, 'invocation:' .. key), { 'subject', 'delay' })
    local came = due - number(has.delay)
    local before = step > 0 and came < noted + STEP or step < 0 and (came > now or came <= now - STEP)
    if before then
      due = due + step
      call('ZADD', of(name, 'delayed'), due, key)
    end
    if has.subject and call('LINDEX', of(name, 'queue:' .. has.subject), 0) == key then
      for _, part in ipairs({ 'ready', 'parked' }) do
        call('ZADD', of(name, part), 'XX', 'GT', due, has.subject)
      end
    end
  end
end

-- What was handled keeps its age and its order.
local function move_history(name)
  local index, last, after = of(name, 'history'), '+inf', nil
  if step > 0 then
    last = now - STEP
    after = call('ZRANGEBYSCORE', index, '(' .. last, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  end
  local limit = tonumber(after) or math.huge
  local found = call('ZRANGEBYSCORE', index, '-inf', last, 'WITHSCORES')
  for place = #found - 1, 1, -2 do
    limit = math.min(found[place + 1] + step, limit - 1)
    call('ZADD', index, limit, found[place])
    call('ZADD', 'koren:history', limit, found[place])
  end
end

for _, name in ipairs(call('SMEMBERS', 'koren:functions')) do
  for _, part in ipairs({ 'ready', 'parked', 'starts', 'incidents' }) do
    moved(of(name, part))
  end
  move_delayed(name)
  local in_hand = moved(of(name, 'leased'))
  for place = 1, #in_hand, 2 do
    local key = call('LINDEX', of(name, 'queue:' .. in_hand[place]), 0)
    if key and call('HEXISTS', of(name, 'invocation:' .. key), 'deadline') == 1 then
      call('HINCRBY', of(name, 'invocation:' .. key), 'deadline', step)
    end
  end
  move_history(name)
  ring('f:' .. name)
end
moved('koren:held')
moved('koren:answers')
return step
