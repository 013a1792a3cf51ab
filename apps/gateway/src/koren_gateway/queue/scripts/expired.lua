#!lua flags=allow-oom
-- Lists leases of a function that ran out. A lease with nothing behind it is removed.
--
-- P: name
-- Returns a list of {key, delivery}.

local leases = {}
local leased = of(P.name, 'leased')
for _, subject in ipairs(call('ZRANGEBYSCORE', leased, '-inf', now)) do
  local key = call('LINDEX', of(P.name, 'queue:' .. subject), 0)
  local has = key and fields(of(P.name, 'invocation:' .. key), { 'delivery', 'holder' }) or {}
  if has.holder and tonumber(has.delivery) then
    leases[#leases + 1] = { key, tonumber(has.delivery) }
  else
    call('ZREM', leased, subject)
    if key then
      make_due(P.name, subject, now) -- whatever it is, `take` sorts it out
    end
    count_dropped('broken', 1)
  end
end
return cmsgpack.pack(leases)
