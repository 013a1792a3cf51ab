#!lua flags=allow-oom
-- Ends an invocation for good: it succeeded, or it failed and is now a dead letter (or, if someone
-- waits for its outcome, just failed). The subject's next event becomes ready.
--
-- KEYS: koren:fn:<fn>:invocation:<key>  koren:fn:<fn>:leased  koren:fn:<fn>:ready
--       koren:event:<key>
--       koren:holders                 see take.lua
--       koren:receipts                stream of receipts not yet published: state, function,
--                                     attempt, time, meta, result or error, and the phases
--       koren:dead                    sorted set of dead letters' ids, by ms when each became one
--       koren:dead:<id>               hash: function ('' when none took it), reason, meta, body,
--                                     attempts, received (ms), time (ms)
--       koren:outcome:<key>           hash: state, result or error; expires
-- ARGV: function, key, attempt, 1 if only when the lease ran out (else 0), state ('succeeded' or
--       'dead-lettered'), result or error for the receipt, the same for who waits,
--       ms when the handler was done ('' if it was not), dead letter's id, outcome kept for ms,
--       closing kept for ms, the most receipts kept
-- Returns nil when this attempt has no lease (any more); else {meta, phases}.

local invocation, leased, ready, event, holders, receipts, dead, letter, outcome =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local name, key, attempt, only_expired, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local told, answered, done, id = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local prefix = 'koren:fn:' .. name

local has = redis.call('HMGET', invocation, 'attempt', 'subject', 'holder', 'once', 'closes',
  'sequence', 'activated', 'pod_started', 'handler_entered')
if has[1] ~= attempt or not has[3] then
  return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local subject, once = has[2], has[4] == '1'
if only_expired == '1' then
  local until_ms = redis.call('ZSCORE', leased, subject)
  if not until_ms or tonumber(until_ms) > now then
    return false
  end
end

local its = redis.call('HMGET', event, 'received', 'durable', 'meta', 'body')
local meta = its[3] or '{}'
local phases = { 'received', its[1] or '', 'durable', its[2] or '', 'activated', has[7] or '',
  'pod_started', has[8] or '', 'handler_entered', has[9] or '', 'handler_done', done }
local field = state == 'succeeded' and 'result' or 'error'

if once then
  redis.call('HSET', outcome, 'state', state, field, answered)
  redis.call('PEXPIRE', outcome, ARGV[10])
  redis.call('PUBLISH', 'koren:bell', 'o:' .. key)
elseif state == 'dead-lettered' then
  redis.call('HSET', letter, 'function', name, 'reason', told, 'meta', meta,
    'body', its[4] or '', 'attempts', attempt, 'received', its[1] or '', 'time', now)
  redis.call('ZADD', dead, now, id)
end
redis.call('XADD', receipts, 'MAXLEN', '~', ARGV[12], '*', 'state', state, 'function', name,
  'attempt', attempt, 'time', now, 'meta', meta, field, told, unpack(phases))

if has[5] == '1' then
  redis.call('ZREM', prefix .. ':incidents', subject)
  redis.call('SET', prefix .. ':closed:' .. subject, has[6] or '', 'PX', ARGV[11])
end
redis.call('DEL', invocation)
redis.call('HDEL', holders, has[3])
redis.call('ZREM', leased, subject)
local queue = prefix .. ':queue:' .. subject
redis.call('LPOP', queue)
if redis.call('EXISTS', queue) == 1 then
  redis.call('ZADD', ready, now, subject)
end
if redis.call('HINCRBY', event, 'refs', -1) <= 0 then
  redis.call('DEL', event)
end
redis.call('PUBLISH', 'koren:bell', 'f:' .. name)
return { meta, phases }
