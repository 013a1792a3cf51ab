#!lua
-- Keeps what a pod wrote, within the function's limit; the oldest goes.
--
-- P: name, pod, text, limit (bytes)

local stream, account = of(P.name, 'log'), 'log:' .. P.name
local bytes = #P.text + 100
call('SADD', 'koren:functions', P.name)
call('XADD', stream, '*', 'pod', P.pod, 'text', P.text, 'bytes', bytes)
add_to(account, bytes)
while charged(account) > P.limit do
  local oldest = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not oldest then
    call('HDEL', 'koren:bytes', account)
    break
  end
  call('XDEL', stream, oldest[1])
  add_to(account, -number(oldest[2][6]))
end
return 1
