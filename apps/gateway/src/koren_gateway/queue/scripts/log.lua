#!lua
-- Keeps what a pod wrote, within the function's limit; the oldest goes.
--
-- P: name, pod, text, limit (bytes)

local stream, account = of(P.name, 'log'), 'log:' .. P.name
local bytes = #P.text + 100
redis.call('SADD', 'koren:functions', P.name)
redis.call('XADD', stream, '*', 'pod', P.pod, 'text', P.text, 'bytes', bytes)
redis.call('HINCRBY', 'koren:bytes', account, bytes)
while charged(account) > P.limit do
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not oldest then
    redis.call('HDEL', 'koren:bytes', account)
    break
  end
  redis.call('XDEL', stream, oldest[1])
  redis.call('HINCRBY', 'koren:bytes', account, -tonumber(oldest[2][6] or 0))
end
return 1
