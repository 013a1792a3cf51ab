#!lua flags=no-writes
-- What a function has to do.
--
-- P: name, most (in hand at a time; may be missing), rate (handed out in any window; may be missing), window (ms)
-- Returns {subjects due that may be taken, subjects in hand, subjects that wait for their time or for the limits,
--          open incidents (none while a trigger is paused), ms until any of these changes by itself, or -1,
--          ms that the first of the subjects due has been due, subjects whose trigger is paused,
--          1 if the rate lets none run now and one soon}.

local SOON = 5000 -- a pod that has nothing to do goes after as long

local after = '(' .. now
local ready, incidents = of(P.name, 'ready'), of(P.name, 'incidents')
local next_change = -1
local function changes_in(ms)
  if next_change < 0 or ms < next_change then
    next_change = ms
  end
end
for _, key in ipairs({ ready, incidents }) do
  local first = call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then
    changes_in(first[2] - now)
  end
end
local due = call('ZCOUNT', ready, '-inf', now)
local free, wait = room(P.name)
local runnable = math.min(due, free)
local soon = 0
if runnable < due and wait > SOON then
  changes_in(wait - SOON)
elseif runnable < due and wait >= 0 then
  changes_in(wait)
  soon = 1
end
local first = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
return {
  runnable,
  call('ZCARD', of(P.name, 'leased')),
  call('ZCOUNT', ready, after, '+inf') + due - runnable,
  -- What they would keep running must not start anything.
  call('EXISTS', of(P.name, 'paused')) == 1 and 0 or call('ZCOUNT', incidents, after, '+inf'),
  next_change,
  math.max(0, now - (first[2] or now)),
  call('ZCARD', of(P.name, 'parked')),
  soon,
}
