#!lua
-- Takes a batch of events in, all or none: for each, drops it if it was seen, puts it into the queue
-- of every function that wants it, or among the dead letters, and marks it seen. Refused whole when
-- Redis is full, before the first write.
--
-- KEYS, two an event:
--   koren:seen:<receipt hash>   string, ms when it was received; expires
--   koren:event:<key>           hash: body, meta (JSON of its attributes), received (ms),
--                               refs (functions that are not done with it), durable (ms; later)
-- ARGV[1]                       number of events; then for each event:
--   key, subject, received ms, seen for ms (0: neither looked up nor marked), meta, body,
--   once (1: one attempt, and whoever asked waits for the outcome; else 0),
--   dead letter it comes from ('' if none), reason ('' unless it is to be a dead letter itself),
--   sequence ('' if none), number of functions; then for each function:
--     name, opens (1: it opens an incident), closes (1: it closes one), incident's limit in ms
-- Also writes, for function <fn> (the schema of all scripts):
--   koren:fn:<fn>:queue:<subject>     list of event keys, in order
--   koren:fn:<fn>:ready               sorted set of subjects with work and no lease, by due ms
--   koren:fn:<fn>:leased              sorted set of subjects with work in hand, by lease's end in ms
--   koren:fn:<fn>:invocation:<key>    hash: subject, attempt, holder, deadline, once, closes, …
--   koren:fn:<fn>:incidents           sorted set of open incidents (subjects), by their limit in ms
--   koren:fn:<fn>:closed:<subject>    string, sequence of the event that closed it; expires
--   koren:dead, koren:dead:<id>       see complete.lua
--   koren:bell                        channel: 'f:<fn>' when work of a function changed
-- Returns for each event: 'new', or the ms when it was first received, or 0 when the dead letter it
-- comes from is gone.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers, rung = {}, {}
local at = 1

local function argument()
  at = at + 1
  return ARGV[at]
end

for i = 1, tonumber(ARGV[1]) do
  local seen, event = KEYS[2 * i - 1], KEYS[2 * i]
  local key, subject, received, seen_for = argument(), argument(), argument(), tonumber(argument())
  local meta, body, once, letter, reason = argument(), argument(), argument(), argument(), argument()
  local sequence, functions = argument(), tonumber(argument())
  local first = seen_for > 0 and redis.call('GET', seen)
  if first then
    at = at + 4 * functions
    answers[i] = first
  elseif letter ~= '' and redis.call('ZREM', 'koren:dead', letter) == 0 then
    at = at + 4 * functions
    answers[i] = '0'
  else
    answers[i] = 'new'
    if seen_for > 0 then
      redis.call('SET', seen, received, 'PX', seen_for)
    end
    if letter ~= '' then
      redis.call('DEL', 'koren:dead:' .. letter)
    end
    if reason ~= '' then
      redis.call('HSET', 'koren:dead:' .. key, 'reason', reason, 'meta', meta, 'body', body,
        'received', received, 'time', now)
      redis.call('ZADD', 'koren:dead', now, key)
    end
    if functions > 0 then
      redis.call('HSET', event, 'body', body, 'meta', meta, 'received', received)
      redis.call('HINCRBY', event, 'refs', functions)
    end
    for _ = 1, functions do
      local name, opens, closes, limit = argument(), argument(), argument(), tonumber(argument())
      local prefix = 'koren:fn:' .. name
      redis.call('HSET', prefix .. ':invocation:' .. key,
        'subject', subject, 'attempt', 0, 'once', once, 'closes', closes, 'sequence', sequence)
      if redis.call('RPUSH', prefix .. ':queue:' .. subject, key) == 1 then
        redis.call('ZADD', prefix .. ':ready', now, subject)
      end
      redis.call('ZREMRANGEBYSCORE', prefix .. ':incidents', '-inf', now)
      if opens == '1' then
        -- An opening that comes after its own incident's end (a repeat that was held up) is work,
        -- but opens nothing.
        local closed = redis.call('GET', prefix .. ':closed:' .. subject)
        if not closed or (tonumber(sequence) or 0) > (tonumber(closed) or 0) then
          redis.call('ZADD', prefix .. ':incidents', 'NX', now + limit, subject)
        end
      end
      if not rung[name] then
        rung[name] = true
        redis.call('PUBLISH', 'koren:bell', 'f:' .. name)
      end
    end
  end
end
return answers
