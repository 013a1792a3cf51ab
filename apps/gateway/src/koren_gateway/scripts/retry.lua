#!lua flags=allow-oom
-- Ends an attempt that failed or was lost; its subject becomes ready again when the next is due.
--
-- KEYS: koren:fn:<fn>:invocation:<key>  koren:fn:<fn>:leased  koren:fn:<fn>:ready
--       koren:event:<key>  koren:holders  koren:receipts (see complete.lua)
-- ARGV: function, key, attempt, 1 if only when the lease ran out (else 0), error, ms until the next
--       attempt, ms when the handler was done ('' if it was not), the most receipts kept
-- Returns nil when this attempt has no lease (any more); else {meta, phases}.

local invocation, leased, ready, event, holders, receipts =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local name, attempt, only_expired, problem, delay, done =
  ARGV[1], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]

local has = redis.call('HMGET', invocation, 'attempt', 'subject', 'holder', 'activated',
  'pod_started', 'handler_entered')
if has[1] ~= attempt or not has[3] then
  return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local subject = has[2]
if only_expired == '1' then
  local until_ms = redis.call('ZSCORE', leased, subject)
  if not until_ms or tonumber(until_ms) > now then
    return false
  end
end

local its = redis.call('HMGET', event, 'received', 'durable', 'meta')
local meta = its[3] or '{}'
local phases = { 'received', its[1] or '', 'durable', its[2] or '', 'activated', has[4] or '',
  'pod_started', has[5] or '', 'handler_entered', has[6] or '', 'handler_done', done }
redis.call('XADD', receipts, 'MAXLEN', '~', ARGV[8], '*', 'state', 'failed', 'function', name,
  'attempt', attempt, 'time', now, 'meta', meta, 'error', problem, unpack(phases))

redis.call('HDEL', invocation, 'holder', 'deadline', 'handler_entered')
redis.call('HDEL', holders, has[3])
redis.call('ZREM', leased, subject)
redis.call('ZADD', ready, now + delay, subject)
redis.call('PUBLISH', 'koren:bell', 'f:' .. name)
return { meta, phases }
