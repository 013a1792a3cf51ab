#!lua flags=allow-oom
-- Has some triggers of a function paused, and no others; moves some hundreds of subjects that wait accordingly.
--
-- P: name, paused (a list of triggers), ready, parked (how many subjects at the head of each stay where they are)
-- Returns {ready, parked} for the next time, or {} when all are where they belong.

local AT_ONCE = 500
local name = P.name
local paused = of(name, 'paused')
call('DEL', paused)
if #P.paused > 0 then
  call('SADD', paused, unpack(P.paused))
end

-- Moves subjects from a sorted set to another if they are paused or not; how many stay at its head, and whether
-- these are all.
local function sift(from, to, wrong, stay)
  local some = call('ZRANGE', of(name, from), stay, stay + AT_ONCE - 1, 'WITHSCORES')
  for place = 1, #some, 2 do
    local subject = some[place]
    if is_paused(name, subject) == wrong then
      call('ZREM', of(name, from), subject)
      call('ZADD', of(name, to), some[place + 1], subject)
    else
      stay = stay + 1
    end
  end
  return stay, #some < 2 * AT_ONCE
end

local stay_ready, all_ready = P.ready, true
if #P.paused > 0 then
  stay_ready, all_ready = sift('ready', 'parked', true, P.ready)
end
local stay_parked, all_parked = sift('parked', 'ready', false, P.parked)
ring('f:' .. name)
return all_ready and all_parked and {} or { stay_ready, stay_parked }
