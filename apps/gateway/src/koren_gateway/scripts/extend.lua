#!lua flags=allow-oom
-- Keeps a lease, and notes when the handler was entered.
--
-- KEYS: koren:fn:<fn>:invocation:<key>  koren:fn:<fn>:leased
--       koren:event:<key>  koren:receipts (see complete.lua)
-- ARGV: function, key, attempt, lease ms, grace ms, ms when the handler was entered ('' for a
--       heartbeat), the most receipts kept
-- Returns nil when this attempt has no lease (any more); else {meta, phases}, both empty for a
-- heartbeat.

local invocation, leased, event, receipts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, attempt, lease, grace, entered = ARGV[1], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local has = redis.call('HMGET', invocation, 'attempt', 'subject', 'holder', 'deadline')
if has[1] ~= attempt or not has[3] then
  return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit = tonumber(has[4]) + tonumber(grace)
if now > limit then
  return false
end
redis.call('ZADD', leased, 'XX', math.min(now + tonumber(lease), limit), has[2])

local meta, phases = '', {}
if entered ~= '' then
  redis.call('HSET', invocation, 'handler_entered', entered)
  local its = redis.call('HMGET', event, 'received', 'durable', 'meta')
  local own = redis.call('HMGET', invocation, 'activated', 'pod_started')
  meta = its[3] or '{}'
  phases = { 'received', its[1] or '', 'durable', its[2] or '', 'activated', own[1] or '',
    'pod_started', own[2] or '', 'handler_entered', entered }
  redis.call('XADD', receipts, 'MAXLEN', '~', ARGV[7], '*', 'state', 'started', 'function', name,
    'attempt', attempt, 'time', now, 'meta', meta, unpack(phases))
end
return { meta, phases }
