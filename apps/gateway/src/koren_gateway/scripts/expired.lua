#!lua flags=no-writes
-- Lists leases of a function that ran out.
--
-- KEYS: koren:fn:<fn>:leased
-- ARGV: function
-- Returns a list of {key, attempt, once}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local prefix = 'koren:fn:' .. ARGV[1]
local leases = {}
for _, subject in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  local key = redis.call('LINDEX', prefix .. ':queue:' .. subject, 0)
  if key then
    local has = redis.call('HMGET', prefix .. ':invocation:' .. key, 'attempt', 'once')
    leases[#leases + 1] = { key, has[1], has[2] }
  end
end
return leases
