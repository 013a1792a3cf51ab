#!lua flags=allow-oom
-- Sets aside what is of a type that no script makes, so that a fault of the data stops nothing else:
-- the key is renamed to koren:broken:<ms>:<key>.
--
-- P: name (of the function that a script failed for, or '')
-- Returns the keys.

local broken = {}

local function check(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= kind then
    redis.call('RENAME', key, 'koren:broken:' .. now .. ':' .. key)
    broken[#broken + 1] = key
    return false
  end
  return true
end

for key, kind in pairs({
  ['koren:seen'] = 'zset', ['koren:functions'] = 'set', ['koren:gone'] = 'hash',
  ['koren:holders'] = 'hash', ['koren:receipts'] = 'stream', ['koren:dead'] = 'zset',
  ['koren:held'] = 'zset', ['koren:dismissed'] = 'zset', ['koren:bytes'] = 'hash',
  ['koren:dropped'] = 'hash',
}) do
  check(key, kind)
end
if P.name ~= '' then
  for part, kind in pairs({
    ready = 'zset', leased = 'zset', incidents = 'zset', activated = 'string',
    ['init-error'] = 'hash', states = 'zset', ['state-bytes'] = 'hash', log = 'stream', dead = 'zset',
  }) do
    check(of(P.name, part), kind)
  end
  for _, part in ipairs({ 'ready', 'leased' }) do
    for _, subject in ipairs(redis.call('ZRANGE', of(P.name, part), 0, 999)) do
      local queue = of(P.name, 'queue:' .. subject)
      check(of(P.name, 'closed:' .. subject), 'string')
      if check(queue, 'list') then
        for _, key in ipairs(redis.call('LRANGE', queue, 0, 9)) do
          check(of(P.name, 'invocation:' .. key), 'hash')
          check('koren:event:' .. key, 'hash')
        end
      end
    end
  end
end
count_dropped('broken', #broken)
return broken
