#!lua flags=allow-oom
-- Takes an invocation that nobody waits for any more out of its queue, unless it is in hand.
--
-- KEYS: koren:fn:<fn>:invocation:<key>  koren:fn:<fn>:ready  koren:event:<key>
-- ARGV: function, key
-- Returns 1 when it was taken out, else 0.

local invocation, ready, event = KEYS[1], KEYS[2], KEYS[3]
local has = redis.call('HMGET', invocation, 'subject', 'holder')
if not has[1] or has[2] then
  return 0
end
local queue = 'koren:fn:' .. ARGV[1] .. ':queue:' .. has[1]
redis.call('LREM', queue, 1, ARGV[2])
if redis.call('EXISTS', queue) == 0 then
  redis.call('ZREM', ready, has[1])
end
redis.call('DEL', invocation)
if redis.call('HINCRBY', event, 'refs', -1) <= 0 then
  redis.call('DEL', event)
end
redis.call('PUBLISH', 'koren:bell', 'f:' .. ARGV[1])
return 1
