#!lua flags=allow-oom
-- Sets aside what is of a type that no script makes, for who may not do it itself: a script that only
-- reads, or a command.
--
-- P: name (of the function that a script failed for, or ''), keys (that a command could not read)
-- Returns the keys that were set aside.

local broken = {}
local wrong = P.keys
for _, part in ipairs({ 'ready', 'leased', 'parked', 'delayed', 'incidents', 'starts' }) do
  local kind = call('TYPE', of(P.name, part)).ok
  if kind ~= 'none' and kind ~= 'zset' then
    wrong[#wrong + 1] = of(P.name, part)
  end
end
for _, key in ipairs(wrong) do
  if call('EXISTS', key) == 1 then
    set_aside(key)
    broken[#broken + 1] = key
  end
end
return broken
