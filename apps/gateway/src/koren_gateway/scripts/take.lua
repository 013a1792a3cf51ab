#!lua flags=allow-oom
-- Leases the first due event of a function to a holder (a pod), as its next attempt.
--
-- KEYS: koren:fn:<fn>:ready  koren:fn:<fn>:leased
--       koren:holders          hash: holder -> '<fn>\n<key>\n<attempt>', its one lease
-- ARGV: function, holder, lease ms, timeout ms, grace ms (a lease ends at most so long after the
--       deadline), ms when the pod's process started ('' if unknown)
-- Reads and writes invocation, queue and event (enqueue.lua), and
--       koren:fn:<fn>:init-error why its pods did not start; forgotten, for this one did
--       koren:fn:<fn>:activated  string, ms when the autoscaler was last told 'active'
-- Returns {'held', '<fn>\n<key>\n<attempt>'} when the holder has a lease still,
--         {'none', ms until the next is due or -1},
--         {'taken', key, subject, attempt, deadline ms, body, meta, phases, subjects still due}.

local ready, leased, holders = KEYS[1], KEYS[2], KEYS[3]
local name, holder, lease, timeout, grace, started =
  ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local prefix = 'koren:fn:' .. name

redis.call('DEL', prefix .. ':init-error')
local held = redis.call('HGET', holders, holder)
if held then
  return { 'held', held }
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')
if not first[1] then
  return { 'none', -1 }
end
if tonumber(first[2]) > now then
  return { 'none', tonumber(first[2]) - now }
end

local subject = first[1]
redis.call('ZREM', ready, subject)
local key = redis.call('LINDEX', prefix .. ':queue:' .. subject, 0)
local invocation = prefix .. ':invocation:' .. key
local event = redis.call('HMGET', 'koren:event:' .. key, 'body', 'meta', 'received', 'durable')
local attempt = redis.call('HINCRBY', invocation, 'attempt', 1)
local deadline = now + timeout

-- Only what this event brought about is a phase of it, not how a pod that was there came to be.
local phases = { 'received', event[3] or '', 'durable', event[4] or '' }
local fields = { 'holder', holder, 'deadline', deadline }
local activated = redis.call('GET', prefix .. ':activated')
for _, phase in ipairs({ { 'activated', activated }, { 'pod_started', started } }) do
  local ms = tonumber(phase[2])
  if ms and event[3] and ms >= tonumber(event[3]) then
    fields[#fields + 1], fields[#fields + 2] = phase[1], phase[2]
    phases[#phases + 1], phases[#phases + 2] = phase[1], phase[2]
  end
end
redis.call('HSET', invocation, unpack(fields))
redis.call('ZADD', leased, math.min(now + lease, deadline + grace), subject)
redis.call('HSET', holders, holder, name .. '\n' .. key .. '\n' .. attempt)
return { 'taken', key, subject, attempt, deadline, event[1], event[2], phases,
  redis.call('ZCOUNT', ready, '-inf', now) }
